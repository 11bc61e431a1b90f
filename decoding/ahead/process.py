"""Writing ahead in a second process."""

from __future__ import annotations

import copy
import io
import logging
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import Tensor

from ...probes import Model, wrap_model
from ..drafters.draft_model import DraftModel, common
from ..errors import DraftError
from ..layout import Layout, laid_out
from ..sampling import SamplingOptions
from .ahead import Ahead
from .window import Window
from .writer import Writer, slots

logger = logging.getLogger(__name__)

READY_S = 300.0
"""Seconds a draft's process may take to start."""
EXIT_S = 5.0
"""Seconds to wait for the exit code of a process that is gone."""


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
        rows = slots(draft, longest)
        self._rows = None if rows is None else rows.cpu().share_memory_()
        self._serial, self._sent = 0, [0]
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
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
        if self.closed:
            return DraftError("The draft's process was ended.")
        self._process.join(EXIT_S)
        return DraftError(f"The draft's process is gone (exit code {self._process.exitcode}).")


def _serve(
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
