"""Upcycling: exact before the symmetry is broken, distinct after."""

import pytest
import torch
from transformers import GPT2LMHeadModel

from fluoroscope.moe.moex.network import MoexConfig
from fluoroscope.moe.moex.upcycle import UpcycleOptions, upcycle
from fluoroscope.probes.errors import OptionError, UnsupportedArchitectureError
from tests.conftest import ids
from tests.families import GPT2, tiny_module


def config(**options: object) -> MoexConfig:
    return MoexConfig(**{**GPT2, "num_experts": 4, "expert_size": 128, **options})  # type: ignore[arg-type]


def dense() -> GPT2LMHeadModel:
    module = tiny_module("gpt2", activation_function="relu")
    assert isinstance(module, GPT2LMHeadModel)
    return module


@torch.no_grad()
@pytest.mark.parametrize("routing", ["sparsity", "learned"])
def test_copies_are_the_dense_model(routing: str) -> None:
    source = dense()
    made = upcycle(source, config(routing=routing), UpcycleOptions(redraw=0.0))
    source.transformer.h[0].mlp.act = torch.nn.ReLU()  # built with GELU; the mixture has ReLU
    for layer in source.transformer.h:
        layer.mlp.act = torch.nn.ReLU()
    torch.testing.assert_close(made(ids()).logits, source(ids()).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_scores_tie_for_copies_and_differ_once_broken() -> None:
    x = torch.randn(9, 32, generator=torch.Generator().manual_seed(0))

    def spread(made) -> float:
        scores = made.blocks[1].router(x, made.blocks[1].experts)[0]
        return float((scores.max(1).values - scores.min(1).values).min())

    assert spread(upcycle(dense(), config(), UpcycleOptions(redraw=0.0))) < 1e-5
    for made in (
        upcycle(dense(), config()),
        upcycle(dense(), config(), UpcycleOptions(redraw=0.0, noise=0.1)),
        upcycle(dense(), config(expert_size=64)),
    ):
        assert spread(made) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "factor"),
    [({}, 1), ({"expert_size": 64}, 1), ({"gate": "all", "num_experts_per_tok": 1}, 4)],
)
def test_output_biases_add_up_to_the_dense_one(options: dict, factor: int) -> None:
    """Gate weights sum to 1; a softmax over all four experts begins at a quarter for the chosen one."""
    source = dense()
    bias = source.transformer.h[0].mlp.c_proj.bias
    assert isinstance(bias, torch.Tensor)
    bias.normal_(generator=torch.Generator().manual_seed(0))
    experts = upcycle(source, config(**options)).blocks[0].experts
    torch.testing.assert_close(experts.down_proj_bias, (factor * bias).expand(4, -1))


@torch.no_grad()
def test_narrow_experts_hold_neurons_of_the_dense_layer() -> None:
    source = dense()
    made = upcycle(source, config(expert_size=64))
    mlp, experts = source.transformer.h[0].mlp, made.blocks[0].experts
    for expert in range(4):
        there = (experts.up_proj[expert][:, None] == mlp.c_fc.weight.T[None]).all(-1)
        assert bool((there.sum(1) >= 1).all())
        which = there.float().argmax(1)
        assert len(which.unique()) == 64
        torch.testing.assert_close(experts.down_proj[expert].T, 2 * mlp.c_proj.weight[which])
    other = upcycle(source, config(expert_size=64), UpcycleOptions(seed=1)).blocks[0].experts
    assert not torch.equal(other.up_proj, experts.up_proj)


@torch.no_grad()
def test_switch_starts_at_the_size_of_the_dense_output() -> None:
    """One expert with a gate near 1/M: decoders are M times as large."""
    source, made_config = dense(), config(num_experts_per_tok=1, routing="learned", gate="all")
    made = upcycle(source, made_config, UpcycleOptions(redraw=0.0))
    for block in made.blocks:
        block.router.weight.zero_()
    for layer in source.transformer.h:
        layer.mlp.act = torch.nn.ReLU()
    torch.testing.assert_close(made(ids()).logits, source(ids()).logits, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_upcycled_is_refused() -> None:
    with pytest.raises(OptionError, match="hidden_size must be"):
        upcycle(dense(), config(n_embd=64))
    with pytest.raises(OptionError, match="at most the dense layer's 128"):
        upcycle(dense(), config(expert_size=256))
    with pytest.raises(UnsupportedArchitectureError):
        upcycle(tiny_module("moex"), config())  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="redraw"):
        UpcycleOptions(redraw=1.5)
