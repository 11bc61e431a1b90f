"""Batches of rows, in order or shuffled, each row exactly once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64

from ..errors import OptionError
from .activations import Activations


def row_batches(
    sites: Mapping[str, Activations],
    size: int,
    *,
    shuffle: bool,
    seed: int | Sequence[int],
    memory_bytes: int,
    block_rows: int,
    device: torch.device | str | None,
    drop_last: bool,
    rows: Int64[np.ndarray, " chosen"] | None = None,
) -> Iterator[dict[str, torch.Tensor]]:
    """See `Run.batches`.

    Raises:
        OptionError: `size` or `block_rows` is below 1, or no site is given.
    """
    if size < 1 or block_rows < 1 or not sites:
        raise OptionError(
            f"size and block_rows must be at least 1 and a site given, got {size}, {block_rows}, "
            f"{list(sites)}."
        )
    n_rows = len(next(iter(sites.values())))
    orders = (
        _shuffled(n_rows, _window_rows(sites, memory_bytes, size), block_rows, seed)
        if shuffle
        else iter([np.arange(n_rows)])
    )
    if rows is not None:
        wanted = np.zeros(n_rows, dtype=bool)
        wanted[rows] = True
        orders = (order[wanted[order]] for order in orders)
    return _cut(sites, orders, size, device=device, drop_last=drop_last)


def _grouped(sites: Mapping[str, Activations], rows: Int64[np.ndarray, " n"]) -> np.ndarray:
    """A batch's rows, those of one shard together: its order is random anyway, and reads are faster."""
    shard_of = next(iter(sites.values())).shard_of(rows)
    return rows[np.argsort(shard_of, kind="stable")]


def _cut(
    sites: Mapping[str, Activations],
    orders: Iterator[Int64[np.ndarray, " rows"]],
    size: int,
    *,
    device: torch.device | str | None,
    drop_last: bool,
) -> Iterator[dict[str, torch.Tensor]]:
    left = np.zeros(0, dtype=np.int64)
    for order in orders:
        rows = np.concatenate([left, order])
        whole = len(rows) - len(rows) % size
        for start in range(0, whole, size):
            yield _take(sites, rows[start : start + size], device)
        left = rows[whole:]
    if len(left) and not drop_last:
        yield _take(sites, left, device)


def _take(
    sites: Mapping[str, Activations],
    rows: Int64[np.ndarray, " rows"],
    device: torch.device | str | None,
) -> dict[str, torch.Tensor]:
    rows = _grouped(sites, rows)
    return {name: held.gather(rows).to(device) for name, held in sites.items()}


def _shuffled(
    n_rows: int, window_rows: int, block_rows: int, seed: int | Sequence[int]
) -> Iterator[Int64[np.ndarray, " rows"]]:
    """Row numbers window by window: random blocks, their rows mixed."""
    generator = np.random.default_rng(seed)
    blocks = generator.permutation(-(-n_rows // block_rows))
    per_window = max(window_rows // block_rows, 1)
    for start in range(0, len(blocks), per_window):
        chosen = blocks[start : start + per_window]
        rows = (chosen[:, None] * block_rows + np.arange(block_rows)).ravel()
        yield generator.permutation(rows[rows < n_rows])


def _window_rows(sites: Mapping[str, Activations], memory_bytes: int, size: int) -> int:
    row_bytes = sum(
        int(np.prod(held.row_shape, dtype=np.int64)) * held.dtype.itemsize
        for held in sites.values()
    )
    return max(memory_bytes // max(row_bytes, 1), size)
