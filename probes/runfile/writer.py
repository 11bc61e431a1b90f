"""Writing a run file: documents go in, shards come out, nothing committed is ever lost.

A background thread writes shards, renames them and replaces the main file, while the model goes on
computing. Rows come with their documents (`append`) and are collected up to a shard's size; or, where
it is known how many there will be (`expect`), site by site as they are computed (`put`), and reach the
disk at once. After `kill -9` at any moment the run file opens and holds every committed row.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Int

from ..errors import FluoroscopeError, OptionError, RunFileError
from ..vocabulary import Vocabulary
from .atomic import sole_writer
from .filling import FillingShard
from .mainfile import shard_folder, write_main
from .provenance import Provenance
from .shards import Documents, Shard

SHARD_BYTES = 128 * 2**20
COMMIT_EVERY_S = 60.0


class RunWriter:
    """A run file being written. Made by `create_run`; use it as a context manager.

    Attributes:
        stall_s: Seconds the caller had to wait for the disk.
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
        self._prefix, self._n_committed, self._n_shards = prefix, 0, len(shards)
        self._documents, self._started = Documents(), time.monotonic()
        self._collected: dict[str, list[torch.Tensor]] = {}
        self._filling: FillingShard | None = None
        self._put: dict[str, int] = {}
        self._axes: dict[str, tuple[str, ...]] = {}
        self._vocabulary: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._jobs: queue.SimpleQueue[tuple[Callable[[], None], int] | None] = queue.SimpleQueue()
        self._room, self._waiting_bytes = threading.Condition(), 0
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

    @property
    def is_expecting(self) -> bool:
        """Whether a shard is open whose rows come through `put`."""
        return self._filling is not None

    def expect(self, n_rows: int) -> None:
        """Say that the next documents, `n_rows` tokens in all, make one shard.

        Their rows come through `put`. The shard ends with the last of them, or earlier where a commit
        falls due; `is_expecting` tells.

        Args:
            n_rows: Rows of every site in that shard.
        """
        self.commit()
        self._filling, self._put = self._next_shard(n_rows), {}

    def put(self, site: str, rows: torch.Tensor) -> None:
        """Hand over rows of one site, before `append` names the documents they belong to.

        Args:
            site: Site name.
            rows: Rows after those handed over before; kept until written, must not be changed.

        Raises:
            OptionError: No shard is expected, or it has no room for so many.
            RunFileError: Writing failed since the last call.
            IncompleteError: The disk is full; what was committed is kept.
        """
        self._raise_failure()
        filling = self._filling
        held = self._put.get(site, 0) + len(rows)
        if filling is None or held > filling.n_rows:
            said = 0 if filling is None else filling.n_rows
            raise OptionError(f"{site} gets row {held} where {said} were expected; call expect.")
        self._put[site] = held
        self._hand_over(lambda: filling.write(site, rows), rows.numel() * rows.element_size())

    def append(
        self,
        names: Sequence[str],
        index: Sequence[int],
        ids: Sequence[Int[np.ndarray, " _"]],
        activations: dict[str, torch.Tensor] | None = None,
    ) -> None:
        """Add whole documents.

        Args:
            names: Name of each document.
            index: Number of each in the corpus.
            ids: Token ids of each.
            activations: For every site the rows of all these documents, in order. The tensors are
                kept until written and must not be changed. None where they came through `put`.

        Raises:
            OptionError: A site has another number of rows than there are tokens.
            RunFileError: Writing failed since the last call.
            IncompleteError: The disk is full; what was committed is kept.
        """
        self._raise_failure()
        n_tokens = sum(len(document) for document in ids)
        if activations is None:
            n_tokens += self._documents.n_rows
            counts = self._put
        else:
            if self.is_expecting:
                self.commit()
            counts = {site: len(rows) for site, rows in activations.items()}
        for site, count in counts.items():
            if count != n_tokens:
                raise OptionError(f"{site} has {count} rows for {n_tokens} tokens; give one each.")
        self._documents.add(names, index, ids)
        for site, rows in (activations or {}).items():
            self._collected.setdefault(site, []).append(rows)
        late = time.monotonic() - self._started > self._commit_every_s
        if late or self._is_full():
            self.commit()

    def commit(self) -> None:
        """Hand what was collected to the background thread; it is committed when that is done."""
        self._raise_failure()
        documents, filling, collected = self._documents, self._filling, self._collected
        self._documents, self._filling, self._collected = Documents(), None, {}
        if documents.names:
            shard = filling or self._next_shard(documents.n_rows)
            self._hand_over(lambda: self._finish(shard, documents, collected), _bytes(collected))
        elif filling is not None:
            self._hand_over(filling.abandon, 0)
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
        self._jobs.put(None)
        self._thread.join()
        self._raise_failure()
        self._write_main(complete=complete)

    def _next_shard(self, n_rows: int) -> FillingShard:
        path = shard_folder(self.path) / f"{self._prefix}{self._n_shards:05d}.h5"
        self._n_shards += 1
        return FillingShard(path, n_rows, self._axes)

    def _is_full(self) -> bool:
        if self._filling is not None:
            return self._documents.n_rows == self._filling.n_rows
        return _bytes(self._collected) >= self._shard_bytes

    def _hand_over(self, job: Callable[[], None], n_bytes: int) -> None:
        """Queue a job of the background thread; wait while too many bytes are in the queue."""
        waiting = time.monotonic()
        with self._room:
            while self._waiting_bytes and self._waiting_bytes + n_bytes > self._shard_bytes:
                self._room.wait()
            self._waiting_bytes += n_bytes
        self.stall_s += time.monotonic() - waiting
        self._jobs.put((job, n_bytes))

    def _work(self) -> None:
        while (handed := self._jobs.get()) is not None:
            job, n_bytes = handed
            try:
                if self._failure is None:
                    job()
            except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
                self._failure = error
            finally:
                del job, handed
                with self._room:
                    self._waiting_bytes -= n_bytes
                    self._room.notify_all()

    def _finish(
        self, shard: FillingShard, documents: Documents, rows: dict[str, list[torch.Tensor]]
    ) -> None:
        for site, values in rows.items():
            for value in values:
                shard.write(site, value)
        self._shards.append(shard.finish(documents))
        self._write_main(complete=False)

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


def _bytes(collected: dict[str, list[torch.Tensor]]) -> int:
    return sum(v.numel() * v.element_size() for values in collected.values() for v in values)
