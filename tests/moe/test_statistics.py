"""Expert statistics: against the models' own numbers, and what they must not depend on."""

from typing import Any

import pytest
import torch
from torch import Tensor

from fluoroscope.moe import identity
from fluoroscope.moe.errors import NoExpertsError
from fluoroscope.moe.identity import check_identity, require_identity
from fluoroscope.moe.layers import moe_layers, run_expert
from fluoroscope.moe.routing import as_logits, watch_routing
from fluoroscope.moe.statistics import ExpertStatistics, expert_statistics
from fluoroscope.probes import Model, capture, wrap_model
from fluoroscope.probes.errors import SiteCheckError
from tests.conftest import n_hooks
from tests.families import MIXTURES, tiny_module
from tests.moe.planting import BOS, GROWN, N_EXPERTS, grown, some_ids
from tests.tokenizers_ import byte_tokenizer

everywhere = pytest.mark.parametrize("family", MIXTURES)


@torch.no_grad()
def statistics(model: Model, *batches: Tensor, **options: object) -> ExpertStatistics:
    with expert_statistics(model, **options) as found:  # type: ignore[arg-type]
        for ids in batches:
            model(ids, use_cache=False)
    return found


@everywhere
def test_maxima_are_those_of_the_captured_expert_outputs(family: str) -> None:
    model, ids = grown(family), some_ids(3, 12)
    found = statistics(model, ids)
    for number, layer in enumerate(moe_layers(model)):
        name = f"layers.{layer.index}.experts.out"
        with capture(model, name) as acts, watch_routing(model) as routing, torch.no_grad():
            model(ids)
        outputs = acts[name].flatten(0, 1)
        chosen = routing[layer.index].expert_ids
        for expert in range(layer.n_experts):
            rows, slots = torch.where(chosen == expert)
            own = outputs[rows, slots].abs()
            expected = own.max().item() if len(rows) else 0.0
            assert found.maxima[number, expert].item() == pytest.approx(expected, rel=1e-4)
            assert found.load[number, expert].item() == len(rows)
            if len(rows):
                row, channel = divmod(int(own.argmax()), own.shape[1])
                at = int(rows[row])
                assert found.channels[number, expert].item() == channel
                assert found.positions[number, expert].item() == at % ids.shape[1]
                assert found.texts[number, expert].item() == at // ids.shape[1]
                assert found.tokens[number, expert].item() == ids.flatten()[at]
                weight = routing[layer.index].gate_weights[at, slots[row]].item()
                assert found.gate_weights[number, expert].item() == pytest.approx(weight, rel=1e-4)


@everywhere
def test_neurons_add_up_to_the_maximum(family: str) -> None:
    model = grown(family)
    layer = moe_layers(model)[0]
    width = layer.down.shape[-1]
    found = statistics(model, some_ids(), n_neurons=width)
    bias = torch.zeros(N_EXPERTS, layer.down.shape[1])
    if getattr(layer.experts, "has_bias", False):
        bias = layer.experts.down_proj_bias.detach()
    for expert in range(N_EXPERTS):
        if found.load[0, expert]:
            total = found.contributions[0, expert].sum() + bias[expert, found.channels[0, expert]]
            assert total.item() == pytest.approx(found.values[0, expert].item(), rel=1e-3)
            sizes = found.contributions[0, expert].abs()
            assert bool((sizes[:-1] >= sizes[1:]).all())


@everywhere
def test_the_model_computes_the_same_while_watched_and_is_as_before(family: str) -> None:
    model, ids = grown(family), some_ids()
    hooks = n_hooks(model.module)
    with torch.no_grad():
        plain = model(ids).logits
        with expert_statistics(model):
            watched = model(ids).logits
        after = model(ids).logits
    torch.testing.assert_close(watched, plain, rtol=1e-3, atol=2e-5)
    assert torch.equal(plain, after)
    assert n_hooks(model.module) == hooks
    assert not any("forward" in vars(layer.experts) for layer in moe_layers(model))


def test_what_was_replaced_comes_back_after_an_exception() -> None:
    model = grown("mixtral")
    hooks = n_hooks(model.module)
    with pytest.raises(KeyError), expert_statistics(model):
        raise KeyError("stop")
    assert n_hooks(model.module) == hooks
    assert not any("forward" in vars(layer.experts) for layer in moe_layers(model))


@everywhere
def test_identity_holds(family: str) -> None:
    model = grown(family)
    assert check_identity(model) < 1e-5


def test_a_wrong_layout_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(experts: Any, expert: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        hidden, out = run_expert(experts, expert, rows)
        return hidden, out.flip(-1)

    monkeypatch.setattr(identity, "run_expert", swapped)
    with pytest.raises(SiteCheckError, match="Layer 0 of mixtral"):
        check_identity(grown("mixtral"))


def test_identity_is_checked_once_per_module(monkeypatch: pytest.MonkeyPatch) -> None:
    model = grown("olmoe")
    first = require_identity(model)
    monkeypatch.setattr(identity, "check_identity", None)
    assert require_identity(model) == first


@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v3"])
def test_the_shared_expert_has_the_last_column(family: str) -> None:
    model, ids = grown(family), some_ids(2, 6)
    layer = moe_layers(model)[0]
    seen: list[Tensor] = []
    handle = layer.shared.register_forward_hook(lambda m, a, out: seen.append(out))
    found = statistics(model, ids)
    handle.remove()
    assert found.maxima[0, -1].item() == pytest.approx(seen[0].abs().max().item(), rel=1e-5)
    assert found.load[0, -1].item() == ids.numel()


def test_the_shared_experts_gate_weight_is_its_sigmoids() -> None:
    """Qwen2-MoE multiplies its shared expert by a sigmoid of its own; DeepSeek adds it as it is."""
    model, ids = grown("qwen2_moe"), some_ids(2, 6)
    layer = moe_layers(model)[0]
    seen: list[Tensor] = []
    assert layer.shared_gate is not None
    handle = layer.block.register_forward_pre_hook(lambda m, a: seen.append(a[0].flatten(0, -2)))
    found = statistics(model, ids)
    handle.remove()
    with torch.no_grad():
        gates = layer.shared_gate(seen[0]).sigmoid()[:, 0]
    at = int(found.texts[0, -1]) * 6 + int(found.positions[0, -1])
    assert found.gate_weights[0, -1].item() == pytest.approx(gates[at].item(), rel=1e-5)
    assert found.gate_sums[0, -1].item() == pytest.approx(gates.sum().item(), rel=1e-5)
    plain = statistics(grown("deepseek_v3"), ids)
    assert plain.gate_sums[0, -1].item() == ids.numel()


@pytest.mark.parametrize("split", [(1, 1, 1, 1), (3, 1)])
def test_any_split_into_batches_gives_the_same(split: tuple[int, ...]) -> None:
    model, ids = grown("qwen3_moe"), some_ids()
    whole, parts = statistics(model, ids), statistics(model, *ids.split(split))
    _require_same(whole, parts)
    turned = statistics(model, *reversed(ids.split(split)))
    torch.testing.assert_close(whole.maxima, turned.maxima, rtol=1e-4, atol=1e-6)
    assert torch.equal(whole.load, turned.load)


def _require_same(a: ExpertStatistics, b: ExpertStatistics) -> None:
    torch.testing.assert_close(a.maxima, b.maxima, rtol=1e-4, atol=1e-6)
    for name in ("positions", "tokens", "channels", "load", "first_load", "coactive"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name
    later = a.positions > 0  # all texts begin with the same token, whose outputs tie
    assert torch.equal(a.texts[later], b.texts[later])
    assert (a.n_tokens, a.n_texts) == (b.n_tokens, b.n_texts)


def test_padding_counts_nowhere() -> None:
    model, ids = grown("mixtral"), some_ids(3, 8)
    alone = statistics(model, ids)
    for left in (False, True):
        padding = torch.full((3, 5), 77)
        padded = torch.cat([padding, ids] if left else [ids, padding], dim=1)
        mask = torch.cat([torch.zeros(3, 5), torch.ones(3, 8)][:: 1 if left else -1], 1).long()
        with expert_statistics(model) as found, torch.no_grad():
            model(padded, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
        assert found.n_tokens == 24
        torch.testing.assert_close(found.maxima, alone.maxima, rtol=1e-3, atol=1e-5)
        for name in ("positions", "tokens", "load", "first_load", "coactive"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), (left, name)


def test_more_text_never_lowers_a_maximum() -> None:
    model = grown("deepseek_v2")
    few, more = statistics(model, some_ids()), statistics(model, some_ids(), some_ids(seed=1))
    assert bool((more.maxima >= few.maxima - 1e-6).all())


def test_experts_may_be_numbered_anyhow() -> None:
    model, ids = grown("mixtral"), some_ids()
    before = statistics(model, ids)
    order = torch.randperm(N_EXPERTS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        for layer in moe_layers(model):
            layer.router.weight.copy_(layer.router.weight[order])
            for name in ("gate_up_proj", "down_proj"):
                weight = getattr(layer.experts, name)
                weight.copy_(weight[order])
    after = statistics(model, ids)
    torch.testing.assert_close(
        after.maxima[:, :-1], before.maxima[:, :-1][:, order], rtol=1e-4, atol=1e-6
    )
    assert torch.equal(after.load[:, :-1], before.load[:, :-1][:, order])


@everywhere
def test_load_and_coactivation_add_up(family: str) -> None:
    model, ids = grown(family), some_ids()
    found = statistics(model, ids)
    n_active = moe_layers(model)[0].n_active
    routed = found.load[:, :N_EXPERTS]
    assert bool((routed.sum(1) == ids.numel() * n_active).all())
    assert bool((found.first_load[:, :N_EXPERTS].sum(1) == len(ids) * n_active).all())
    assert torch.equal(found.coactive.diagonal(dim1=1, dim2=2), routed)
    assert torch.equal(found.coactive, found.coactive.transpose(1, 2))
    assert bool((found.coactive.sum(2) == n_active * routed).all())


def test_first_dispatched_is_the_row_the_official_hook_sees() -> None:
    model, ids = grown("mixtral"), some_ids(2, 16)
    found = statistics(model, ids, rows="first_dispatched")
    layer = moe_layers(model)[0]
    inputs: list[Tensor] = []
    handle = layer.experts.register_forward_hook(lambda m, a, out: inputs.extend(a[:2]))
    with torch.no_grad():
        model(ids)
    handle.remove()
    hidden, chosen = inputs
    for expert in range(N_EXPERTS):
        _, rows = (expert == chosen.T).nonzero(
            as_tuple=True
        )  # slot-major, as transformers 4 dispatched
        if len(rows):
            with torch.no_grad():
                _, out = run_expert(layer.experts, expert, hidden[rows[:1]])
            expected = out.abs().max().item()
            assert found.maxima[0, expert].item() == pytest.approx(expected, rel=1e-4)


def test_naive_hooks_see_no_routed_expert() -> None:
    """A canary: were experts modules again, plain hooks would do, and this room could be simpler."""
    for family in GROWN:
        module = grown(family).module
        parts = [name for name, _ in module.named_modules() if "experts." in name]
        routed = [name for name in parts if "shared_experts" not in name]
        assert all(name.endswith("act_fn") for name in routed), family


@everywhere
def test_router_logits_are_logits(family: str) -> None:
    model = grown(family)
    with watch_routing(model) as routing, torch.no_grad():
        model(some_ids())
    for decided in routing.values():
        sums = decided.router_logits.sum(-1)
        assert not torch.allclose(sums, torch.ones_like(sums), atol=1e-2)
        assert bool((decided.gate_weights[:, :-1] >= decided.gate_weights[:, 1:]).all())


def test_probabilities_called_logits_are_told_and_undone() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert as_logits(logits) is logits
    torch.testing.assert_close(as_logits(logits.softmax(-1)), logits.log_softmax(-1))


def test_generation_with_a_cache_counts_every_token_once() -> None:
    model = grown("qwen3_moe")
    with expert_statistics(model) as found, torch.no_grad():
        model.generate(some_ids(1, 6), max_new_tokens=5, min_new_tokens=5, do_sample=False)
    assert found.n_tokens == 6 + 4
    assert found.n_texts == 1
    assert int(found.first_load[:, :N_EXPERTS].sum()) == 2 * len(found.layers)
    assert int(found.positions.max()) > 5, "some maximum stands on a generated token"
    assert set(found.texts[found.maxima > 0].tolist()) == {0}


def test_a_dense_model_is_refused_with_what_it_has() -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="small")
    with pytest.raises(NoExpertsError, match="small must have .* is dense: 3 layers"):
        statistics(model, some_ids())


def test_the_first_token_alone_counts_where_asked() -> None:
    model = grown("olmoe")
    found = statistics(model, some_ids(), rows="first")
    held = found.positions[found.maxima > 0]
    assert bool((held == 0).all())
    assert bool((found.tokens[found.maxima > 0] == BOS).all())
