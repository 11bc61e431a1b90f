"""Writing ahead in a thread."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from ..drafters.draft_model import DraftModel
from ..errors import DraftError
from .ahead import Ahead
from .window import Window
from .writer import Writer, slots

logger = logging.getLogger(__name__)

END_S = 5.0
"""Seconds to wait for a thread to end its window."""


class ThreadAhead(Ahead):
    """Writes in a thread; on a GPU, in a stream of its own.

    Args:
        draft: The draft model.
        longest: Longest window.
    """

    def __init__(self, draft: DraftModel, longest: int) -> None:
        super().__init__()
        self._device = draft.model.device
        self._rows = slots(draft, longest)
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._serial = 0
        arguments = (Writer(draft, self._rows), self._jobs, self._done, self._device)
        self._thread = threading.Thread(target=_serve, args=arguments, daemon=True)
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


def _serve(
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
