"""A batch's loss and gradients, a stretch of rows at a time where codes are full matrices.

L1, Gated and JumpReLU autoencoders have an activation of every latent in every row, and a backward pass
wants several such matrices at once: at 100,000 latents and 4,096 rows 1.5 GiB each. Nothing that
learning needs of them is as large. So rows are passed in stretches, each forwards and backwards before
the next, and what remains is summed: gradients, terms of the loss, and in how many rows each latent was
active.

That is exact, not an approximation by small batches. A term that is a mean over rows is the sum of its
stretches' means, each weighed by its share of the rows, and so is its gradient. A term f(m) that is not
linear in a mean m over the whole batch (JumpReLU's distance from a wanted L0) is not: its gradient is
f'(m) times that of m. The gradient of m is summed beside the others and multiplied once m is known, so
that no stretch is computed twice. JumpReLU's m reaches thresholds alone, which makes that one vector.

Sparse codes, whose encoders are bounded already and may choose over the whole batch, pass at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .base import SparseAutoencoder
from .codes import SparseCodes
from .encoding import rows_within
from .output import SaeOutput, TrainingState, total

CPU_FLOATS, GPU_FLOATS = 2**25, 2**28
"""Activations in a stretch's matrix (128 MiB and 1 GiB), unless 128 rows have more. A few such matrices
are held at a time; smaller ones would pass over the weights' gradients more often."""


class BatchOutput(NamedTuple):
    """What a step saw of its batch, outside the graph of gradients."""

    reconstruction: Float[Tensor, "rows d_out"]
    """Rebuilt rows."""
    loss: Float[Tensor, ""]
    """Sum of `losses`."""
    losses: dict[str, Tensor]
    """Each term of the loss, as in `SaeOutput`."""
    counts: Int64[Tensor, " latents"]
    """In how many rows each latent was active."""

    @property
    def l0(self) -> float:
        """Mean number of active latents per row."""
        return float(self.counts.sum()) / max(len(self.reconstruction), 1)


def add_gradients(
    sae: SparseAutoencoder,
    rows: Float[Tensor, "rows d_in"],
    target: Float[Tensor, "rows d_out"] | None,
    state: TrainingState,
    *,
    autocast: bool = False,
) -> BatchOutput:
    """Add the gradients of a batch's loss to those of the parameters.

    Args:
        sae: In training mode.
        rows: What is read.
        target: What is to be rebuilt; None: `rows`.
        state: Dead latents and warm-up.
        autocast: Whether matrix products are taken in bfloat16.
    """
    size = max(len(rows), 1)
    if sae.dense_codes:
        size = rows_within(CPU_FLOATS if rows.device.type == "cpu" else GPU_FLOATS, sae.d_sae)
    sums = _Sums(sae)
    goals = [None] * -(-max(len(rows), 1) // size) if target is None else target.split(size)
    for part, goal in zip(rows.split(size), goals, strict=True):
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=autocast):
            out = sae(part, goal, state=state)
        sums.add(out, len(part) / max(len(rows), 1) if len(part) < len(rows) else 1.0)
    return sums.output(state)


@dataclass
class _Sums:
    """What is left of the stretches so far."""

    sae: SparseAutoencoder
    rebuilt: list[Tensor] = field(default_factory=list)
    counts: Tensor | None = None
    losses: dict[str, Tensor] = field(default_factory=dict)
    means: dict[str, Tensor] = field(default_factory=dict)
    slopes: dict[str, list[Tensor | None]] = field(default_factory=dict)
    """Of each mean, its gradient in every parameter; None where it reaches none."""

    def add(self, out: SaeOutput, share: float) -> None:
        """Take in a stretch that holds a share of the rows."""
        parameters = list(self.sae.parameters())
        for name, mean in out.means.items():
            slopes = torch.autograd.grad(
                share * mean, parameters, retain_graph=True, allow_unused=True
            )
            before = self.slopes.get(name, [None] * len(parameters))
            self.slopes[name] = [_sum(old, new) for old, new in zip(before, slopes, strict=True)]
            self.means[name] = mean.detach() * share + self.means.get(name, 0.0)
        linear = {name: share * term for name, term in out.losses.items() if name not in out.means}
        total(linear).backward()
        for name, term in linear.items():
            self.losses[name] = term.detach() + self.losses.get(name, 0.0)
        counts = active_rows(out)
        self.counts = counts if self.counts is None else self.counts + counts
        self.rebuilt.append(out.reconstruction.detach())

    def output(self, state: TrainingState) -> BatchOutput:
        """Add what terms that are not linear in means give to the gradients; all that is left."""
        means = {name: mean.requires_grad_() for name, mean in self.means.items()}
        terms = self.sae.losses_of_means(means, state)
        if terms:
            total(terms).backward()
        for name, mean in means.items():
            for parameter, slope in zip(self.sae.parameters(), self.slopes[name], strict=True):
                if slope is not None and mean.grad is not None:
                    parameter.grad = _sum(parameter.grad, mean.grad * slope)
        losses = self.losses | {name: term.detach() for name, term in terms.items()}
        assert self.counts is not None
        return BatchOutput(torch.cat(self.rebuilt), total(losses), losses, self.counts)


def active_rows(out: SaeOutput) -> Int64[Tensor, " latents"]:
    """In how many rows each latent is active."""
    if isinstance(out.codes, SparseCodes):
        return out.codes.detach().counts()
    return (out.codes.detach() != 0).flatten(0, -2).sum(0)


def _sum(old: Tensor | None, new: Tensor | None) -> Tensor | None:
    if old is None or new is None:
        return new if old is None else old
    return old.add_(new)
