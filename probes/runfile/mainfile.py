"""The main file: small, and only ever replaced whole.

It holds provenance, vocabulary, traces and results themselves, and the rows as virtual datasets over
the shards, so that any HDF5 reader sees /activations/<site> as one array.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from ..storable import text_array
from .atomic import replacing
from .provenance import Provenance
from .schema import ROOT_KIND, SCHEMA, STORED
from .shards import TOKENS, Shard

KEPT = ("vocabulary", "trace", "results", "invocations")
"""Groups that live in the main file itself and pass from one version of it to the next."""


def shard_folder(path: Path) -> Path:
    """Where the shards of a run file are: beside it, so that both move together."""
    return path.with_name(f"{path.stem}.shards")


def write_main(
    path: Path,
    provenance: Provenance,
    shards: Sequence[Shard],
    *,
    complete: bool,
    vocabulary: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> None:
    """Replace the main file by one that links `shards`.

    Args:
        path: The run file.
        provenance: Where the run comes from.
        shards: Finished shards, in the order of their rows.
        complete: Whether everything asked for has been captured.
        vocabulary: (bytes, offsets, special), where the file does not have it yet.
    """
    with replacing(path) as partial, h5py.File(partial, "w", libver="latest") as new:
        new.attrs["kind"] = ROOT_KIND
        new.attrs["schema"] = SCHEMA
        new.attrs["created"] = provenance.created
        new.attrs["complete"] = complete
        new.attrs["provenance"] = json.dumps(provenance.as_dict())
        new.attrs["shards"] = json.dumps([shard.entry() for shard in shards])
        _link(new, path, shards)
        if path.exists():
            with h5py.File(path, "r") as old:
                for group in KEPT:
                    if group in old:
                        old.copy(group, new)
        if vocabulary is not None and "vocabulary" not in new:
            for name, array in zip(("bytes", "offsets", "special"), vocabulary, strict=True):
                new[f"vocabulary/{name}"] = array


def _link(new: h5py.File, path: Path, shards: Sequence[Shard]) -> None:
    folder = shard_folder(path).name
    lengths = np.array([n for shard in shards for n in shard.lengths], dtype=np.int64)
    new["tokens/offsets"] = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    names = [name for shard in shards for name in shard.names]
    new["documents/name"] = text_array(names)
    index = [i for shard in shards for i in shard.index]
    new["documents/index"] = np.array(index, dtype=np.int64)
    n_rows = int(lengths.sum())
    _virtual(new, TOKENS, (), np.dtype(np.int32), n_rows, folder, shards)
    for site, (shape, dtype, axes) in shards[0].sites.items() if shards else ():
        stored = next(np_type for torch_type, np_type in STORED.items() if dtype in str(torch_type))
        name = f"activations/{site}"
        dataset = _virtual(new, name, shape, stored, n_rows, folder, shards)
        dataset.attrs["dtype"] = dtype
        dataset.attrs["axes"] = json.dumps(list(axes))


def _virtual(
    new: h5py.File,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
    n_rows: int,
    folder: str,
    shards: Sequence[Shard],
) -> h5py.Dataset:
    if not shards:
        return new.create_dataset(name, shape=(0, *shape), dtype=dtype)
    layout = h5py.VirtualLayout(shape=(n_rows, *shape), dtype=dtype)
    start = 0
    for shard in shards:
        source = h5py.VirtualSource(
            f"{folder}/{shard.file}", name, shape=(shard.n_rows, *shape), dtype=dtype
        )
        layout[start : start + shard.n_rows] = source
        start += shard.n_rows
    return new.create_virtual_dataset(name, layout)


@contextmanager
def edit_main(path: Path) -> Iterator[h5py.File]:
    """A writable copy of the main file that takes its place when the block ends well."""
    with replacing(path) as partial:
        partial.write_bytes(path.read_bytes())
        with h5py.File(partial, "r+", libver="latest") as file:
            yield file
