"""Carving: equal to the dense model with all experts active, standard to load, balanced groups."""

import warnings

import pytest
import torch
from transformers import AutoModelForCausalLM

from fluoroscope.moe.carve import CarveOptions, active_experts, carve, fit_router
from fluoroscope.moe.criterion import CriterionOptions
from fluoroscope.moe.grouping import balanced_clusters, group_neurons
from fluoroscope.moe.layers import moe_layers
from fluoroscope.moe.profile import profile_experts
from fluoroscope.probes import open_corpus, wrap_model
from fluoroscope.probes.batching import windows
from fluoroscope.probes.errors import OptionError, UnsupportedArchitectureError
from fluoroscope.probes.readings import Texts, next_token
from tests.families import tiny_module
from tests.moe.planting import some_ids
from tests.moe.test_criterion import texts
from tests.tokenizers_ import byte_tokenizer

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def dense(family: str):
    return wrap_model(tiny_module(family), byte_tokenizer(), name=family)


@torch.no_grad()
def logits(model, ids):
    return model(ids).logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("grouping", ["coactivation", "weights", "random"])
def test_all_experts_together_are_the_dense_model(family: str, grouping: str) -> None:
    model, ids = dense(family), some_ids()
    options = CarveOptions(n_experts=4, grouping=grouping)  # type: ignore[arg-type]
    made = carve(model, texts(), options)
    expected = logits(model, ids)
    with active_experts(made.model, 4):
        torch.testing.assert_close(logits(made.model, ids), expected, rtol=1e-4, atol=1e-5)
    error = (logits(made.model, ids) - expected).abs().max()
    assert error < 5e-3 * expected.abs().max(), "gates differ by the spread at most"
    assert error > 0, "a fitted router must not be zero"
    flat = made.groups.flatten(1).sort(dim=1).values
    assert torch.equal(flat, torch.arange(48).expand(3, -1)), "each neuron in exactly one expert"


@pytest.mark.parametrize("family", FAMILIES)
def test_from_pretrained_loads_what_was_carved(family: str, tmp_path) -> None:
    made = carve(dense(family), texts(), CarveOptions(n_experts=4, n_active=2))
    made.model.module.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = wrap_model(AutoModelForCausalLM.from_pretrained(tmp_path).eval(), byte_tokenizer())
    ids = some_ids()
    torch.testing.assert_close(logits(again, ids), logits(made.model, ids), rtol=0, atol=1e-6)
    assert moe_layers(again)[0].n_active == 2


def test_fewer_experts_compute_the_chosen_neurons_alone() -> None:
    model, ids = dense("llama"), some_ids(1, 5)
    made = carve(model, texts(), CarveOptions(n_experts=4, n_active=1))
    layer = moe_layers(made.model)[0]
    inputs: list[torch.Tensor] = []
    outputs: list[torch.Tensor] = []

    def see(module, args, out) -> None:
        inputs.extend(args)
        outputs.append(out)

    handle = layer.experts.register_forward_hook(see)
    logits(made.model, ids)
    handle.remove()
    mlp = model.module.get_submodule("model.layers.0.mlp")
    with torch.no_grad():
        gate, up = mlp.gate_proj(inputs[0]), mlp.up_proj(inputs[0])  # type: ignore[operator]
        hidden = mlp.act_fn(gate) * up  # type: ignore[operator]
        for row in range(5):
            chosen = made.groups[0, int(inputs[1][row, 0])]
            expected = hidden[row, chosen] @ mlp.down_proj.weight[:, chosen].T  # type: ignore[union-attr,index]
            torch.testing.assert_close(outputs[0][row], expected, rtol=5e-3, atol=1e-6)


def test_planted_groups_are_found_again() -> None:
    """Neurons that fire on one token set each are put together, whatever their order."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.randperm(40, generator=generator) % 4
    hidden = torch.zeros(60, 40)
    for row in range(60):
        on = owner == row % 4
        hidden[row, on] = torch.rand(int(on.sum()), generator=generator) + 0.5
    groups = group_neurons(hidden, torch.zeros(40, 8), 4)
    assert all(len(set(owner[group].tolist())) == 1 for group in groups)


def test_clusters_are_balanced_whatever_the_points(seed: int) -> None:
    points = torch.randn(60, 5, generator=torch.Generator().manual_seed(seed)) + 3
    groups = balanced_clusters(points, 6, seed=seed)
    assert groups.shape == (6, 10)
    assert groups.flatten().sort().values.tolist() == list(range(60))


def test_the_router_ranks_experts_by_their_share_within_the_spread() -> None:
    """Expert e's neurons fire with input e: a linear router can tell who matters most.

    By chance a quarter of the rows would agree: of 300, 120 or more less than once in 10^8.
    """
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    hidden = (x[:, [0, 0, 1, 1, 2, 2, 3, 3]] + 0.5).relu()
    down = torch.eye(8)
    groups = torch.tensor([[4, 5], [0, 1], [6, 7], [2, 3]])
    router = fit_router(x, hidden, down, groups, CarveOptions(n_experts=4, gate_spread=0.01))
    logits = x @ router.T
    assert logits.abs().max().item() == pytest.approx(0.01, rel=1e-5)
    shares = torch.stack([hidden[:, g].norm(dim=1) for g in groups], dim=1)
    assert (logits.argmax(1) == shares.argmax(1)).sum() > 200


@pytest.mark.parametrize("grouping", ["coactivation", "weights", "random"])
def test_a_model_in_bfloat16_is_carved(grouping: str) -> None:
    model = dense("llama")
    model.module.to(torch.bfloat16)
    model = wrap_model(model.module, byte_tokenizer(), name="half")
    options = CarveOptions(n_experts=2, n_active=1, grouping=grouping)  # type: ignore[arg-type]
    made = carve(model, texts(), options)
    assert made.model.dtype == torch.bfloat16
    with active_experts(made.model, 2):
        got = logits(made.model, some_ids())
    torch.testing.assert_close(got, logits(model, some_ids()), rtol=0.1, atol=0.05)


def test_what_cannot_be_carved_is_refused() -> None:
    with pytest.raises(OptionError, match="divide the 48 neurons .* 2, 3, 4, 6"):
        carve(dense("llama"), texts(), CarveOptions(n_experts=5))
    with pytest.raises(UnsupportedArchitectureError, match="it is gpt2"):
        carve(dense("gpt2"), texts())
    with pytest.raises(OptionError, match="n_active"):
        CarveOptions(n_experts=4, n_active=5)
    made = carve(dense("llama"), texts(), CarveOptions(n_experts=4))
    with pytest.raises(OptionError, match="1 to 4"), active_experts(made.model, 5):
        pass


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore::fluoroscope.moe.criterion.FewExpertsWarning")
@pytest.mark.parametrize(("grouping", "n_super"), [("coactivation", 1), ("random", 2)])
def test_the_embedded_model_has_its_super_experts(embedded, grouping: str, n_super: int) -> None:
    """Neurons 1229 and 1487 of layer 11: one super expert together, two where they are parted."""
    found = windows(embedded, open_corpus(), context=128, n_tokens=1024, per_document=1)
    some = Texts(tuple(w.ids for w in found), tuple(w.name for w in found))
    made = carve(embedded, some, CarveOptions(grouping=grouping))  # type: ignore[arg-type]
    profile = profile_experts(made.model, some, CriterionOptions(quantile=98.5))
    holders = {made.expert_of(11, 1229), made.expert_of(11, 1487)}
    assert len(holders) == n_super
    assert set(profile.super_experts) == {(11, e) for e in holders}
    assert profile.formation.tolist() == [11]
    assert profile.ranked_channel[0] == 507
    dense_loss = next_token(embedded, some).loss
    assert next_token(made.model, some).loss == pytest.approx(dense_loss, abs=0.01)
