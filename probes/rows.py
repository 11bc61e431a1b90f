"""Which rows (positions) of a site's value a capture keeps or an intervention changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from .errors import OptionError
from .forwards import Forward


@dataclass(frozen=True)
class Positions:
    """Rows at given positions of the text.

    Positions count from each text's first token (padding on the left left out), also while a cache
    grows during generation; negative
    ones count from the end of what a pass computes, padding left out. Positions outside a pass
    select nothing in it.
    """

    positions: Sequence[int]


@dataclass(frozen=True)
class Mask:
    """Rows where a boolean mask of the pass is true; they come flat, (rows, ...)."""

    mask: Bool[Tensor, "batch positions"]


Rows = Literal["all", "last"] | Positions | Mask
"""Which rows: all, each text's last (never padding), given positions, or a mask."""


def chosen(rows: Rows, forward: Forward) -> Int[Tensor, "batch kept"] | Bool[Tensor, "batch pos"]:
    """The rows of one pass: indices per batch row, or a mask.

    Raises:
        OptionError: `rows` is none of the known kinds, or a mask of another shape than the pass.
    """
    if isinstance(rows, Mask):
        if tuple(rows.mask.shape) != (forward.n_rows, forward.n_positions):
            raise OptionError(
                f"Mask must have the forward pass's shape ({forward.n_rows}, "
                f"{forward.n_positions}), got {tuple(rows.mask.shape)}."
            )
        return rows.mask
    if rows == "all":
        return torch.arange(forward.n_positions).expand(forward.n_rows, -1)
    if rows == "last":
        last = forward.last()
        if bool((last < 0).any()):
            raise OptionError(
                "rows='last' needs a token that is no padding in every row of a pass; "
                f"rows {(last < 0).nonzero()[:, 0].tolist()} are all padding."
            )
        return last[:, None]
    if isinstance(rows, Positions):
        return _at(rows.positions, forward)
    raise OptionError(f"rows must be 'all', 'last', Positions or Mask, got {rows!r}.")


def take(value: Tensor, rows: Rows, forward: Forward, *, axis: int = 1) -> Tensor:
    """The chosen rows of a value whose positions are on `axis`.

    Returns:
        The value with `axis` cut to the chosen rows; with a mask, flat (rows, ...).
    """
    if isinstance(rows, str) and rows == "all":
        return value
    index = chosen(rows, forward).to(value.device)
    if index.dtype == torch.bool:
        return value.movedim(axis, 1)[index]
    moved = value.movedim(axis, 1)
    batch = torch.arange(len(moved), device=value.device)[:, None]
    return moved[batch, index].movedim(1, axis)


def replace(value: Tensor, new: Tensor, rows: Rows, forward: Forward, *, axis: int = 1) -> Tensor:
    """`value` with the chosen rows taken from `new`; the others stay bit for bit."""
    if isinstance(rows, str) and rows == "all":
        return new
    index = chosen(rows, forward).to(value.device)
    if index.dtype != torch.bool:
        mask = torch.zeros(
            forward.n_rows, forward.n_positions, dtype=torch.bool, device=value.device
        )
        index = mask.scatter(1, index, value=True)
    shape = [1] * value.ndim
    shape[0], shape[axis] = index.shape
    return torch.where(index.reshape(shape), new, value)


def _at(positions: Sequence[int], forward: Forward) -> Int[Tensor, "batch kept"]:
    starts = [0] * forward.n_rows if forward.start is None else forward.start.tolist()
    rows = [
        [_within(p, forward.offset - start, end) for p in positions]
        for start, end in zip(starts, forward.last().tolist(), strict=True)
    ]
    kept = [[index for index in row if index is not None] for row in rows]
    if len({len(row) for row in kept}) > 1:
        raise OptionError(
            f"Positions {list(positions)} must lie inside every text of the batch or of none; texts "
            "of this batch have different lengths. Run them apart, or use a Mask."
        )
    return torch.tensor(kept, dtype=torch.int64).reshape(forward.n_rows, -1)


def _within(position: int, offset: int, last: int) -> int | None:
    index = last + 1 + position if position < 0 else position - offset
    return index if 0 <= index <= last else None
