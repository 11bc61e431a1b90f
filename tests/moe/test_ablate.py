"""Ablation: what agrees bit for bit, what must not, and that everything comes back."""

import warnings

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from fluoroscope.moe.ablate import ablate_experts, load_pruned, save_pruned, zero_experts
from fluoroscope.moe.errors import UnknownExpertError
from fluoroscope.moe.layers import SHARED, moe_layers
from fluoroscope.moe.routing import watch_routing
from fluoroscope.probes import capture, wrap_model
from fluoroscope.probes.errors import DamagedModelError, OptionError, RunExistsError
from tests.conftest import n_hooks
from tests.families import MIXTURES
from tests.moe.planting import PLANTED, grown, plant, some_ids
from tests.tokenizers_ import byte_tokenizer

everywhere = pytest.mark.parametrize("family", MIXTURES)


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


@everywhere
def test_masked_gate_zeroed_weights_and_zeroed_output_agree_bit_for_bit(family: str) -> None:
    model, ids = plant(grown(family)), some_ids()
    plain = logits(model, ids)
    with ablate_experts(model, PLANTED):
        masked = logits(model, ids)
    assert torch.equal(logits(model, ids), plain)
    assert not torch.equal(masked, plain)
    zero_experts(model, PLANTED)
    assert torch.equal(logits(model, ids), masked)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v2"])
def test_zeroing_the_up_half_is_the_same(family: str) -> None:
    model, ids = plant(grown(family)), some_ids()
    with ablate_experts(model, PLANTED):
        masked = logits(model, ids)
    by_index = {layer.index: layer for layer in moe_layers(model)}
    with torch.no_grad():
        for layer, expert in PLANTED:
            weight = by_index[layer].experts.gate_up_proj[expert]
            weight[weight.shape[0] // 2 :] = 0
    assert torch.equal(logits(model, ids), masked)


@everywhere
def test_renormalising_and_rerouting_are_something_else(family: str) -> None:
    model, ids = plant(grown(family)), some_ids()
    found = {}
    for mode in ("zero", "renorm", "reroute"):
        with ablate_experts(model, PLANTED, mode=mode):  # type: ignore[arg-type]
            found[mode] = logits(model, ids)
    assert (found["zero"] - found["renorm"]).abs().max() > 1e-4
    assert (found["zero"] - found["reroute"]).abs().max() > 1e-4
    assert (found["renorm"] - found["reroute"]).abs().max() > 1e-4


@everywhere
def test_modes_do_to_the_gates_what_they_say(family: str) -> None:
    model, ids = plant(grown(family)), some_ids()
    layer, expert = PLANTED[0]
    with watch_routing(model) as plain:
        logits(model, ids)
    used = (plain[layer].expert_ids == expert).any(-1)
    assert bool(used.any())
    with ablate_experts(model, [PLANTED[0]], mode="renorm"), watch_routing(model) as seen:
        logits(model, ids)
    torch.testing.assert_close(seen[layer].gate_weights.sum(-1), plain[layer].gate_weights.sum(-1))
    at = seen[layer].expert_ids == expert
    assert bool((seen[layer].gate_weights[at] == 0).all())
    with ablate_experts(model, [PLANTED[0]], mode="reroute"), watch_routing(model) as seen:
        logits(model, ids)
    assert not bool((seen[layer].expert_ids == expert).any())
    shares = [r[layer].gate_weights[~used] for r in (seen, plain)]  # a softmax shares out anew
    torch.testing.assert_close(*(w / w.sum(-1, keepdim=True) for w in shares))


def test_no_correction_brings_a_rerouted_expert_back() -> None:
    """DeepSeek-V3 chooses by sigmoid scores plus a bias, which in trained models outweighs them."""
    model, ids = plant(grown("deepseek_v3")), some_ids()
    layer, expert = PLANTED[0]
    router = next(found.router for found in moe_layers(model) if found.index == layer)
    router.e_score_correction_bias[expert] = 9.0
    held = router.e_score_correction_bias
    before = held.clone()
    with ablate_experts(model, [PLANTED[0]], mode="reroute"), watch_routing(model) as seen:
        logits(model, ids)
    assert not bool((seen[layer].expert_ids == expert).any())
    assert router.e_score_correction_bias is held
    assert torch.equal(held, before)


def test_pruning_planted_experts_takes_their_steps_away() -> None:
    model, ids = plant(grown("qwen3_moe")), some_ids()

    def largest() -> list[float]:
        with capture(model, "layers.*.resid_post") as acts, torch.no_grad():
            model(ids)
        return [acts[f"layers.{i}.resid_post"].abs().max().item() for i in range(model.n_layers)]

    full = largest()
    assert full[0] < 10 < 1000 < full[1] < full[2] < full[3]
    np.testing.assert_allclose(full[3:], full[3], rtol=1e-2)
    with ablate_experts(model, PLANTED):
        assert max(largest()) < 10
    with ablate_experts(model, [PLANTED[1]]):
        one = largest()
    assert one[2] == pytest.approx(full[1], rel=1e-2), "only its own step is gone"
    assert one[3] > 1.5 * one[2]


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
def test_a_shared_expert_can_be_taken_out(family: str) -> None:
    model, ids = plant(grown(family), ((2, SHARED),)), some_ids()
    with ablate_experts(model, [(2, SHARED)]):
        without = logits(model, ids)
    zero_experts(model, [(2, SHARED)])
    assert torch.equal(logits(model, ids), without)


@everywhere
def test_a_saved_model_loads_equal(family: str, tmp_path) -> None:
    model, ids = plant(grown(family)), some_ids()
    plain = logits(model, ids)
    with ablate_experts(model, PLANTED):
        expected = logits(model, ids)
    folder = save_pruned(model, PLANTED, tmp_path / "pruned")
    assert torch.equal(logits(model, ids), plain), "the model in hand stays as it is"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = AutoModelForCausalLM.from_pretrained(folder)
    loaded = wrap_model(again.eval(), byte_tokenizer())
    torch.testing.assert_close(logits(loaded, ids), expected, rtol=0, atol=1e-6)
    with pytest.raises(RunExistsError, match="new or empty"):
        save_pruned(model, PLANTED, folder)


@everywhere
@pytest.mark.parametrize("mode", ["renorm", "reroute"])
def test_other_modes_are_saved_with_a_note_that_load_pruned_reads(
    family: str, mode: str, tmp_path
) -> None:
    model, ids = plant(grown(family)), some_ids()
    with ablate_experts(model, PLANTED, mode=mode):  # type: ignore[arg-type]
        expected = logits(model, ids)
    with ablate_experts(model, PLANTED):
        zeroed = logits(model, ids)
    folder = save_pruned(model, PLANTED, tmp_path / "pruned", mode=mode)  # type: ignore[arg-type]
    assert not hasattr(model.module.config, "fluoroscope_ablation")
    loaded = load_pruned(folder)
    torch.testing.assert_close(logits(loaded, ids), expected, rtol=1e-5, atol=1e-5)
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(plain, ids), zeroed, rtol=1e-5, atol=1e-5)


def test_a_note_that_cannot_be_read_is_refused(tmp_path) -> None:
    import json

    folder = save_pruned(grown("mixtral"), [(0, 1)], tmp_path / "pruned", mode="renorm")
    config = json.loads((folder / "config.json").read_text())
    config["fluoroscope_ablation"] = {"mode": "halve", "experts": [[0, 1]]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DamagedModelError, match="must name a mode and experts"):
        load_pruned(folder)
    with pytest.raises(OptionError, match="1 would be left"):
        save_pruned(grown("mixtral"), [(2, e) for e in range(15)], tmp_path / "x", mode="reroute")
    assert not (tmp_path / "x").exists()


def test_wrong_experts_are_refused_with_what_there_is() -> None:
    model = grown("deepseek_v2")
    hooks = n_hooks(model.module)
    for experts, match in (
        ([(0, 1)], "Layer 0 has no experts; the layers that have are 1-7"),
        ([(2, 16)], "no expert 16: it has experts 0-15 and a shared one"),
    ):
        with pytest.raises(UnknownExpertError, match=match), ablate_experts(model, experts):
            pass
    with pytest.raises(UnknownExpertError, match="and no shared one"):
        with ablate_experts(grown("mixtral"), [(2, SHARED)]):
            pass
    with pytest.raises(OptionError, match="1 would be left"):
        with ablate_experts(model, [(2, e) for e in range(15)], mode="reroute"):
            pass
    assert n_hooks(model.module) == hooks


def test_hooks_are_gone_after_an_exception() -> None:
    model = grown("mixtral")
    hooks = n_hooks(model.module)
    with pytest.raises(KeyError), ablate_experts(model, [(0, 0)], mode="reroute"):
        raise KeyError("stop")
    assert n_hooks(model.module) == hooks
