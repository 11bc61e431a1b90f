"""Memory layout of weights for decoding one token at a time on a CPU.

One token's forward pass reads every weight once and is bound by how fast that goes. A linear map from
d_in to d_out is stored (d_out, d_in), so a single row is multiplied by d_out short dot products; where
d_out >= d_in it is faster to store the same numbers column by column and add d_in long columns
(measured on two x86-64 cores in float32, d_in = 576: 1.2 to 2.1 times the bytes per second; for
d_out < d_in slower, so those stay). Shapes, values and code are untouched; sums are taken in another
order, so results differ by rounding, as between any two BLAS kernels.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.inference_mode(mode=False)
@torch.no_grad()
def lay_out_for_decoding(module: nn.Module) -> None:
    """Store wide float32 linear maps on the CPU column by column, in place; does nothing twice."""
    for part in module.modules():
        if not isinstance(part, nn.Linear) or part.weight.device.type != "cpu":
            continue
        wide = part.out_features >= part.in_features
        if wide and part.weight.dtype == torch.float32 and part.weight.is_contiguous():
            part.weight.data = part.weight.data.t().contiguous().t()
