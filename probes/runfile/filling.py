"""A shard while it fills: rows reach the disk as they come, and the shard appears whole or not at all.

How many rows there will be is said beforehand, so that every site is one contiguous dataset from the
start. Rows are digested and synced on the way: when the last one comes, little is left to do. Should
fewer come (an interruption), the rows of whole documents are copied into a shard of their size.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import torch

from ..storable import text_array
from .atomic import PARTIAL, replacing, telling_when_full
from .h5 import dataset, members
from .schema import STORED, dtype_name, to_numpy
from .shards import TOKENS, Documents, Shard, read_shard

SYNC_BYTES = 32 * 2**20
"""Rows are pushed to the disk whenever this much was written, so that finishing does not wait."""

COPY_ROWS = 8192
"""Rows copied at a time where a shard ends early."""


class FillingShard:
    """One shard being written; whatever fails takes its remains with it.

    Args:
        path: Where the shard will appear.
        n_rows: How many rows every site will have.
        axes: Names of the axes of each site's rows, without the row axis.
    """

    def __init__(self, path: Path, n_rows: int, axes: dict[str, tuple[str, ...]]) -> None:
        self.path, self.n_rows = path, n_rows
        self._axes = axes
        self._filling = path.with_name(f"{path.name}.{os.getpid()}.filling{PARTIAL}")
        self._file: h5py.File | None = None
        self._filled: dict[str, int] = {}
        self._digests: dict[str, hashlib._Hash] = {}
        self._unsynced = 0

    def write(self, site: str, rows: torch.Tensor) -> None:
        """Add rows of one site after those that came before.

        Raises:
            IncompleteError: The disk is full.
        """
        with self._whole_or_gone():
            file = self._opened()
            values = np.ascontiguousarray(to_numpy(rows))
            if site not in self._filled:
                _create(file, site, (self.n_rows, *values.shape[1:]), rows.dtype, self._axes)
                self._filled[site], self._digests[site] = 0, hashlib.sha256()
            start = self._filled[site]
            dataset(file, f"activations/{site}")[start : start + len(values)] = values
            self._digests[site].update(values.data)
            self._filled[site] += len(values)
            self._unsynced += values.nbytes
            if self._unsynced >= SYNC_BYTES:
                self._sync(file)

    def finish(self, documents: Documents) -> Shard:
        """Close the shard over `documents`; it appears under its path.

        Rows that go beyond those documents are left out.

        Raises:
            IncompleteError: The disk is full.
        """
        with self._whole_or_gone(), replacing(self.path) as partial:
            file = self._opened()
            if documents.n_rows == self.n_rows:
                for site, digest in self._digests.items():
                    dataset(file, f"activations/{site}").attrs["sha256"] = digest.hexdigest()
                _write_documents(file, documents)
                file.close()
                self._filling.replace(partial)
            else:
                with h5py.File(partial, "w", libver="latest") as short:
                    self._copy(file, short, documents.n_rows)
                    _write_documents(short, documents)
                self.abandon()
        return read_shard(self.path)

    def abandon(self) -> None:
        """Forget what was written."""
        if self._file is not None:
            with suppress(OSError, RuntimeError):  # a full disk fails here once more
                self._file.close()
        self._filling.unlink(missing_ok=True)

    def _opened(self) -> h5py.File:
        if self._file is None:
            self._file = h5py.File(self._filling, "w", libver="latest")
        return self._file

    def _sync(self, file: h5py.File) -> None:
        file.flush()
        with self._filling.open("rb") as held:
            os.fdatasync(held.fileno())
        self._unsynced = 0

    def _copy(self, file: h5py.File, short: h5py.File, n_rows: int) -> None:
        for site in members(file, "activations"):
            held = dataset(file, f"activations/{site}")
            name = str(held.attrs["dtype"])
            shape = (n_rows, *held.shape[1:])
            made = _create(short, site, shape, getattr(torch, name), self._axes)
            digest = hashlib.sha256()
            for start in range(0, n_rows, COPY_ROWS):
                values = np.asarray(held[start : min(start + COPY_ROWS, n_rows)])
                made[start : start + len(values)] = values
                digest.update(values.data)
            made.attrs["sha256"] = digest.hexdigest()

    @contextmanager
    def _whole_or_gone(self) -> Iterator[None]:
        try:
            with telling_when_full(self.path):
                yield
        except BaseException:
            self.abandon()
            raise


def _create(
    file: h5py.File,
    site: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    axes: dict[str, tuple[str, ...]],
) -> h5py.Dataset:
    made = file.create_dataset(
        f"activations/{site}", shape=shape, dtype=STORED[dtype], fillvalue=None
    )
    made.attrs["dtype"] = dtype_name(dtype)
    made.attrs["axes"] = json.dumps(list(axes.get(site, ())))
    return made


def _write_documents(file: h5py.File, documents: Documents) -> None:
    ids = np.concatenate(documents.ids).astype(np.int32)
    file[TOKENS] = ids
    dataset(file, TOKENS).attrs["sha256"] = hashlib.sha256(ids.data).hexdigest()
    file["documents/name"] = text_array(documents.names)
    file["documents/index"] = np.array(documents.index, dtype=np.int64)
    file["documents/length"] = np.array([len(i) for i in documents.ids], dtype=np.int64)
