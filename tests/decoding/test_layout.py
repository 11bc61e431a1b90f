"""Layouts, the growing cache and cost curves: same numbers, nothing left behind, stale files mended."""

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from fluoroscope.decoding import Thrift, choose_layout, cost, layout, make_engine
from fluoroscope.decoding.cost import cost_curve, forget_curve
from fluoroscope.decoding.growing_cache import ROOM, growing_cache
from fluoroscope.decoding.layout import Copy, laid_out, layouts_for
from fluoroscope.probes import Model, capture, wrap_model
from tests.conftest import ids
from tests.decoding.contract import free
from tests.families import tiny_module


def linear(d_in: int = 48, d_out: int = 80, *, bias: bool = True) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(d_in, d_out, bias=bias).requires_grad_(False)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 17, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_maps_multiply_as_plain_ones(n: int, bias: bool) -> None:
    """Float32 rounding: 1e-5. Batches keep their shape, and the rows filled in are not seen."""
    part = linear(bias=bias)
    copy = Copy(part, torch.float32)
    for _ in range(2):
        x = torch.randn(1, n, 48)
        out = copy.multiply(x, part.bias)
        assert out.shape == (1, n, 80)
        torch.testing.assert_close(out, part(x), rtol=1e-5, atol=1e-5)


def test_bf16_rounds_weights_and_inputs_and_nothing_else() -> None:
    """Sums are in float32, the result is rounded once to bfloat16: one unit in the last place, 2^-8."""
    part, x = linear(), torch.randn(7, 48)
    exact = x.bfloat16().double() @ part.weight.bfloat16().double().T + part.bias.double()
    out = Copy(part, torch.bfloat16).multiply(x, part.bias)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=2**-8)


def test_a_layout_is_seen_by_hooks_and_gone_afterwards(tiny_llama: Model) -> None:
    module = tiny_llama.module
    before = {name: value.clone() for name, value in module.state_dict().items()}
    strides = [value.stride() for value in module.state_dict().values()]
    with torch.no_grad(), capture(tiny_llama, "layers.*.mlp.hidden") as plain:
        tiny_llama(ids())
    used = []
    with torch.no_grad(), laid_out(module, "packed"):
        assert all("forward" in part.__dict__ for part in layout.linears(module))
        with laid_out(module, "plain"):
            used.append("forward" in module.lm_head.__dict__)
        used.append("forward" in module.lm_head.__dict__)
        with capture(tiny_llama, "layers.*.mlp.hidden") as packed:
            tiny_llama(ids())
    assert used == [False, True]
    assert not any("forward" in part.__dict__ for part in module.modules())
    for site in plain:
        torch.testing.assert_close(packed[site], plain[site], rtol=1e-4, atol=1e-5)
    assert [value.stride() for value in module.state_dict().values()] == strides
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


def test_overlapping_streams_of_one_model_end_in_any_order(tiny_llama: Model) -> None:
    texts = []
    for order in ((0, 1), (1, 0)):
        engines = [make_engine(tiny_llama, "plain", layout=name) for name in ("packed", "bf16")]
        streams = [engine.stream("abab", stopping=free(4)) for engine in engines]
        begun = [next(stream).id for stream in streams]
        assert not torch.is_inference_mode_enabled()
        rest = {number: [token.id for token in streams[number]] for number in order}
        texts.append((begun, rest[0], rest[1]))
        assert not any("forward" in part.__dict__ for part in tiny_llama.module.modules())
    assert texts[0][0] == texts[1][0]


def test_changed_weights_are_copied_anew_and_gradients_take_the_models_own_way() -> None:
    model = nn.Sequential(linear())
    x = torch.randn(2, 48)
    with torch.no_grad(), laid_out(model, "packed"):
        first = model(x)
    model[0].weight.mul_(2)
    with torch.no_grad(), laid_out(model, "packed"):
        assert not torch.allclose(model(x), first)
        torch.testing.assert_close(
            model(x), nn.functional.linear(x, model[0].weight, model[0].bias)
        )
    x.requires_grad_()
    with laid_out(model, "packed"):
        model(x).sum().backward()
    assert x.grad is not None


def test_only_what_can_gain_is_laid_out(tiny_llama: Model) -> None:
    """Small models stay in the caches; double precision and other maps stay as they are."""
    assert layouts_for(tiny_llama.module) == ("plain",)
    assert choose_layout(tiny_llama) == "plain"
    assert layout.linears(nn.Sequential(linear().double(), nn.Bilinear(2, 2, 2))) == []


def test_auto_takes_the_cheaper_layout(tiny_llama: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "LEAST_BYTES", 0)
    for cheap in ("plain", "packed"):
        curves = {
            name: cost.CostCurve((1, 64), (0.5, 1.0) if name == cheap else (1.0, 2.0))
            for name in ("plain", "packed")
        }
        cost._choices.clear()
        monkeypatch.setattr(cost, "cost_curve", lambda model, name, curves=curves: curves[name])
        assert choose_layout(tiny_llama) == cheap
        assert make_engine(tiny_llama, "suffix").layout == cheap


def test_bf16_decodes_the_model_with_rounded_weights(tiny_llama: Model) -> None:
    """Verification and plain decoding agree in it too."""
    texts = [
        make_engine(tiny_llama, name, layout="bf16")
        .generate("abab", stopping=free(12))[0]
        .token_ids
        for name in ("plain", "suffix", "token-recycling")
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_growing_cache_holds_what_a_dynamic_one_holds() -> None:
    """Through growth beyond its room, cuts, and writing again; transformers' cache is the peer."""
    model = wrap_model(tiny_module("llama", max_position_embeddings=3 * ROOM).double())
    grown, peer = growing_cache(), DynamicCache()
    text = ids(1, 2 * ROOM + 40)
    with torch.no_grad():
        for start, stop, cut in ((0, 9, 0), (9, 10, 1), (9, 14, 3), (11, 2 * ROOM + 20, 7)):
            for cache in (grown, peer):
                model(text[:, start:stop], past_key_values=cache, use_cache=True)
                cache.crop(-cut)
            assert grown.get_seq_length() == peer.get_seq_length() == stop - cut
            for one, other in zip(grown.layers, peer.layers, strict=True):
                assert torch.equal(one.keys, other.keys)
                assert torch.equal(one.values, other.values)


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """A model that passes for one opened from files; curves go to a folder of the test's own."""
    monkeypatch.setenv("FLUOROSCOPE_CACHE", str(tmp_path))
    model = wrap_model(tiny_module("llama"))
    model._weights_digest = "0" * 64
    return model


def test_curves_are_measured_once_kept_and_measured_anew_when_stale(
    kept: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    def measure(model: Model, name: str, sizes: object) -> cost.CostCurve:
        measured.append(name)
        return cost.CostCurve((1, 2), (1.0, 1.0 + len(measured)))

    def curve(name: str = "plain") -> cost.CostCurve:
        """Read as another process would."""
        cost._curves.clear()
        return cost_curve(kept, name)

    monkeypatch.setattr(cost, "_measure", measure)
    first = curve()
    assert curve() == first
    curve("packed")
    assert measured == ["plain", "packed"]
    (place,) = [
        p for p in (tmp_path / "costs").iterdir() if json.loads(p.read_text())["times"][1] == 2
    ]
    place.write_text("{")
    curve()
    os.utime(place, (time.time(), time.time() - cost.MAX_AGE - 60))
    curve()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 63)
    curve()
    forget_curve(kept, "plain")
    curve()
    assert measured == ["plain", "packed", *["plain"] * 4]
    assert not [*(tmp_path / "costs").glob("*.part")]


def test_what_takes_long_to_measure_is_told_of(
    kept: Model, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "fluoroscope")
    cost_curve(kept, "plain")
    assert not caplog.messages, "milliseconds"
    monkeypatch.setattr(cost, "LONG_S", 0.0)
    cost_curve(kept, "packed")
    cost_curve(wrap_model(tiny_module("llama"), name="made here"), "plain")
    assert caplog.messages == [
        "Measuring what a pass of model costs here, packed weights (kept for 30 days).",
        "Measuring what a pass of made here costs here, plain weights (not kept).",
    ]


def test_a_model_made_in_memory_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_llama: Model
) -> None:
    monkeypatch.setenv("FLUOROSCOPE_CACHE", str(tmp_path))
    curve = cost_curve(tiny_llama)
    assert curve is cost_curve(tiny_llama)
    assert list(curve.times) == sorted(curve.times)
    assert not [*tmp_path.iterdir()]


def test_a_curve_found_wrong_is_measured_anew_once(
    tiny_llama: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine whose passes never cost what they cost before is not measured before every text."""
    monkeypatch.setattr(Thrift, "misjudges", True)
    engine = make_engine(tiny_llama, "suffix")
    curves = []
    for _ in range(3):
        engine.generate(ids(1)[0], stopping=free(4))
        curves.append(cost_curve(tiny_llama))
    assert curves[0] is not curves[1]
    assert curves[1] is curves[2]
