"""Shards: finished files of rows that the run file links to.

A shard holds whole documents: their token ids and the rows of every site, each as one contiguous
dataset with the SHA-256 of its bytes. It is written in one go, synced and renamed; a shard that
exists is complete.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ..storable import text_array
from .atomic import replacing
from .h5 import array, dataset, members, texts
from .schema import STORED, dtype_name, to_numpy

TOKENS = "tokens/ids"


@dataclass
class Pending:
    """Documents collected for the next shard."""

    names: list[str] = field(default_factory=list)
    index: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    ids: list[np.ndarray] = field(default_factory=list)
    rows: dict[str, list[torch.Tensor]] = field(default_factory=dict)
    n_bytes: int = 0

    def add(
        self,
        names: list[str],
        index: list[int],
        ids: list[np.ndarray],
        rows: dict[str, torch.Tensor],
    ) -> None:
        """Take in documents; `rows` hold theirs, concatenated in the same order."""
        self.names += names
        self.index += index
        self.ids += ids
        self.lengths += [len(document) for document in ids]
        for site, values in rows.items():
            self.rows.setdefault(site, []).append(values)
            self.n_bytes += values.numel() * values.element_size()


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


def write_shard(path: Path, pending: Pending, axes: dict[str, tuple[str, ...]]) -> Shard:
    """Write a shard; it appears whole under `path`.

    Raises:
        IncompleteError: The disk is full.
    """
    with replacing(path) as partial, h5py.File(partial, "w", libver="latest") as file:
        _write(file, TOKENS, [ids.astype(np.int32) for ids in pending.ids], np.dtype(np.int32))
        for site, values in pending.rows.items():
            dtype = values[0].dtype
            written = _write(
                file, f"activations/{site}", [to_numpy(v) for v in values], STORED[dtype]
            )
            written.attrs["dtype"] = dtype_name(dtype)
            written.attrs["axes"] = json.dumps(list(axes.get(site, ())))
        file["documents/name"] = text_array(pending.names)
        file["documents/index"] = np.array(pending.index, dtype=np.int64)
        file["documents/length"] = np.array(pending.lengths, dtype=np.int64)
    return read_shard(path)


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


def _write(file: h5py.File, name: str, pieces: list[np.ndarray], dtype: np.dtype) -> h5py.Dataset:
    n_rows = sum(len(piece) for piece in pieces)
    shape = (n_rows, *(pieces[0].shape[1:] if pieces else ()))
    written = file.create_dataset(name, shape=shape, dtype=dtype, fillvalue=None)
    digest, start = hashlib.sha256(), 0
    for piece in pieces:
        written[start : start + len(piece)] = piece
        digest.update(np.ascontiguousarray(piece).data)
        start += len(piece)
    written.attrs["sha256"] = digest.hexdigest()
    return written
