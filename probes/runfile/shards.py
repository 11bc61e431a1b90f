"""Shards: finished files of rows that the run file links to.

A shard holds whole documents: their token ids and the rows of every site, each as one contiguous
dataset with the SHA-256 of its bytes. `filling.py` writes one; a shard that exists is complete.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .h5 import array, dataset, members, texts

TOKENS = "tokens/ids"


@dataclass
class Documents:
    """Documents that go into one shard."""

    names: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    n_rows: int = 0

    def add(self, names: Sequence[str], index: Sequence[int], ids: Sequence[np.ndarray]) -> None:
        """Take in more of them."""
        self.names += names
        self.index += index
        self.ids += [np.asarray(document) for document in ids]
        self.n_rows += sum(len(document) for document in ids)


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished shard, as the run file's table lists it."""

    file: str
    n_rows: int
    names: tuple[str, ...]
    index: tuple[int, ...]
    lengths: tuple[int, ...]
    sites: dict[str, tuple[tuple[int, ...], str, tuple[str, ...]]]
    """Shape of a row, torch type and axes of every site."""

    def entry(self) -> dict[str, Any]:
        """The shard's line in the run file's table."""
        return {"file": self.file, "n_rows": self.n_rows, "n_documents": len(self.names)}


def read_shard(path: Path) -> Shard:
    """What a finished shard holds, without its rows."""
    with h5py.File(path, "r") as file:
        sites = {}
        for site in members(file, "activations"):
            held = dataset(file, f"activations/{site}")
            axes = tuple(json.loads(str(held.attrs["axes"])))
            sites[site] = (tuple(held.shape[1:]), str(held.attrs["dtype"]), axes)
        return Shard(
            file=path.name,
            n_rows=len(dataset(file, TOKENS)),
            names=texts(file, "documents/name"),
            index=tuple(int(i) for i in array(file, "documents/index")),
            lengths=tuple(int(n) for n in array(file, "documents/length")),
            sites=sites,
        )
