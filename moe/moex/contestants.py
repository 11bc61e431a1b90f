"""What is compared: MoE-X, its ablations, and rivals of as many active parameters.

name                               experts         routing    begins
dense, GELU / dense, ReLU          -               -          from scratch
dense, GELU, with autoencoder      -               -          the first, read through a TopK SAE
Switch                             GELU, 1 of M/2  learned    dense GELU, half trained
MoE-X                              ReLU, 2 of M    sparsity   dense ReLU, half trained
MoE-X, learned routing             ReLU, 2 of M    learned    dense ReLU, half trained
MoE-X, GELU experts                GELU, 2 of M    sparsity   dense GELU, half trained
neither                            GELU, 2 of M    learned    dense GELU, half trained
MoE-X from scratch                 ReLU, 2 of M    sparsity   from scratch
MoE-X, untrained                   ReLU, 2 of M    sparsity   and ends with random weights: the floor

Every one sees the same batches in the same order for as many steps: an upcycled one takes over when
half of the schedule is done, and dense models start a fresh optimiser there too. Experts of those with
two active are half as wide as the dense layer, so active parameters agree (up to the router's weights
and the experts' output biases); Switch has M/2 experts of the full width, so that all parameters agree
as well. How wide the experts of the paper's Switch are is not known to us.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ...probes.errors import OptionError
from .config import MoexConfig
from .network import MoexForCausalLM, SparsityRouter

N_EXPERTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Sizes all models share."""

    d_model: int = 64
    """Width of the residual stream."""
    n_layers: int = 2
    """Layers."""
    n_heads: int = 4
    """Attention heads."""
    context: int = 160
    """Longest text, tokens."""

    def __post_init__(self) -> None:
        if min(self.d_model, self.n_layers, self.n_heads) < 1 or self.context < 8:
            raise OptionError("Sizes must be at least 1 and context at least 8.")
        if self.d_model % self.n_heads:
            raise OptionError(
                f"n_heads must divide d_model, got {self.n_heads} and {self.d_model}."
            )


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One model of the comparison."""

    slug: str
    name: str
    activation: Literal["relu", "gelu_new"]
    routing: Literal["dense", "learned", "sparsity"] = "dense"
    n_active: int = 2
    upcycled_from: str = ""
    """Slug of the dense model it starts from; empty for a start from scratch."""
    read_through_autoencoder: bool = False
    trained: bool = True


CONTESTANTS = (
    Contestant(slug="dense-gelu", name="dense, GELU", activation="gelu_new"),
    Contestant(slug="dense-relu", name="dense, ReLU", activation="relu"),
    Contestant(
        slug="dense-sae", name="dense, GELU, with autoencoder", activation="gelu_new",
        upcycled_from="dense-gelu", read_through_autoencoder=True,
    ),
    Contestant(
        slug="switch", name="Switch", activation="gelu_new", routing="learned", n_active=1,
        upcycled_from="dense-gelu",
    ),
    Contestant(
        slug="moex", name="MoE-X", activation="relu", routing="sparsity",
        upcycled_from="dense-relu",
    ),
    Contestant(
        slug="moex-learned", name="MoE-X, learned routing", activation="relu", routing="learned",
        upcycled_from="dense-relu",
    ),
    Contestant(
        slug="moex-gelu", name="MoE-X, GELU experts", activation="gelu_new", routing="sparsity",
        upcycled_from="dense-gelu",
    ),
    Contestant(
        slug="neither", name="neither", activation="gelu_new", routing="learned",
        upcycled_from="dense-gelu",
    ),
    Contestant(
        slug="moex-scratch", name="MoE-X from scratch", activation="relu", routing="sparsity",
    ),
    Contestant(
        slug="moex-untrained", name="MoE-X, untrained", activation="relu", routing="sparsity",
        trained=False,
    ),
)  # fmt: skip
MAIN = ("dense-gelu", "dense-relu", "dense-sae", "switch", "moex")
"""The five of the comparison proper; the others are ablations."""


def contestant(slug: str) -> Contestant:
    """A contestant by its slug.

    Raises:
        OptionError: There is none; names those there are.
    """
    found = next((c for c in CONTESTANTS if c.slug == slug), None)
    if found is None:
        raise OptionError(
            f"No contestant {slug!r}; there are {', '.join(c.slug for c in CONTESTANTS)}."
        )
    return found


def build(of: Contestant, sizes: Sizes, d_vocab: int, *, seed: int) -> PreTrainedModel:
    """The model with random weights (an upcycled one takes its own from `upcycle`)."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if of.routing == "dense":
            return GPT2LMHeadModel(dense_config(of, sizes, d_vocab))
        return MoexForCausalLM(mixture_config(of, sizes, d_vocab))


def dense_config(of: Contestant, sizes: Sizes, d_vocab: int) -> GPT2Config:
    """Configuration of a dense contestant."""
    return GPT2Config(
        n_inner=4 * sizes.d_model, activation_function=of.activation, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, **_shared(sizes, d_vocab),
    )  # fmt: skip


def mixture_config(of: Contestant, sizes: Sizes, d_vocab: int) -> MoexConfig:
    """Configuration of a mixture."""
    switch = of.n_active == 1
    return MoexConfig(
        num_experts=N_EXPERTS // 2 if switch else N_EXPERTS,
        num_experts_per_tok=of.n_active,
        expert_size=4 * sizes.d_model // of.n_active,
        expert_activation=of.activation,
        routing=of.routing,
        gate="all" if switch else "chosen",
        **_shared(sizes, d_vocab),
    )


def _shared(sizes: Sizes, d_vocab: int) -> dict[str, Any]:
    return {
        "vocab_size": d_vocab,
        "n_embd": sizes.d_model,
        "n_layer": sizes.n_layers,
        "n_head": sizes.n_heads,
        "n_positions": sizes.context,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def active_parameters(module: PreTrainedModel) -> tuple[int, int]:
    """Parameters a token meets, and all there are."""
    total = sum(p.numel() for p in module.parameters())
    if not isinstance(module, MoexForCausalLM):
        return total, total
    idle = 0
    for block in module.blocks:
        held = sum(p.numel() for p in block.experts.parameters())
        n, k = module.config.num_experts, module.config.num_experts_per_tok
        idle += held * (n - k) // n
    return total - idle, total


def routes_by_sparsity(module: PreTrainedModel) -> bool:
    """Whether experts are chosen by their expected sparsity."""
    return isinstance(module, MoexForCausalLM) and isinstance(
        module.blocks[0].router, SparsityRouter
    )
