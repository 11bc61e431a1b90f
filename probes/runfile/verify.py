"""Is a run file whole? Links, lengths, and the digest of every dataset in every shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .h5 import array, dataset, members
from .mainfile import shard_folder


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked and what does not hold."""

    n_shards: int
    n_rows: int
    quick: bool
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether everything holds."""
        return not self.problems

    def as_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return {
            "ok": self.ok,
            "n_shards": self.n_shards,
            "n_rows": self.n_rows,
            "quick": self.quick,
            "problems": list(self.problems),
        }

    def __str__(self) -> str:
        what = "lengths and links" if self.quick else "lengths, links and digests"
        state = "hold" if self.ok else f"do not all hold ({len(self.problems)} problems)"
        return f"{self.n_rows:,} rows in {self.n_shards} shards: {what} {state}."


def verify_run(path: Path, *, quick: bool) -> VerifyReport:
    """Check a run file.

    Args:
        path: The run file.
        quick: Whether to leave out the digests, which read every byte.
    """
    with h5py.File(path, "r") as file:
        entries = json.loads(str(file.attrs["shards"]))
        offsets = array(file, "tokens/offsets")
        names = len(dataset(file, "documents/name"))
        held = members(file, "activations")
        sites = {site: len(dataset(file, f"activations/{site}")) for site in held}
    n_rows = sum(entry["n_rows"] for entry in entries)
    problems = []
    if int(offsets[-1]) != n_rows or len(offsets) != names + 1 or (np.diff(offsets) < 0).any():
        problems.append(f"{path.name}: document offsets do not cut {n_rows} rows into {names}")
    problems += [
        f"{path.name}: {site} has {length} rows, expected {n_rows}"
        for site, length in sites.items()
        if length != n_rows
    ]
    for entry in entries:
        problems += _check_shard(shard_folder(path) / entry["file"], entry, set(sites), quick=quick)
    return VerifyReport(n_shards=len(entries), n_rows=n_rows, quick=quick, problems=tuple(problems))


def _check_shard(
    path: Path, entry: dict[str, Any], sites: set[str], *, quick: bool
) -> Iterator[str]:
    try:
        with h5py.File(path, "r") as file:
            held = set(members(file, "activations"))
            if held != sites:
                yield f"{path.name}: holds other sites than the run ({sorted(held ^ sites)[:3]})"
            for name in ("tokens/ids", *(f"activations/{site}" for site in sorted(held))):
                yield from _check_dataset(
                    path.name, dataset(file, name), entry["n_rows"], quick=quick
                )
    except (OSError, KeyError, RuntimeError) as error:
        yield f"{path.name}: cannot be read ({error})"


def _check_dataset(shard: str, data: h5py.Dataset, n_rows: int, *, quick: bool) -> Iterator[str]:
    if len(data) != n_rows:
        yield f"{shard}: {data.name} has {len(data)} rows, expected {n_rows}"
    elif not quick and _digest(data) != data.attrs["sha256"]:
        yield f"{shard}: the bytes of {data.name} do not match their digest"


def _digest(data: h5py.Dataset, rows: int = 4096) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(data), rows):
        piece = np.ascontiguousarray(data[start : start + rows])
        digest.update(piece.tobytes())
    return digest.hexdigest()
