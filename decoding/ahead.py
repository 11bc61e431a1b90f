"""Writing ahead: a draft model that goes on while the target reads.

`ask` starts a window of draft tokens, `answer` waits for it. What happens between the two runs at the
same time: in a second process (`ProcessAhead`: one core, or one GPU, of its own), in a thread with a
CUDA stream of its own (`ThreadAhead`), or not at all (`InlineAhead`, for tests and for timing).
Nobody polls: both sides sleep in a read of a pipe or queue.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import os
import queue
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from ..probes import Model, wrap_model
from .drafters.draft_model import DraftModel, common
from .errors import DraftError
from .layout import Layout, laid_out
from .sampling import SamplingOptions

logger = logging.getLogger(__name__)

READY_S = 300.0
"""Seconds a draft's process may take to start."""
END_S = 5.0
"""Seconds to wait for a thread to end its window, or for the exit code of a process that is gone."""


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens written ahead."""

    tokens: list[int]
    trust: list[float]
    """The draft's own probability of each."""
    rows: Tensor | None
    """What each was drawn from, (tokens, d_vocab); None if the likeliest were taken. Valid until the
    answer after the next one."""
    seconds: float
    """How long the draft took, wherever it ran."""


EMPTY = Window([], [], None, 0.0)


class Writer:
    """A draft model writing windows; runs wherever its `Ahead` put it.

    Args:
        draft: The draft model.
        rows: Two slots that take the distributions in turn, (2, longest, d_vocab); None if greedy.
    """

    def __init__(self, draft: DraftModel, rows: Tensor | None) -> None:
        self.draft, self._rows = draft, rows

    @torch.inference_mode()
    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """Read a new text."""
        self.draft.reseed(seed)
        self.draft.begin()
        self.draft.after(prompt)

    @torch.inference_mode()
    def write(self, text: Sequence[int], length: int, slot: int) -> tuple[list[int], list[float]]:
        """The next tokens after `text`, and the draft's probability of each."""
        tokens: list[int] = []
        trust: list[float] = []
        length = min(length, self.draft.room(text))
        row = self.draft.after(text) if length > 0 else None
        while row is not None:
            token = self.draft.draw(row)
            if self._rows is not None:
                self._rows[slot, len(tokens)] = row
            tokens.append(token)
            trust.append(float(row[token]))
            more = len(tokens) < length
            row = self.draft.grow([token], [len(tokens) - 2])[0] if more else None
        if not all(math.isfinite(share) for share in trust):
            raise DraftError(f"{self.draft.model.name} gives probabilities that are no numbers.")
        return tokens, trust


class Ahead(ABC):
    """A draft model that writes while somebody else works."""

    closed = False
    """Whether it can write no more."""

    def __init__(self) -> None:
        self._slot = 0

    @abstractmethod
    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """A new text; the draft starts to read it.

        Raises:
            DraftError: The draft could not be started.
        """

    def ask(self, text: Sequence[int], length: int) -> None:
        """Start the tokens after `text`.

        Raises:
            DraftError: The draft is gone.
        """
        self._slot = 1 - self._slot
        self._send(text, length)

    @abstractmethod
    def answer(self) -> Window:
        """Wait for what was asked last.

        Raises:
            DraftError: The draft failed, or is gone.
        """

    @abstractmethod
    def _send(self, text: Sequence[int], length: int) -> None: ...

    def close(self) -> None:
        """End whatever runs; does nothing twice."""
        self.closed = True


class InlineAhead(Ahead):
    """Writes when the answer is wanted: the schedule without its concurrency.

    Args:
        draft: The draft model.
        longest: Longest window.
    """

    def __init__(self, draft: DraftModel, longest: int) -> None:
        super().__init__()
        self._writer = Writer(draft, rows := _slots(draft, longest))
        self._rows, self._asked = rows, ([0], 0)

    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """See `Ahead`."""
        self._writer.begin(prompt, seed)

    def _send(self, text: Sequence[int], length: int) -> None:
        self._asked = list(text), length

    def answer(self) -> Window:
        """See `Ahead`."""
        started = time.perf_counter()
        try:
            tokens, trust = self._writer.write(*self._asked, self._slot)
        except Exception as error:
            raise DraftError(f"The draft failed: {error}") from error
        rows = None if self._rows is None else self._rows[self._slot, : len(tokens)]
        return Window(tokens, trust, rows, time.perf_counter() - started)


class ThreadAhead(Ahead):
    """Writes in a thread; on a GPU, in a stream of its own.

    Args:
        draft: The draft model.
        longest: Longest window.
    """

    def __init__(self, draft: DraftModel, longest: int) -> None:
        super().__init__()
        self._device = draft.model.device
        self._rows = _slots(draft, longest)
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._serial = 0
        arguments = (Writer(draft, self._rows), self._jobs, self._done, self._device)
        self._thread = threading.Thread(target=_serve_thread, args=arguments, daemon=True)
        self._thread.start()

    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """See `Ahead`."""
        self._put("begin", list(prompt), seed)

    def _send(self, text: Sequence[int], length: int) -> None:
        self._put("write", list(text), length, self._slot)

    def _put(self, *job: Any) -> None:
        if not self._thread.is_alive():
            raise DraftError("The draft's thread has ended.")
        self._serial += 1
        self._jobs.put((self._serial, *job))

    def answer(self) -> Window:
        """See `Ahead`."""
        while True:
            serial, *found = self._done.get()
            if isinstance(found[0], Exception):
                raise DraftError(f"The draft failed: {found[0]}") from found[0]
            if serial == self._serial:
                break
        tokens, trust, seconds = found
        rows = None if self._rows is None else self._rows[self._slot, : len(tokens)]
        return Window(tokens, trust, rows, seconds)

    def close(self) -> None:
        """See `Ahead`."""
        if not self.closed:
            self.closed = True
            self._jobs.put(None)
            self._thread.join(END_S)


class ProcessAhead(Ahead):
    """Writes in a second process, which holds a copy of the draft's weights.

    Distributions come back through shared memory, everything else through a pipe. The process ends with
    its pipe: when this one is closed, dies or is killed. Started by spawning, so a script that decodes
    must stand under `if __name__ == "__main__":`, as with any Python multiprocessing.

    Args:
        draft: The draft model.
        longest: Longest window.
        n_threads: Threads of the draft's process.
        layout: How weights lie in its memory.
    """

    def __init__(
        self, draft: DraftModel, longest: int, *, n_threads: int, layout: Layout = "plain"
    ) -> None:
        super().__init__()
        slots = _slots(draft, longest)
        self._rows = None if slots is None else slots.cpu().share_memory_()
        self._serial, self._sent = 0, [0]
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve_process,
            args=(theirs, self._rows, draft.sampling, draft.model.name, n_threads, layout),
            name="fluoroscope draft",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        try:
            self._pipe.send_bytes(_packed(draft.model))
            self._receive(READY_S)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """Of the draft's process."""
        return self._process.pid

    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """See `Ahead`."""
        self._sent = list(prompt)
        self._put("begin", list(prompt), seed)

    def _send(self, text: Sequence[int], length: int) -> None:
        """Only what is new travels: how much of the text before still holds, and what follows."""
        same = common(self._sent, text)
        self._sent = list(text)
        self._put("write", same, self._sent[same:], length, self._slot)

    def answer(self) -> Window:
        """See `Ahead`."""
        tokens, trust, seconds = self._receive(None)
        rows = None if self._rows is None else self._rows[self._slot, : len(tokens)]
        return Window(tokens, trust, rows, seconds)

    def close(self) -> None:
        """Kill the process: it holds nothing that is worth a wait."""
        if not self.closed:
            self.closed = True
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()

    def _put(self, *job: Any) -> None:
        self._serial += 1
        try:
            self._pipe.send((self._serial, *job))
        except OSError as error:
            raise self._gone() from error

    def _receive(self, seconds: float | None) -> list[Any]:
        """The answer to the last message; those whose askers were interrupted are passed over."""
        while True:
            ready = wait([self._pipe, self._process.sentinel], seconds)
            if not ready:
                raise DraftError(f"The draft's process did not start within {seconds:.0f} s.")
            try:
                if self._pipe not in ready and not self._pipe.poll():
                    raise self._gone()
                serial, *found = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise self._gone() from error
            if isinstance(found[0], str):
                raise DraftError(f"The draft failed in its process: {found[0]}")
            if serial == self._serial:
                return found

    def _gone(self) -> DraftError:
        self._process.join(END_S)
        return DraftError(f"The draft's process is gone (exit code {self._process.exitcode}).")


def _slots(draft: DraftModel, longest: int) -> Tensor | None:
    if draft.greedy:
        return None
    model = draft.model
    return torch.zeros(2, longest, model.d_vocab, device=model.device)


def _serve_thread(
    writer: Writer, jobs: queue.SimpleQueue[Any], done: queue.SimpleQueue[Any], device: torch.device
) -> None:
    on_gpu = device.type == "cuda"
    stream = torch.cuda.Stream(device) if on_gpu else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream) if stream is not None else nullcontext():
        while (job := jobs.get()) is not None:
            serial, kind, *details = job
            try:
                if kind == "begin":
                    writer.begin(*details)
                    continue
                started = time.perf_counter()
                tokens, trust = writer.write(*details)
                if stream is not None:
                    stream.synchronize()
                done.put((serial, tokens, trust, time.perf_counter() - started))
            except Exception as error:  # the asker decides what a failed draft means
                logger.debug("The draft failed.", exc_info=error)
                done.put((serial, error))


def _serve_process(
    pipe: Connection,
    rows: Tensor | None,
    sampling: SamplingOptions,
    name: str,
    n_threads: int,
    layout: Layout,
) -> None:
    """The draft's process: read a message, write a window, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches both; the asker closes the pipe
    torch.set_num_threads(n_threads)
    try:
        module = torch.load(io.BytesIO(pipe.recv_bytes()), weights_only=False)
        model = wrap_model(module, None, name=name, check=False)
        writer = Writer(DraftModel(model, sampling), rows)
        pipe.send((0, [], os.getpid()))
        with laid_out(module, layout):
            _answer_all(pipe, writer)
    except (EOFError, OSError):
        return


def _answer_all(pipe: Connection, writer: Writer) -> None:
    text: list[int] = []
    while True:
        serial, kind, *details = pipe.recv()
        try:
            if kind == "begin":
                text = list(details[0])
                writer.begin(*details)
                continue
            same, new, length, slot = details
            text[same:] = new
            started = time.perf_counter()
            tokens, trust = writer.write(text, length, slot)
            pipe.send((serial, tokens, trust, time.perf_counter() - started))
        except (EOFError, OSError):
            raise
        except Exception as error:  # told to the asker, who decides
            logger.debug("The draft failed.", exc_info=error)
            pipe.send((serial, f"{type(error).__name__}: {error}"))


def _packed(model: Model) -> bytes:
    """The module as bytes, without hooks or layouts; not through shared memory, often small."""
    tensors = [*model.module.parameters(), *model.module.buffers()]
    bare = copy.deepcopy(model.module, {id(tensor): tensor for tensor in tensors})
    for part in bare.modules():
        part.__dict__.pop("forward", None)
        for name in ("_forward_hooks", "_forward_pre_hooks"):
            getattr(part, name).clear()
    out = io.BytesIO()
    torch.save(bare, out)
    return out.getvalue()
