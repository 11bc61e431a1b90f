"""Writing a run file: documents go in, shards come out, nothing committed is ever lost.

Rows are collected in memory up to a shard's size and handed to a background thread that writes the
shard, renames it and replaces the main file, while the model goes on computing. After `kill -9` at
any moment the run file opens and holds every committed row.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
import torch
from jaxtyping import Int

from ..errors import FluoroscopeError, OptionError, RunExistsError, RunFileError, RunMismatchError
from ..vocabulary import Vocabulary
from .atomic import PARTIAL, is_disk_full, sole_writer
from .h5 import array, subgroup
from .mainfile import shard_folder, write_main
from .provenance import Provenance
from .reader import open_run
from .shards import Pending, Shard, read_shard, write_shard

SHARD_BYTES = 128 * 2**20
COMMIT_EVERY_S = 60.0


class RunWriter:
    """A run file being written. Made by `create_run`; use it as a context manager.

    Attributes:
        stall_s: Seconds `append` had to wait for the disk.
    """

    def __init__(
        self,
        path: Path,
        provenance: Provenance,
        shards: list[Shard],
        *,
        shard_bytes: int,
        commit_every_s: float,
        prefix: str,
    ) -> None:
        self.path, self.stall_s = path, 0.0
        self._provenance, self._shards = provenance, shards
        self._shard_bytes, self._commit_every_s = shard_bytes, commit_every_s
        self._prefix, self._n_committed = prefix, 0
        self._pending, self._started = Pending(), time.monotonic()
        self._axes: dict[str, tuple[str, ...]] = {}
        self._vocabulary: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._full: queue.Queue[Pending | None] = queue.Queue(maxsize=1)
        self._failure: BaseException | None = None
        self._closing = ExitStack()
        self._thread = threading.Thread(target=self._work, name="fluoroscope-writer", daemon=True)

    def __enter__(self) -> RunWriter:
        self._closing.enter_context(sole_writer(self.path))
        self._write_main(complete=False)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._thread.is_alive():
                self.close(complete=False)
        except FluoroscopeError:
            if error is None:
                raise
        finally:
            self._closing.close()

    def set_vocabulary(self, vocabulary: Vocabulary) -> None:
        """Store the bytes of every token, so that readers need no tokenizer."""
        lengths = [len(token) for token in vocabulary.token_bytes]
        self._vocabulary = (
            np.frombuffer(b"".join(vocabulary.token_bytes), dtype=np.uint8),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.array(sorted(vocabulary.special), dtype=np.int32),
        )

    def set_axes(self, axes: dict[str, tuple[str, ...]]) -> None:
        """Name the axes of each site's rows (without the row axis)."""
        self._axes = axes

    @property
    def n_documents(self) -> int:
        """Documents committed: the main file links them, whatever happens next."""
        return self._n_committed

    def append(
        self,
        names: Sequence[str],
        index: Sequence[int],
        ids: Sequence[Int[np.ndarray, " _"]],
        activations: dict[str, torch.Tensor],
    ) -> None:
        """Add whole documents.

        Args:
            names: Name of each document.
            index: Number of each in the corpus.
            ids: Token ids of each.
            activations: For every site the rows of all these documents, in order. The tensors are
                kept until written and must not be changed.

        Raises:
            OptionError: A site has another number of rows than there are tokens.
            RunFileError: Writing failed since the last call.
            IncompleteError: The disk is full; what was committed is kept.
        """
        self._raise_failure()
        n_tokens = sum(len(document) for document in ids)
        for site, rows in activations.items():
            if len(rows) != n_tokens:
                raise OptionError(
                    f"{site} has {len(rows)} rows for {n_tokens} tokens; give one each."
                )
        self._pending.add(list(names), list(index), [np.asarray(i) for i in ids], activations)
        late = time.monotonic() - self._started > self._commit_every_s
        if self._pending.n_bytes >= self._shard_bytes or late:
            self.commit()

    def commit(self) -> None:
        """Hand what was collected to the background thread; it is committed when that is done."""
        self._raise_failure()
        if self._pending.names:
            waiting = time.monotonic()
            self._full.put(self._pending)
            self.stall_s += time.monotonic() - waiting
            self._pending = Pending()
        self._started = time.monotonic()

    def close(self, *, complete: bool = True) -> None:
        """Commit everything and finish.

        Args:
            complete: Whether everything asked for is in the file.

        Raises:
            RunFileError: Writing failed.
            IncompleteError: The disk is full; what was committed is kept.
        """
        if self._failure is None:
            self.commit()
        self._full.put(None)
        self._thread.join()
        self._raise_failure()
        self._write_main(complete=complete)

    def _work(self) -> None:
        while (pending := self._full.get()) is not None:
            if self._failure is not None:
                continue
            try:
                name = f"{self._prefix}{len(self._shards):05d}.h5"
                shard = write_shard(shard_folder(self.path) / name, pending, self._axes)
                self._shards.append(shard)
                self._write_main(complete=False)
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._failure = error

    def _write_main(self, *, complete: bool) -> None:
        write_main(
            self.path,
            self._provenance,
            self._shards,
            complete=complete,
            vocabulary=self._vocabulary,
        )
        self._n_committed = sum(len(shard.names) for shard in self._shards)

    def _raise_failure(self) -> None:
        if self._failure is None:
            return
        if isinstance(self._failure, FluoroscopeError):
            raise self._failure
        raise RunFileError(
            f"Writing {self.path.name} failed ({type(self._failure).__name__}: {self._failure}). "
            "What was committed before is kept."
        ) from self._failure


def create_run(
    path: str | Path,
    *,
    provenance: Provenance,
    resume: bool = True,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    commit_every_s: float = COMMIT_EVERY_S,
    prefix: str = "",
) -> RunWriter:
    """Start a run file, or go on with one.

    Args:
        path: Where; rows go to `<name>.shards` beside it.
        provenance: Where the run comes from.
        resume: Whether a file with the same provenance is continued.
        overwrite: Whether a file that is there is deleted first.
        shard_bytes: A shard is finished when it holds this much.
        commit_every_s: ... or this long after the last.
        prefix: Start of shard names; ranks that write side by side have one each.

    Raises:
        RunExistsError: There is a file, and it may be neither continued nor overwritten.
        RunMismatchError: It came from another model, corpus or setting; the differences are named.
        RunFileError: The path cannot be written, or another process is writing it.
    """
    path = Path(path)
    folder = shard_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise RunFileError(f"{path} cannot be written: {error}. Choose another place.") from error
    shards: list[Shard] = []
    if overwrite:
        remove_run(path)
        folder.mkdir(exist_ok=True)
    elif path.exists():
        shards, provenance = _continue(path, provenance, resume=resume)
    for stale in (*folder.glob(f"*{PARTIAL}"), *path.parent.glob(f"{path.name}.*{PARTIAL}")):
        stale.unlink(missing_ok=True)
    listed = {shard.file for shard in shards}
    for orphan in folder.glob(f"{prefix}*.h5"):
        if orphan.name not in listed:
            orphan.unlink()
    return RunWriter(
        path,
        provenance,
        shards,
        shard_bytes=shard_bytes,
        commit_every_s=commit_every_s,
        prefix=prefix,
    )


def remove_run(path: Path) -> None:
    """Delete a run file and its shards, and nothing else."""
    path.unlink(missing_ok=True)
    folder = shard_folder(path)
    if folder.is_dir():
        for file in folder.iterdir():
            if file.suffix == ".h5" or file.name.endswith(PARTIAL):
                file.unlink()
        folder.rmdir()


def link_parts(
    path: Path, parts: Sequence[Path], provenance: Provenance, *, complete: bool
) -> None:
    """Make one run file of what several ranks wrote, by linking their shards; no row is copied.

    Args:
        path: The run file to make.
        parts: Run files of the ranks, in rank order, beside `path`; removed once linked.
        provenance: Where the whole comes from.
        complete: Whether all parts are.
    """
    folder = shard_folder(path)
    folder.mkdir(exist_ok=True)
    shards: list[Shard] = []
    vocabulary = None
    for part in parts:
        with h5py.File(part, "r") as file:
            if "vocabulary" in file:
                held = subgroup(file, "vocabulary")
                vocabulary = (array(held, "bytes"), array(held, "offsets"), array(held, "special"))
        for source in sorted(shard_folder(part).glob("*.h5")):
            target = folder / source.name
            target.unlink(missing_ok=True)
            target.hardlink_to(source)
            shards.append(read_shard(target))
    write_main(path, provenance, shards, complete=complete, vocabulary=vocabulary)
    for part in parts:
        remove_run(part)


def _continue(
    path: Path, provenance: Provenance, *, resume: bool
) -> tuple[list[Shard], Provenance]:
    if not resume:
        raise RunExistsError(
            f"{path.name} exists already. Choose another name, resume=True to go on with it, or "
            "overwrite=True (--overwrite) to start afresh."
        )
    run = open_run(path)
    differences = run.provenance.differences(provenance)
    if differences:
        raise RunMismatchError(
            f"{path.name} cannot be continued, it came from something else: "
            f"{'; '.join(differences[:5])}. Choose another name, or overwrite=True (--overwrite)."
        )
    folder = shard_folder(path)
    return [read_shard(folder / entry["file"]) for entry in run.shards], run.provenance
