"""Encoders whose rows have unequal numbers of active latents: the batch's largest, all above a bound.

Like the TopK encoder these see pre-activations a stretch of rows at a time, and only selected ones have
a gradient. The largest n of a batch are found among candidates above a bound that is guessed from the
first stretch and lets through about one and a half times as many; should it let through too few, the
pass is done again with a lower one. The result is exact either way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .codes import SparseCodes
from .encoding import pre_activations
from .select import above
from .sparse import gathered_sum, scattered_sum

MARGIN = 1.5
"""How many more candidates than wanted the first guess lets through."""


def encode_above(
    rows: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_in latents"],
    bias: Float[Tensor, " latents"],
    bound: float,
) -> SparseCodes:
    """Pre-activations above a bound (at least 0), differentiable in all but the bound."""
    values, indices, offsets = _call(rows, weight, bias, bound, None)
    return SparseCodes(values, indices, offsets, weight.shape[1], (len(rows),))


def encode_batch_top_k(
    rows: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_in latents"],
    bias: Float[Tensor, " latents"],
    n_kept: int,
) -> SparseCodes:
    """The largest positive pre-activations of the whole batch; differentiable.

    Args:
        rows: What is read.
        weight: Encoder.
        bias: Of the encoder.
        n_kept: How many are kept; fewer only where fewer are positive.
    """
    values, indices, offsets = _call(rows, weight, bias, 0.0, n_kept)
    return SparseCodes(values, indices, offsets, weight.shape[1], (len(rows),))


def _call(rows: Tensor, weight: Tensor, bias: Tensor, bound: float, n_kept: int | None) -> Any:
    return _EncodeRagged.apply(rows, weight.t(), bias, max(bound, 0.0), n_kept)


class _EncodeRagged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, bound: float, n_kept: int | None
    ) -> Any:
        def stretches() -> Iterator[Tensor]:
            return pre_activations(rows, weight, bias)

        if n_kept is None:
            values, found = _candidates(stretches(), bound)
        else:
            values, found = _largest(stretches, n_kept, len(rows))
        numbers = found // len(weight)
        indices = found - numbers * len(weight)
        counts = torch.bincount(numbers, minlength=len(rows))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        ctx.save_for_backward(rows, weight, indices, numbers, offsets)
        ctx.mark_non_differentiable(indices, offsets)
        return values, indices, offsets

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rows, weight, indices, numbers, offsets = ctx.saved_tensors
        grad = grads[0]
        of_rows = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_rows = gathered_sum(grad, indices, offsets, weight)
        if ctx.needs_input_grad[1]:
            of_weight = scattered_sum(grad, indices, numbers, rows, len(weight))
        if ctx.needs_input_grad[2]:
            of_bias = grad.new_zeros(len(weight)).index_add_(0, indices, grad)
        return of_rows, of_weight, of_bias, None, None


def _candidates(stretches: Iterable[Tensor], bound: float) -> tuple[Tensor, Tensor]:
    """Values above a bound and their flat positions in the whole batch."""
    values, positions, start = [], [], 0
    for pre in stretches:
        found = above(pre, bound)
        values.append(pre.reshape(-1)[found])
        positions.append(found + start)
        start += pre.numel()
    return torch.cat(values), torch.cat(positions)


def _largest(
    stretches: Callable[[], Iterator[Tensor]], n_kept: int, n_rows: int
) -> tuple[Tensor, Tensor]:
    margin = MARGIN
    while True:
        again = stretches()
        first = next(again)
        bound = _guess(first, int(margin * n_kept * len(first) / n_rows) + 1)
        values, found = _candidates(chain([first], again), bound)
        if len(values) >= n_kept or bound == 0:
            return _cut(values, found, n_kept)
        margin *= 4


def _guess(pre: Tensor, n_wanted: int) -> float:
    """A bound of at least 0 that at least so many entries reach."""
    depth = 16 if pre.shape[1] >= 256 else 1
    n_blocks = pre.shape[1] // depth
    maxima = pre[:, : depth * n_blocks].reshape(len(pre), depth, n_blocks).amax(1).flatten()
    if n_wanted >= len(maxima):
        return 0.0
    return max(float(maxima.kthvalue(len(maxima) - n_wanted + 1).values), 0.0)


def _cut(values: Tensor, found: Tensor, n_kept: int) -> tuple[Tensor, Tensor]:
    """The largest of all candidates, the first of equal ones."""
    if len(values) <= n_kept:
        return values, found
    least = values.kthvalue(len(values) - n_kept + 1).values
    kept = values > least
    kept[(values == least).nonzero().flatten()[: n_kept - int(kept.sum())]] = True
    return values[kept], found[kept]
