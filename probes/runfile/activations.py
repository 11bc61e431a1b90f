"""Rows of one site, read through memory maps at the speed of the page cache."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from jaxtyping import Int64

from ..errors import DamagedRunFileError
from .schema import to_torch


class Activations:
    """Rows of one site over all shards.

    Each shard's rows are contiguous in its file, so they are mapped, not read: a slice costs nothing
    until it is touched. Maps are made per process, so a run survives `fork`.

    Args:
        site: Site name.
        files: Shard files, in row order.
    """

    def __init__(self, site: str, files: Sequence[Path]) -> None:
        self.site, self._files = site, list(files)
        self._maps: list[torch.Tensor] = []
        self._pid = -1
        self._lengths, self.row_shape, self.dtype_name, self.axes = self._layout()
        self.starts = np.concatenate([[0], np.cumsum(self._lengths)]).astype(np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, ...)."""
        return (int(self.starts[-1]), *self.row_shape)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return getattr(torch, self.dtype_name)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __repr__(self) -> str:
        return f"Activations({self.site}: {self.shape}, {self.dtype_name})"

    def read(self, rows: slice | Int64[np.ndarray, " n"] | None = None) -> torch.Tensor:
        """Rows as a tensor of their own.

        Args:
            rows: A slice, or row numbers in any order; None for all.
        """
        if isinstance(rows, np.ndarray):
            return self.gather(rows)
        start, stop, step = (rows or slice(None)).indices(len(self))
        if step != 1:
            return self.gather(np.arange(start, stop, step))
        pieces = [
            shard[max(start - first, 0) : stop - first]
            for first, shard in zip(self.starts, self.maps(), strict=False)
            if first < stop and first + len(shard) > start
        ]
        if not pieces:
            return torch.empty(0, *self.row_shape, dtype=self.dtype)
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0].clone()

    def gather(self, rows: Int64[np.ndarray, " n"]) -> torch.Tensor:
        """Rows by number, in the order given."""
        maps = self.maps()
        if len(maps) == 1:
            return maps[0].index_select(0, torch.from_numpy(rows))
        shard_of = self.shard_of(rows)
        if (np.diff(shard_of) < 0).any():
            grouped = np.argsort(shard_of, kind="stable")
            return self.gather(rows[grouped])[torch.from_numpy(np.argsort(grouped))]
        out = torch.empty(len(rows), *self.row_shape, dtype=self.dtype)
        bounds = np.searchsorted(shard_of, np.arange(len(maps) + 1))
        for shard, (start, stop) in enumerate(pairwise(bounds.tolist())):
            if start < stop:
                local = torch.from_numpy(rows[start:stop] - self.starts[shard])
                torch.index_select(maps[shard], 0, local, out=out[start:stop])
        return out

    def shard_of(self, rows: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Which shard each row is in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def maps(self) -> list[torch.Tensor]:
        """One tensor per shard over the file's own bytes; must not be written to."""
        if self._pid != os.getpid():
            self._maps = [self._map(path) for path in self._files]
            self._pid = os.getpid()
        return self._maps

    def _layout(self) -> tuple[list[int], tuple[int, ...], str, tuple[str, ...]]:
        lengths, shape, dtype, axes = [], (), "float32", ()
        for path in self._files:
            with h5py.File(path, "r") as file:
                held = self._dataset(file)
                lengths.append(len(held))
                shape, dtype = tuple(held.shape[1:]), str(held.attrs["dtype"])
                axes = tuple(json.loads(str(held.attrs["axes"])))
        return lengths, shape, dtype, axes

    def _map(self, path: Path) -> torch.Tensor:
        with h5py.File(path, "r") as file:
            dataset = self._dataset(file)
            offset, shape, stored = dataset.id.get_offset(), dataset.shape, dataset.dtype
        if offset is None:
            return torch.empty(shape, dtype=self.dtype)
        if path.stat().st_size < offset + int(np.prod(shape)) * stored.itemsize:
            raise DamagedRunFileError(
                f"Shard {path.name} is cut short; `fluoroscope verify` tells what is whole."
            )
        # Copy-on-write: torch wants writable memory, and the file must stay as it is.
        array = np.memmap(path, dtype=stored, mode="c", offset=offset, shape=shape)
        return to_torch(array, self.dtype_name)

    def _dataset(self, file: h5py.File) -> h5py.Dataset:
        dataset = file.get(f"activations/{self.site}")
        if not isinstance(dataset, h5py.Dataset):
            raise DamagedRunFileError(f"{Path(file.filename).name} holds no rows of {self.site}.")
        return dataset
