"""Writing ahead without concurrency."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..drafters.draft_model import DraftModel
from ..errors import DraftError
from .ahead import Ahead
from .window import Window
from .writer import Writer, slots


class InlineAhead(Ahead):
    """Writes when the answer is wanted: the schedule without its concurrency.

    Args:
        draft: The draft model.
        longest: Longest window.
    """

    def __init__(self, draft: DraftModel, longest: int) -> None:
        super().__init__()
        self._writer = Writer(draft, rows := slots(draft, longest))
        self._rows, self._asked = rows, ([0], 0)

    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """See `Ahead`."""
        try:
            self._writer.begin(prompt, seed)
        except Exception as error:
            raise DraftError(f"The draft failed: {error}") from error

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
