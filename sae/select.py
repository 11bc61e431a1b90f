"""Exact selection over many columns on a CPU: a bound first, then a search among the few above it.

Columns are dealt into blocks like cards (block b holds b, b + n, b + 2n, ...), so that all maxima of
blocks are one vectorised pass. The k-th largest of n > k maxima is a lower bound of the k-th largest
entry, and only a few more than k entries reach it; numpy's partition and nonzero are vectorised where
`torch.topk` walks entry by entry. On a GPU `torch.topk` is used as it is.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor


def top_k(
    scores: Float[Tensor, "rows columns"], k: int
) -> tuple[Float[Tensor, "rows k"], Int64[Tensor, "rows k"]]:
    """The k largest entries of each row, in no particular order, and their columns.

    Args:
        scores: Values; NaN counts as the largest, as in `torch.topk`.
        k: How many; at most the number of columns.
    """
    found = _reaching(scores, k)
    if found is None:
        return torch.topk(scores, k, dim=1, sorted=False)
    n_rows, n_columns = scores.shape
    rows = found // n_columns
    counts = torch.bincount(rows, minlength=n_rows)
    least, most = (int(bound) for bound in counts.aminmax())
    if least < k or most > 4 * k + 64:  # not finite, or very many ties
        return torch.topk(scores, k, dim=1, sorted=False)
    place = torch.arange(len(found)) - (counts.cumsum(0) - counts)[rows]
    values = scores.new_full((n_rows, most), -math.inf)
    columns = found.new_zeros(n_rows, most)
    slots = rows * most + place
    values.view(-1)[slots] = scores.reshape(-1)[found]
    columns.view(-1)[slots] = found - rows * n_columns
    values, chosen = values.topk(k, dim=1, sorted=False)
    return values, columns.gather(1, chosen)


def above(scores: Float[Tensor, "rows columns"], bound: float) -> Int64[Tensor, " found"]:
    """Flat positions of all entries larger than a bound, in order."""
    if scores.device.type != "cpu":
        return (scores.reshape(-1) > bound).nonzero().flatten()
    return torch.from_numpy(np.flatnonzero(scores.numpy() > bound))


def first_argmax(scores: Float[Tensor, "rows columns"]) -> Int64[Tensor, " rows"]:
    """Column of each row's largest entry, the first of several equal ones."""
    if scores.device.type != "cpu" or scores.dtype not in {torch.float32, torch.float64}:
        return scores.max(dim=1).indices
    return torch.from_numpy(scores.numpy().argmax(axis=1))


def _reaching(scores: Float[Tensor, "rows columns"], k: int) -> Int64[Tensor, " found"] | None:
    """Flat positions of entries that may be among a row's k largest; None where no bound pays."""
    n_columns = scores.shape[1]
    depth = int(math.sqrt(n_columns / k))
    n_blocks = n_columns // max(depth, 1)
    if scores.device.type != "cpu" or scores.dtype != torch.float32 or depth < 4 or n_blocks <= k:
        return None
    whole = scores[:, : depth * n_blocks].reshape(len(scores), depth, n_blocks)
    maxima = whole.amax(1).numpy()
    bounds = np.partition(maxima, n_blocks - k, axis=1)[:, n_blocks - k]
    return torch.from_numpy(np.flatnonzero(scores.numpy() >= bounds[:, None]))
