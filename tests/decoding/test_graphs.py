"""Recorded passes: lent, filled up, made anew, refused. That no text changes is in the contract."""

import gc
import inspect
import time

import pytest
import torch

from fluoroscope.decoding import Stopping, Target, generate, graphs, make_engine, static_cache
from fluoroscope.decoding.registry import engines
from fluoroscope.decoding.thrift import Thrift
from fluoroscope.probes import capture, wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.decoding.contract import Case, free, own_greedy
from tests.decoding.recording import stand_in
from tests.families import tiny_module


def double_llama():
    return wrap_model(tiny_module("llama").double(), name="double")


def test_a_model_on_a_processor_is_refused(tiny_llama) -> None:
    if tiny_llama.device.type == "cuda":
        pytest.skip("here it can be recorded")
    with pytest.raises(OptionError, match="is on cpu. Open it with device='cuda'"):
        generate(tiny_llama, ids(1)[0], cache="graph")


def test_a_model_that_counts_positions_by_itself_is_refused(monkeypatch) -> None:
    stand_in(monkeypatch)
    model = wrap_model(tiny_module("falcon alibi"), name="alibi", check=False)
    monkeypatch.setattr(type(model.module), "forward", lambda self, input_ids=None, **rest: None)
    with pytest.raises(OptionError, match="told its tokens' positions, which alibi"):
        Target(model, cache="graph")


def test_passes_are_filled_up_to_recorded_sizes(monkeypatch) -> None:
    """Three rows replay a pass over four, and the fourth leaves no trace; more than 64 are run."""
    replayed = stand_in(monkeypatch)
    model, text = double_llama(), ids(1, 9)[0]
    with torch.inference_mode():
        target = Target(model, rolls_back=True, cache="graph")
        target.prefill(text)
        assert replayed == []
        got = target.feed([3, 10, 17], [-1, 0, 0])
        for path in ([0, 1], [0, 2]):
            whole = torch.cat([text, torch.tensor([[3, 10, 17][node] for node in path])])
            torch.testing.assert_close(got[path[-1]], model(whole[None]).logits[0, -1])
        target.commit([0, 2])
        target.extend([5])
        target.extend(range(65))
        assert replayed == [4, 1]
        whole = torch.tensor([*target.ids, 7])
        torch.testing.assert_close(target.extend([7])[-1], model(whole[None]).logits[0, -1])


def test_results_are_no_views_of_what_the_next_replay_writes(monkeypatch) -> None:
    stand_in(monkeypatch)
    with torch.inference_mode():
        target = Target(double_llama(), cache="graph")
        target.prefill(ids(1, 9)[0])
        first = target.extend([3])
        before = first.clone()
        target.extend([4])
    assert torch.equal(first, before)


def test_buffers_are_lent_to_one_text_at_a_time_and_kept(monkeypatch) -> None:
    stand_in(monkeypatch)
    model = double_llama()
    one, other = Target(model, cache="graph"), Target(model, cache="graph")
    lent = [target._passes for target in (one, other)]
    assert lent[0] is not lent[1]
    del one
    gc.collect()
    third = Target(model, cache="graph")
    assert third._passes is lent[0]
    assert other._passes is lent[1]


def test_what_a_text_leaves_behind_is_not_seen_by_the_next(monkeypatch) -> None:
    """Not even numbers that are none: a weight of zero times NaN would be NaN."""
    stand_in(monkeypatch)
    model = double_llama()
    target = Target(model, cache="graph")
    with torch.inference_mode():
        target.prefill(ids(1, 9)[0])
        assert isinstance(target._cache, static_cache.FixedCache)
        for held in target._cache._slabs.values():
            held.buffers.fill_(torch.nan)
    del target
    gc.collect()
    prompt = ids(1, 5)[0]
    made = generate(model, prompt, cache="graph", max_new_tokens=8, ignore_eos=True)[0]
    assert list(made.token_ids) == own_greedy(model, prompt, 8)


def test_recordings_are_made_anew_where_weights_have_moved_or_attention_is_another(
    monkeypatch,
) -> None:
    stand_in(monkeypatch)
    model = double_llama()
    target = Target(model, cache="graph")
    lent = target._passes
    del target
    gc.collect()
    weight = model.module.model.layers[1].mlp.up_proj.weight
    weight.data = weight.data.clone()
    moved = Target(model, cache="graph")._passes
    assert moved is not lent
    gc.collect()
    model.module.set_attn_implementation("eager")
    assert Target(model, cache="graph")._passes is not moved


def test_recordings_are_made_anew_in_longer_buffers(monkeypatch) -> None:
    monkeypatch.setattr(static_cache, "ROOM", 16)
    monkeypatch.setattr(graphs, "FIRST_SIZE", 16)
    monkeypatch.setattr(graphs, "SIZES", (1, 2))
    sizes = []
    stand_in(monkeypatch)
    record = graphs.record

    def watched(call, device):
        sizes.append(target._cache.size)
        return record(call, device)

    monkeypatch.setattr(graphs, "record", watched)
    with torch.inference_mode():
        target = Target(double_llama(), cache="graph")
        target.prefill(ids(1, 9)[0])
        for token in range(24):
            target.extend([token])
    assert sizes == [target._cache.size // 2, target._cache.size]


def test_the_cost_of_recording_is_no_cost_of_drafting(monkeypatch) -> None:
    """A recording takes an hour here; thrift would never draft again if it were a pass's cost."""
    stand_in(monkeypatch)
    record, settled, clock, slept = graphs.record, [], time.perf_counter, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + slept[0])

    def slowly(call, device):
        slept[0] += 3600
        return record(call, device)

    def settle(self, n_drafted, n_emitted, draft_s, verify_s) -> None:
        settled.append(verify_s)

    monkeypatch.setattr(Thrift, "settle", settle)
    engine = make_engine(double_llama(), "suffix", cache="graph")
    engine.prepare()
    monkeypatch.setattr(graphs, "record", slowly)
    graphs._shelf.clear()
    engine.generate(ids(1, 9)[0].repeat(3), stopping=free(6))
    assert settled
    assert slept[0] > 0
    assert max(settled) < 3600


def test_watched_passes_are_run(monkeypatch) -> None:
    """Hooks, ports of attention patterns and exchanged forwards see passes as they are."""
    replayed = stand_in(monkeypatch)
    model = double_llama()
    with torch.inference_mode():
        target = Target(model, cache="graph")
        target.prefill(ids(1, 9)[0])
        for site in ("layers.1.resid_post", "layers.0.attn.pattern"):
            with capture(model, site) as acts:
                target.extend([3])
            assert site in acts
        layer = model.module.model.layers[0].mlp
        layer.forward = layer.forward
        target.extend([3])
        del layer.forward
        assert replayed == []
        target.extend([3])
    assert replayed == [1]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@needs_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("engine", [e.name for e in engines()])
def test_replayed_texts_on_a_gpu_are_those_of_passes(engine: str) -> None:
    """Float64, twice in a row: the second text is lent the first one's recordings."""
    case = Case(engine)
    if not case.has("cache"):
        pytest.skip("this engine has another kind of target")
    target = wrap_model(tiny_module("llama").double().cuda(), name="on the GPU")
    options = {}
    if case.has("draft"):
        options["draft"] = wrap_model(tiny_module("llama", seed=7).double().cuda(), name="draft")
    prompt = ids(1, 9)[0].repeat(2)
    made = case.make(target, cache="graph", **options)
    for text in (made.generate(prompt, stopping=free(40))[0] for _ in range(2)):
        assert text.stats.n_faults == 0
        if case.lossless:
            assert list(text.token_ids) == own_greedy(target, prompt, 40)


@needs_gpu
@pytest.mark.gpu
def test_a_pass_that_waits_for_the_gpu_cannot_be_recorded() -> None:
    """The refusal says so, and the GPU goes on working."""
    model = wrap_model(tiny_module("llama").cuda(), name="asks")
    own = type(model.module).forward

    class Asking(type(model.module)):
        def forward(self, input_ids: torch.Tensor, **rest):
            if int(input_ids.sum()) < 0:
                raise ValueError
            return own(self, input_ids, **rest)

        forward.__signature__ = inspect.signature(own)

    model.module.__class__ = Asking
    rules = Stopping(max_new_tokens=8, ignore_eos=True)
    with pytest.raises(OptionError, match="cannot be recorded as CUDA graphs"):
        make_engine(model, "plain", cache="graph").generate(ids(1)[0], stopping=rules)
    assert len(make_engine(model, "plain").generate(ids(1)[0], stopping=rules)[0].token_ids) == 8
