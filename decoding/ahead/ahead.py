"""What every place to write ahead in has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from .window import Window


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
