"""The encoder of the TopK family: pre-activations of a stretch of rows, selected and forgotten.

Only the k selected pre-activations of a row have a gradient, so neither the forward nor the backward
pass needs the [rows, latents] matrix: a stretch of rows small enough for the cache is multiplied,
searched and overwritten. The backward pass adds rows of the input into the selected latents' encoder
rows, which costs k / latents of the dense product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .select import top_k
from .sparse import gathered_sum, scattered_sum

STRETCH_FLOATS = 2**21
"""Pre-activations held at a time on a CPU (8 MB), unless 128 rows have more."""


def encode_top_k(
    rows: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "d_in latents"],
    bias: Float[Tensor, " latents"],
    k: int,
) -> tuple[Float[Tensor, "rows k"], Int64[Tensor, "rows k"]]:
    """The k largest of rows @ weight + bias, rectified, and their latents; differentiable.

    Under autocast the product is taken in the autocast type; selection is in float32.
    """
    return _EncodeTopK.apply(rows, weight.t(), bias, k)  # pyright: ignore[reportReturnType]


def stretch_rows(n_latents: int, *, on_cpu: bool) -> int:
    """Rows whose pre-activations are held at a time."""
    return rows_within(STRETCH_FLOATS * (1 if on_cpu else 64), n_latents)


def rows_within(n_floats: int, n_latents: int) -> int:
    """Rows whose activations are at most so many, but 128 in any case: products want some width."""
    return max(n_floats // n_latents, 128)


def pre_activations(
    rows: Float[Tensor, "rows d_in"],
    weight: Float[Tensor, "latents d_in"],
    bias: Float[Tensor, " latents"],
) -> Iterator[Float[Tensor, "stretch latents"]]:
    """Pre-activations in float32, a stretch of rows at a time."""
    for part in rows.split(stretch_rows(len(weight), on_cpu=rows.device.type == "cpu")):
        yield torch.addmm(bias, part, weight.t()).float()


class _EncodeTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor, k: int) -> Any:
        step = stretch_rows(len(weight), on_cpu=rows.device.type == "cpu")
        values = torch.empty(len(rows), k, device=rows.device)
        indices = torch.empty(len(rows), k, dtype=torch.long, device=rows.device)
        for start, pre in enumerate(pre_activations(rows, weight, bias)):
            part = slice(start * step, (start + 1) * step)
            values[part], indices[part] = top_k(pre, k)
        values = values.relu_()
        ctx.save_for_backward(rows, weight, values, indices)
        ctx.mark_non_differentiable(indices)
        return values, indices

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        rows, weight, values, indices = ctx.saved_tensors
        grad = torch.where(values > 0, grads[0], 0.0).reshape(-1)
        flat = indices.reshape(-1)
        n_rows, k = indices.shape
        numbers = torch.arange(n_rows, device=flat.device).repeat_interleave(k)
        of_rows = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            offsets = torch.arange(n_rows + 1, device=flat.device) * k
            of_rows = gathered_sum(grad, flat, offsets, weight)
        if ctx.needs_input_grad[1]:
            of_weight = scattered_sum(grad, flat, numbers, rows, len(weight))
        if ctx.needs_input_grad[2]:
            of_bias = grad.new_zeros(len(weight)).index_add_(0, flat, grad)
        return of_rows, of_weight, of_bias, None
