"""Routing as data: logits, gate weights and chosen experts of every token.

Some versions of transformers return probabilities under the name of router logits (5.0 to 5.4 for the
Mixtral, Qwen and OLMoE families); `as_logits` tells by the row sums and undoes it, up to the constant
per row that a softmax forgets.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..probes.model import Model
from .layers import moe_layers


@dataclass(frozen=True)
class Routing:
    """What a router decided for some rows; slots by falling gate weight."""

    router_logits: Float[Tensor, "rows experts"]
    gate_weights: Float[Tensor, "rows active"]
    expert_ids: Int64[Tensor, "rows active"]


def as_logits(scores: Float[Tensor, "rows experts"]) -> Float[Tensor, "rows experts"]:
    """Router logits from what a model calls so: probabilities (rows that sum to 1) become logs."""
    exact = scores.float()
    sums = exact.sum(-1)
    if bool((exact >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        return exact.clamp(min=torch.finfo(torch.float32).tiny).log()
    return scores


@contextmanager
def watch_routing(model: Model) -> Iterator[dict[int, Routing]]:
    """Routing of the latest forward pass by layer, rows flattened over (batch, positions).

    Raises:
        NoExpertsError: The model is dense.
    """
    seen: dict[int, Routing] = {}
    with ExitStack() as stack:
        for layer in moe_layers(model):

            def after(module: nn.Module, args: Any, output: Any, index: int = layer.index) -> None:
                logits, weights, ids = output
                order = weights.argsort(dim=-1, descending=True, stable=True)
                seen[index] = Routing(
                    as_logits(logits.detach()), weights.detach().gather(-1, order),
                    ids.gather(-1, order),
                )  # fmt: skip

            stack.callback(layer.router.register_forward_hook(after).remove)
        yield seen
