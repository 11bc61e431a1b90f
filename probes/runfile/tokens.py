"""The flat token axis of a run, and how documents cut it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, Int64


@dataclass(frozen=True)
class Tokens:
    """The flat token axis and how documents cut it."""

    ids: Int32[np.ndarray, " tokens"]
    offsets: Int64[np.ndarray, " documents_plus_1"]
    names: tuple[str, ...]
    """Name of each document."""
    index: Int64[np.ndarray, " documents"]
    """Number of each document in the corpus."""

    def document(self, number: int) -> Int32[np.ndarray, " tokens"]:
        """Token ids of one document."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def document_of(self, row: int) -> int:
        """Which document a row belongs to."""
        return int(np.searchsorted(self.offsets, row, side="right") - 1)

    @property
    def n_documents(self) -> int:
        """Number of documents."""
        return len(self.offsets) - 1

    def positions(self) -> Int64[np.ndarray, " tokens"]:
        """Position of every row in its document."""
        starts = np.repeat(self.offsets[:-1], np.diff(self.offsets))
        return np.arange(len(self.ids)) - starts
