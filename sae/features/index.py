"""The feature index: which features fire on a text, and where a feature fires most.

One HDF5 file beside the run file holds all active latents twice: row after row, and latent after
latent with the strongest first. Both are mapped, not read, so a question costs what its answer is
long: milliseconds whatever the size of the run (`benchmarks/feature_index.py`).

    index = build_index(run, "layers.11.resid_post", sae)
    index.on_rows(1200, 1230)       # what fires on these tokens
    index.top_rows(417, 20)         # where feature 417 fires most

Layout: `rows/offsets` (N+1), `rows/latents`, `rows/values`; `latents/offsets` (p+1),
`latents/rows`, `latents/values`, `latents/sum`, `latents/sum_of_squares`; attribute `meta` (JSON).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from jaxtyping import Float, Int, Int64

from ...probes.errors import (
    DamagedRunFileError,
    MissingResultError,
    NotARunFileError,
    OptionError,
    SchemaVersionError,
)
from ...probes.runfile import Run
from ...probes.runfile.h5 import array, dataset

KIND = "fluoroscope feature index"
SCHEMA = 1
N_GRAM = 8
"""Contexts that end in the same eight tokens are shown once."""


def index_path(run: Path, site: str, name: str = "sae") -> Path:
    """Where the index of one dictionary of a run is: in a folder beside the run file."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{site}.{name}")
    return run.with_name(f"{run.stem}.features") / f"{safe}.h5"


class Firing(NamedTuple):
    """Active latents of a stretch of rows, one entry each."""

    rows: Int64[np.ndarray, " active"]
    latents: Int[np.ndarray, " active"]
    values: Float[np.ndarray, " active"]


class Strongest(NamedTuple):
    """Latents of a stretch of rows, the strongest first."""

    latents: Int[np.ndarray, " latents"]
    peaks: Float[np.ndarray, " latents"]
    """Largest activation in the stretch."""
    rows: Int64[np.ndarray, " latents"]
    """Where it is reached."""


class Contexts(NamedTuple):
    """Windows of tokens around rows, with one latent's activation on every token."""

    rows: Int64[np.ndarray, " contexts"]
    ids: Int[np.ndarray, "contexts positions"]
    """Token ids; -1 where the window leaves its document."""
    values: Float[np.ndarray, "contexts positions"]
    documents: Int64[np.ndarray, " contexts"]


@dataclass(frozen=True)
class _Mapped:
    offsets: np.ndarray
    names: np.ndarray
    values: np.ndarray

    def slice(self, first: int, last: int) -> slice:
        return slice(int(self.offsets[first]), int(self.offsets[last]))


class FeatureIndex:
    """An index opened for asking.

    Args:
        path: The index file.

    Raises:
        MissingResultError: There is none.
        NotARunFileError: It is some other file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise MissingResultError(
                f"There is no feature index {self.path}; `fluoroscope sae features` makes one."
            )
        try:
            file = h5py.File(self.path, "r")
        except OSError as error:
            raise NotARunFileError(f"{self.path.name} cannot be read: {error}") from error
        with file:
            if file.attrs.get("kind") != KIND:
                raise NotARunFileError(f"{self.path.name} is no feature index.")
            if int(str(file.attrs["schema"])) > SCHEMA:
                raise SchemaVersionError(
                    f"{self.path.name} was written by a newer version; upgrade fluoroscope."
                )
            self.meta: dict[str, Any] = json.loads(str(file.attrs["meta"]))
            self._by_row = _Mapped(
                *(self._map(file, f"rows/{name}") for name in ("offsets", "latents", "values"))
            )
            self._by_latent = _Mapped(
                *(self._map(file, f"latents/{name}") for name in ("offsets", "rows", "values"))
            )
            self._sum = array(file, "latents/sum")
        self.n_rows = len(self._by_row.offsets) - 1
        self.d_sae = len(self._by_latent.offsets) - 1

    def __repr__(self) -> str:
        n = int(self._by_row.offsets[-1])
        return (
            f"FeatureIndex({self.meta['site']}: {self.n_rows:,} rows, {self.d_sae} latents, {n:,})"
        )

    def counts(self) -> Int64[np.ndarray, " latents"]:
        """On how many rows each latent fires."""
        return np.diff(self._by_latent.offsets)

    def density(self) -> Float[np.ndarray, " latents"]:
        """Share of the kept rows on which each latent fires."""
        return self.counts() / max(self.meta["n_kept"], 1)

    def mean_active(self) -> Float[np.ndarray, " latents"]:
        """Mean size where it fires; 0 for latents that never do."""
        return self._sum / np.maximum(self.counts(), 1)

    def maxima(self) -> Float[np.ndarray, " latents"]:
        """Largest size of each latent; 0 for latents that never fire."""
        found = np.zeros(self.d_sae)
        alive = np.flatnonzero(self.counts())
        found[alive] = np.abs(self._by_latent.values[self._by_latent.offsets[alive]])
        return found

    def on_rows(self, start: int, stop: int) -> Firing:
        """What fires on the rows from `start` to `stop`.

        Raises:
            OptionError: The stretch is not within the run.
        """
        if not 0 <= start <= stop <= self.n_rows:
            raise OptionError(f"Rows must be within 0 to {self.n_rows}, got {start} to {stop}.")
        where = self._by_row.slice(start, stop)
        lengths = np.diff(self._by_row.offsets[start : stop + 1])
        rows = np.repeat(np.arange(start, stop), lengths)
        return Firing(
            rows, np.array(self._by_row.names[where]), np.array(self._by_row.values[where])
        )

    def strongest(self, start: int, stop: int, n: int = 20) -> Strongest:
        """The n latents that fire most strongly on the rows from `start` to `stop`."""
        found = self.on_rows(start, stop)
        order = np.argsort(-np.abs(found.values), kind="stable")
        _, first = np.unique(found.latents[order], return_index=True)
        kept = order[np.sort(first)[:n]]
        return Strongest(found.latents[kept], found.values[kept], found.rows[kept])

    def top_rows(self, latent: int, n: int = 20) -> tuple[np.ndarray, np.ndarray]:
        """The rows a latent fires on most strongly, and how strongly."""
        where = self._of(latent)
        where = slice(where.start, min(where.start + n, where.stop))
        return np.array(self._by_latent.names[where]), np.array(self._by_latent.values[where])

    def values_of(self, latent: int) -> Float[np.ndarray, " active"]:
        """All activations of a latent, the strongest first."""
        return np.array(self._by_latent.values[self._of(latent)])

    def rows_of(self, latent: int) -> Int64[np.ndarray, " active"]:
        """All rows a latent fires on, the strongest first."""
        return np.array(self._by_latent.names[self._of(latent)])

    def top_contexts(
        self, run: Run, latent: int, n: int = 10, *, before: int = 20, after: int = 10
    ) -> Contexts:
        """The n strongest contexts of a latent, alike ones (equal last eight tokens) shown once."""
        ids, offsets, seen, kept = run.tokens.ids, run.tokens.offsets, set(), []
        rows = self.rows_of(latent)
        for row in rows:
            first = offsets[np.searchsorted(offsets, row, side="right") - 1]
            key = ids[max(row + 1 - N_GRAM, first) : row + 1].tobytes()
            if key not in seen:
                seen.add(key)
                kept.append(row)
            if len(kept) == n:
                break
        return self.contexts(run, latent, np.array(kept, np.int64), before=before, after=after)

    def quantile_contexts(
        self,
        run: Run,
        latent: int,
        *,
        groups: int = 5,
        per_group: int = 5,
        seed: int = 0,
        before: int = 20,
        after: int = 10,
    ) -> tuple[Contexts, Int64[np.ndarray, " contexts"]]:
        """Contexts drawn evenly from each fifth of a latent's firing rows, and the fifth of each.

        Top contexts alone show a feature at its clearest; these show what it does most of the time.
        Group 0 holds the strongest fifth.
        """
        rows = self.rows_of(latent)
        generator = np.random.default_rng([seed, latent])
        kept, group = [], []
        for number, part in enumerate(np.array_split(rows, groups)):
            chosen = generator.permutation(part)[:per_group]
            kept.append(chosen)
            group.append(np.full(len(chosen), number))
        where = np.concatenate(kept)
        found = self.contexts(run, latent, where, before=before, after=after)
        return found, np.concatenate(group)

    def contexts(
        self, run: Run, latent: int, rows: Int64[np.ndarray, " n"], *, before: int, after: int
    ) -> Contexts:
        """Windows around given rows, cut at the ends of their documents."""
        offsets = run.tokens.offsets
        documents = np.searchsorted(offsets, rows, side="right") - 1
        width = before + 1 + after
        ids = np.full((len(rows), width), -1, dtype=np.int64)
        values = np.zeros((len(rows), width), dtype=np.float32)
        for number, (row, document) in enumerate(zip(rows, documents, strict=True)):
            start = max(int(row) - before, int(offsets[document]))
            stop = min(int(row) + after + 1, int(offsets[document + 1]))
            at = start - int(row) + before
            ids[number, at : at + stop - start] = run.tokens.ids[start:stop]
            firing = self.on_rows(start, stop)
            ours = firing.latents == latent
            values[number, at + firing.rows[ours] - start] = firing.values[ours]
        return Contexts(rows, ids, values, documents.astype(np.int64))

    def _of(self, latent: int) -> slice:
        if not 0 <= latent < self.d_sae:
            raise OptionError(f"Features are numbered 0 to {self.d_sae - 1}, got {latent}.")
        return self._by_latent.slice(latent, latent + 1)

    def _map(self, file: h5py.File, name: str) -> np.ndarray:
        held = dataset(file, name)
        offset = held.id.get_offset()
        if not held.size or offset is None:
            return np.zeros(held.shape, dtype=held.dtype)
        if self.path.stat().st_size < offset + held.size * held.dtype.itemsize:
            raise DamagedRunFileError(f"{self.path.name} is cut short; build it again.")
        return np.memmap(self.path, dtype=held.dtype, mode="r", offset=offset, shape=held.shape)


def find_tokens(run: Run, ids: Int[np.ndarray, " tokens"]) -> Int64[np.ndarray, " places"]:
    """Rows where a sequence of tokens begins in a run, within documents.

    With it a text that occurs in the run is answered from the index without the model.

    Raises:
        OptionError: No token is given.
    """
    if not len(ids):
        raise OptionError("find_tokens needs at least one token, got none.")
    held = run.tokens.ids
    last = len(held) - len(ids) + 1
    places = np.flatnonzero(held[: max(last, 0)] == ids[0])
    for number, token in enumerate(ids[1:], start=1):
        places = places[held[places + number] == token]
    ends = run.tokens.offsets[np.searchsorted(run.tokens.offsets, places, side="right")]
    return places[places + len(ids) <= ends].astype(np.int64)
