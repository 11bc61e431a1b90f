"""What became of every row that passed the target: prompt, text, or thrown away.

Hooks see the rows of a forward pass, drafted ones included. The log says which of them are the
text's, so that states can be told apart afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Int

ROW_KINDS = ("prompt", "bonus", "accepted", "rejected", "pending")
"""Prompt; a token the target chose itself; a drafted token that became text; one that did not; one
about which nothing is decided yet."""


class RowLog:
    """One entry per row, in the order the rows passed the model."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._kinds: list[str] = []

    def __len__(self) -> int:
        return len(self._kinds)

    def fed(self, positions: Iterable[int], kind: str) -> None:
        """Rows passed the model."""
        before = len(self._positions)
        self._positions.extend(positions)
        self._kinds.extend([kind] * (len(self._positions) - before))

    def committed(self, path: Sequence[int], n_pending: int) -> None:
        """The last `n_pending` rows were decided about; those in `path` became text."""
        first = len(self._kinds) - n_pending
        self._kinds[first:] = ["rejected"] * n_pending
        for step, node in enumerate(path):
            self._kinds[first + node] = "accepted" if step else "bonus"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of each row, one of `ROW_KINDS`."""
        return tuple(self._kinds)

    @property
    def positions(self) -> Int[np.ndarray, " rows"]:
        """Position in the text that each row stands, or would have stood, at."""
        return np.array(self._positions, dtype=np.int64)

    @property
    def is_text(self) -> Bool[np.ndarray, " rows"]:
        """Which rows are the text's, in the order of the text."""
        return np.array([kind in ("prompt", "bonus", "accepted") for kind in self._kinds])
