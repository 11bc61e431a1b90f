"""Products with sparse codes that touch only active latents, forwards and backwards.

With k of p latents active in a row, a dense decoder multiplies by p - k zeros, and so do three of the
four products of its backward pass and the encoder's. Here every one of them reads and adds only the
rows of active latents: `embedding_bag` sums weighted rows, its per-sample gradient takes the dot
products, and a weight's gradient is again an `embedding_bag`, with rows and latents exchanged.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from .codes import SparseCodes


def sparse_decode(
    codes: SparseCodes, weight: Float[Tensor, "latents d"]
) -> Float[Tensor, "rows d"]:
    """Sum over active latents of value times row of `weight`, differentiable in both."""
    return _Decode.apply(codes.values, weight, codes.indices, codes.offsets)  # pyright: ignore[reportReturnType]


def gathered_sum(
    values: Float[Tensor, " active"],
    indices: Int64[Tensor, " active"],
    offsets: Int64[Tensor, " rows_plus_1"],
    weight: Float[Tensor, "latents d"],
) -> Float[Tensor, "rows d"]:
    """Weighted sums of rows of `weight`, one for each stretch between offsets."""
    return F.embedding_bag(
        indices, weight, offsets, mode="sum", per_sample_weights=values.to(weight),
        include_last_offset=True,
    )  # fmt: skip


def gathered_dots(
    left: Float[Tensor, "rows d"],
    weight: Float[Tensor, "latents d"],
    indices: Int64[Tensor, " active"],
    offsets: Int64[Tensor, " rows_plus_1"],
    rows: Int64[Tensor, " active"],
) -> Float[Tensor, " active"]:
    """Dot product of each entry's row of `left` with its latent's row of `weight`."""
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, weight, indices, offsets[:-1], rows, 0
    )


def scattered_sum(
    values: Float[Tensor, " active"],
    indices: Int64[Tensor, " active"],
    rows: Int64[Tensor, " active"],
    source: Float[Tensor, "rows d"],
    n_latents: int,
) -> Float[Tensor, "latents d"]:
    """For each latent, the sum over its entries of value times the entry's row of `source`.

    Entries are sorted by latent first, so that each result is summed once, in a fixed order, instead
    of being added to in memory again and again.
    """
    order = indices.argsort(stable=True)
    offsets = indices.new_zeros(n_latents + 1)
    offsets[1:] = torch.bincount(indices, minlength=n_latents).cumsum(0)
    return gathered_sum(values[order], rows[order], offsets, source)


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, weight: Tensor, indices: Tensor, offsets: Tensor
    ) -> Tensor:
        ctx.save_for_backward(values, weight, indices, offsets)
        return gathered_sum(values, indices, offsets, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        values, weight, indices, offsets = ctx.saved_tensors
        grad = grads[0].contiguous()
        rows = torch.arange(len(offsets) - 1, device=grad.device).repeat_interleave(
            offsets.diff(), output_size=len(values)
        )
        of_values = of_weight = None
        if ctx.needs_input_grad[0]:
            of_values = gathered_dots(grad, weight, indices, offsets, rows).to(values)
        if ctx.needs_input_grad[1]:
            of_weight = scattered_sum(values, indices, rows, grad, len(weight))
        return of_values, of_weight, None, None
