"""Reading a run file: what it came from, its tokens, rows as torch tensors, results and traces."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import torch
from jaxtyping import Int64

from ..errors import (
    DamagedRunFileError,
    MissingResultError,
    RunFileError,
    RunMismatchError,
    UnknownSiteError,
)
from ..markup import table_html
from ..results import Result
from ..vocabulary import Vocabulary
from .activations import Activations
from .atomic import sole_writer
from .batches import row_batches
from .h5 import array, members, subgroup, texts
from .mainfile import edit_main, shard_folder
from .opening import open_main, open_shard
from .provenance import Provenance
from .schema import SCHEMA
from .tokens import Tokens
from .verify import VerifyReport, verify_run

R = TypeVar("R", bound=Result)
MOST_TOLD = 12
"""Names of sites, results or traces a notebook shows."""


class Run:
    """An open run file. Made by `open_run`; what it shows is the last committed state."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_main(path) as file:
            try:
                self.provenance = Provenance.from_dict(json.loads(str(file.attrs["provenance"])))
                self.complete = bool(file.attrs["complete"])
                self.shards: list[dict[str, Any]] = json.loads(str(file.attrs["shards"]))
            except (KeyError, TypeError, ValueError) as error:
                raise DamagedRunFileError(
                    f"{path.name} is damaged: what it says of itself cannot be read "
                    f"({type(error).__name__}: {error}). Copy it again, or capture again."
                ) from error
            self.sites: tuple[str, ...] = members(file, "activations")
            self.results: tuple[str, ...] = members(file, "results")
            self.traces: tuple[str, ...] = members(file, "trace")
        missing = [e["file"] for e in self.shards if not (self._folder / e["file"]).is_file()]
        if missing:
            raise DamagedRunFileError(
                f"{path.name} needs the folder {self._folder.name} beside it; missing there: "
                f"{', '.join(missing[:3])}. Move both together, or capture again."
            )

    @property
    def _folder(self) -> Path:
        return shard_folder(self.path)

    def refresh(self) -> Run:
        """The run as it is now, if it is still being written."""
        return Run(self.path)

    @cached_property
    def tokens(self) -> Tokens:
        """Token ids and documents."""
        with open_main(self.path) as file:
            offsets = array(file, "tokens/offsets")
            parts = []
            for entry in self.shards:
                with open_shard(self._folder / entry["file"]) as shard:
                    parts.append(array(shard, "tokens/ids"))
            ids = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int32)
            names = texts(file, "documents/name")
            return Tokens(ids, offsets, names, array(file, "documents/index"))

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Bytes of every token.

        Raises:
            MissingResultError: The run was written without.
        """
        with open_main(self.path) as file:
            if "vocabulary" not in file:
                raise MissingResultError(f"{self.path.name} holds no vocabulary.")
            group = subgroup(file, "vocabulary")
            data, offsets = array(group, "bytes").tobytes(), array(group, "offsets")
            pieces = [data[a:b] for a, b in pairwise(offsets)]
            return Vocabulary(tuple(pieces), frozenset(int(i) for i in array(group, "special")))

    @property
    def has_vocabulary(self) -> bool:
        """Whether token bytes are in the file."""
        with open_main(self.path) as file:
            return "vocabulary" in file

    @cached_property
    def activations(self) -> Mapping[str, Activations]:
        """Rows by site name."""
        return _Sites(self)

    def batches(
        self,
        sites: str | list[str],
        size: int,
        *,
        shuffle: bool = False,
        seed: int | Sequence[int] = 0,
        memory_bytes: int = 2**30,
        block_rows: int = 1024,
        device: torch.device | str | None = None,
        drop_last: bool = False,
        rows: Int64[np.ndarray, " chosen"] | None = None,
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Batches of rows, every row once, several sites aligned by row.

        Shuffled batches are drawn from windows of randomly chosen blocks of neighbouring rows; a
        window holds up to `memory_bytes` of rows, so with enough of it every batch is a uniform
        sample. Within a batch rows of one shard stand together.

        Args:
            sites: Site name or names.
            size: Rows per batch; the last may be smaller.
            shuffle: Whether to mix rows.
            seed: Fixes the order; several numbers (a seed and an epoch) count as one seed.
            memory_bytes: How much of the file a window may span (read through the page cache).
            block_rows: Rows that are read together.
            device: Where the tensors go; None for the CPU.
            drop_last: Whether a smaller last batch is left out.
            rows: Numbers of the rows that are wanted; None for all. Which rows these are does not
                change the order of the rest.
        """
        names = [sites] if isinstance(sites, str) else sites
        return row_batches(
            {name: self.activations[name] for name in names},
            size,
            shuffle=shuffle,
            seed=seed,
            memory_bytes=memory_bytes,
            block_rows=block_rows,
            device=device,
            drop_last=drop_last,
            rows=rows,
        )

    def result(self, name: str, kind: type[R]) -> R:
        """A stored result.

        Raises:
            MissingResultError: The run does not hold it.
        """
        with self.reading() as file:
            if f"results/{name}" not in file:
                held = ", ".join(self.results) or "none"
                raise MissingResultError(
                    f"{self.path.name} holds no result {name!r} (it holds: {held}). "
                    f"`fluoroscope xray` or the analysis of that name adds it."
                )
            return kind.load(subgroup(file, f"results/{name}"))

    def add_result(self, name: str, result: Result) -> None:
        """Store a result under a name, replacing one that is there."""
        with self.edit() as file:
            if f"results/{name}" in file:
                del file[f"results/{name}"]
            result.save(file.create_group(f"results/{name}"))

    @contextmanager
    def edit(self) -> Iterator[h5py.File]:
        """A writable copy of the main file that replaces it when the block ends well.

        Raises:
            RunFileError: Another process is writing the run.
        """
        with sole_writer(self.path), edit_main(self.path) as file:
            yield file
        now = Run(self.path)
        self.results, self.traces = now.results, now.traces

    @contextmanager
    def reading(self) -> Iterator[h5py.File]:
        """The main file, open for reading."""
        with open_main(self.path) as file:
            yield file

    def require(self, *, weights_digest: str, tokenizer_digest: str | None = None) -> None:
        """Make sure the run came from this model.

        Raises:
            RunMismatchError: It did not; both digests are named.
        """
        for what, given in (("weights", weights_digest), ("tokenizer", tokenizer_digest)):
            stored = self.provenance.model.get(f"{what}_digest")
            if given is not None and stored is not None and stored != given:
                raise RunMismatchError(
                    f"{self.path.name} was captured from {self.provenance.model.get('name')} with "
                    f"{what} {stored[:12]}, but this model has {given[:12]}. Open the same model."
                )

    def verify(self, *, quick: bool = False) -> VerifyReport:
        """Check lengths and links, and unless `quick` the digest of every shard."""
        return verify_run(self.path, quick=quick)

    def summary(self) -> dict[str, Any]:
        """What the run holds, ready for JSON."""
        rows = sum(entry["n_rows"] for entry in self.shards)
        return {
            "path": self.path.name,
            "schema": SCHEMA,
            "complete": self.complete,
            "created": self.provenance.created,
            "model": self.provenance.model.get("name"),
            "weights_digest": self.provenance.model.get("weights_digest"),
            "corpus": self.provenance.corpus.get("description"),
            "n_tokens": rows,
            "n_documents": sum(entry["n_documents"] for entry in self.shards),
            "sites": list(self.sites),
            "results": list(self.results),
            "traces": list(self.traces),
            "n_shards": len(self.shards),
        }

    def __repr__(self) -> str:
        rows = sum(entry["n_rows"] for entry in self.shards)
        state = "complete" if self.complete else "incomplete"
        return (
            f"Run({self.path.name}: {rows:,} tokens, {len(self.sites)} sites, "
            f"{len(self.results)} results, {len(self.traces)} traces, {state})"
        )

    def _repr_html_(self) -> str:
        rows = [(key, _told(value)) for key, value in self.summary().items()]
        return table_html(repr(self), rows)


def _told(value: Any) -> str:
    if isinstance(value, list):
        more = f", ... ({len(value)})" if len(value) > MOST_TOLD else ""
        return f"{', '.join(map(str, value[:MOST_TOLD]))}{more}" or "none"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class _Sites(Mapping[str, Activations]):
    """Activations by site, opened when asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open: dict[str, Activations] = {}

    def __getitem__(self, name: str) -> Activations:
        if name not in self._run.sites:
            held = ", ".join(self._run.sites[:4]) or "none"
            raise UnknownSiteError(
                f"{self._run.path.name} holds no rows of {name!r}; it holds {held}"
                f"{', ...' if len(self._run.sites) > 4 else ''}. Capture with --sites {name!r}."
            )
        if name not in self._open:
            files = [shard_folder(self._run.path) / entry["file"] for entry in self._run.shards]
            self._open[name] = Activations(name, files)
        return self._open[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.sites)

    def __len__(self) -> int:
        return len(self._run.sites)


def open_run(path: str | Path) -> Run:
    """Open a run file for reading; also one that is still being written.

    Raises:
        RunFileError: There is no such file.
        NotARunFileError: It is some other file.
        SchemaVersionError: It was written by a newer version.
        DamagedRunFileError: It cannot be read, or shards are missing.
    """
    path = Path(path)
    if not path.is_file():
        raise RunFileError(
            f"There is no run file {path}; `fluoroscope capture -o {path}` makes one."
        )
    return Run(path)
