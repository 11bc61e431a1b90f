"""Large working memory that is written once and thrown away.

Fresh memory costs a page fault for every 4 KiB, which for a Gram matrix of 256 MiB adds a sixth to the
time of computing it. numpy asks Linux for huge pages (2 MiB) where torch does not.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def scratch(*shape: int, like: Tensor) -> Tensor:
    """A tensor that is not initialised, of another's type and device.

    Args:
        *shape: Its shape.
        like: Gives type and device.
    """
    if like.is_cuda or like.dtype not in {torch.float32, torch.float64}:
        return like.new_empty(shape)
    kind = np.float32 if like.dtype == torch.float32 else np.float64
    return torch.from_numpy(np.empty(shape, kind))
