"""Exact top-k over many columns, by blocks.

The k largest of p entries lie in the k blocks with the largest maxima. Columns are dealt into blocks
like cards (block b holds b, b + n, b + 2n, ...), so that taking all maxima is one vectorised pass; then
the k best blocks are gathered and searched. With sqrt(p k) blocks the two searches cost alike and
together far less than one over p columns.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def top_k(
    scores: Float[Tensor, "rows columns"], k: int
) -> tuple[Float[Tensor, "rows k"], Int64[Tensor, "rows k"]]:
    """The k largest entries of each row, in no particular order, and their columns.

    Args:
        scores: Finite values.
        k: How many; at most the number of columns.
    """
    n_columns = scores.shape[1]
    n_blocks = block_count(n_columns, k)
    if scores.is_cuda or n_blocks == 0:
        return torch.topk(scores, k, dim=1, sorted=False)
    depth = n_columns // n_blocks
    whole = scores[:, : depth * n_blocks].view(len(scores), depth, n_blocks)
    blocks = whole.amax(1).topk(k, dim=1, sorted=False).indices
    columns = blocks[:, None, :] + (torch.arange(depth) * n_blocks)[:, None]
    columns = columns.reshape(len(scores), -1)
    if depth * n_blocks < n_columns:
        rest = torch.arange(depth * n_blocks, n_columns).expand(len(scores), -1)
        columns = torch.cat([columns, rest], dim=1)
    values, chosen = scores.gather(1, columns).topk(k, dim=1, sorted=False)
    return values, columns.gather(1, chosen)


def block_count(n_columns: int, k: int) -> int:
    """Blocks for a search of k among so many columns; 0 where blocks would not help."""
    depth = int(math.sqrt(n_columns / max(k, 1)))
    return n_columns // depth if depth >= 4 and n_columns // depth > k else 0
