"""Upcycling: a mixture that begins as a trained dense GPT-2, with its experts made distinct.

MoE-X starts from a dense model (arXiv 2503.07639, Table 4); how the paper tells the copies apart is not
known to us. It matters: copies have equal means and variances of their encoders, so sparsity-aware
scores tie exactly, and permuting neurons changes neither. Here

- experts narrower than the dense layer each take a random half (or other share) of its neurons, which
  makes them distinct;
- experts as wide as it take all neurons, and a share of them (half by default) is drawn anew from a
  Gaussian with the mean and standard deviation of each weight matrix;
- and, if asked for, Gaussian noise is added in proportion to each column's standard deviation.

Decoders are scaled so that the mixture starts near the dense output: with all neurons in every expert
and nothing redrawn it is the dense output exactly, since gate weights sum to 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from ...probes.errors import OptionError, UnsupportedArchitectureError
from .config import MoexConfig
from .network import MoexExperts, MoexForCausalLM


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcycleOptions:
    """How copies are told apart."""

    redraw: float | None = None
    """Share of each expert's neurons drawn anew, 0 to 1; None for half where experts are as wide as
    the dense layer, none where they are narrower."""
    noise: float = 0.0
    """Gaussian noise on the encoders, in standard deviations of each column."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        if self.redraw is not None and not 0 <= self.redraw <= 1:
            raise OptionError(f"redraw must be from 0 to 1 or None, got {self.redraw}.")
        if self.noise < 0:
            raise OptionError(f"noise must be at least 0, got {self.noise}.")


@torch.no_grad()
def upcycle(
    dense: GPT2LMHeadModel, config: MoexConfig, options: UpcycleOptions | None = None
) -> MoexForCausalLM:
    """Make a mixture of a dense model; the dense model is left as it is.

    Args:
        dense: A GPT-2.
        config: What to make; sizes other than the experts' must be the dense model's.
        options: How copies are told apart.

    Raises:
        UnsupportedArchitectureError: The dense model is no GPT-2.
        OptionError: Sizes differ, or experts are wider than the dense layer.
    """
    options = options or UpcycleOptions()
    if not isinstance(dense, GPT2LMHeadModel) or isinstance(dense, MoexForCausalLM):
        raise UnsupportedArchitectureError(
            f"Upcycling needs a dense GPT-2, got {type(dense).__name__}; train one first."
        )
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"):
        if getattr(dense.config, name) != getattr(config, name):
            raise OptionError(
                f"{name} must be the dense model's {getattr(dense.config, name)}, got "
                f"{getattr(config, name)}."
            )
    width = dense.config.n_inner or 4 * dense.config.hidden_size
    if config.expert_size > width:
        raise OptionError(
            f"expert_size must be at most the dense layer's {width}, got {config.expert_size}."
        )
    with torch.random.fork_rng():
        torch.manual_seed(options.seed)
        made = MoexForCausalLM(config)
    state = {k: v for k, v in dense.state_dict().items() if ".mlp." not in k}
    missing, unexpected = made.load_state_dict(state, strict=False)
    if unexpected or any(".mlp." not in name for name in missing):
        raise OptionError(
            f"The dense model must have the same other weights; {unexpected or missing}."
        )
    generator = torch.Generator().manual_seed(options.seed)
    for block, layer in zip(made.blocks, dense.transformer.h, strict=True):
        _fill(block.experts, layer.mlp, config, options, generator)
    return made.to(dense.dtype).train(dense.training)  # type: ignore[arg-type]


def _fill(
    experts: MoexExperts,
    mlp: Any,
    config: MoexConfig,
    options: UpcycleOptions,
    generator: torch.Generator,
) -> None:
    encoder, decoder = mlp.c_fc.weight.T, mlp.c_proj.weight.T  # outputs first
    width, size = encoder.shape[0], config.expert_size
    redraw = options.redraw
    if redraw is None:
        redraw = 0.5 if size == width else 0.0
    n_redrawn = round(redraw * size)
    # A softmax over all experts starts near 1 / M for the one that is chosen.
    scale = width / size * (config.num_experts if config.gate == "all" else 1)
    scale /= config.num_experts_per_tok if config.gate == "all" else 1

    def normal(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    for expert in range(config.num_experts):
        chosen = torch.arange(width)
        if size < width:
            chosen = torch.randperm(width, generator=generator)[:size]
        up, down = encoder[chosen].clone(), decoder[:, chosen].clone()
        anew = torch.randperm(size, generator=generator)[:n_redrawn]
        up[anew] = encoder.mean() + encoder.std() * normal(up[anew])
        down[:, anew] = decoder.mean() + decoder.std() * normal(down[:, anew])
        if options.noise:
            up += options.noise * encoder.std(0) * normal(up)
        experts.up_proj[expert].copy_(up)
        experts.up_proj_bias[expert].copy_(mlp.c_fc.bias[chosen])
        experts.down_proj[expert].copy_(down * scale)
        experts.down_proj_bias[expert].copy_(mlp.c_proj.bias * (scale * size / width))
