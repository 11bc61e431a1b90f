"""A window: tokens that a draft model wrote ahead."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


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

    def first(self, length: int) -> Window:
        """Its first tokens; how many never depends on which they are."""
        n = max(min(length, len(self.tokens)), 0)
        rows = None if self.rows is None else self.rows[:n]
        return Window(self.tokens[:n], self.trust[:n], rows, self.seconds)

    def behind_first(self) -> Window:
        """All but its first token."""
        rows = None if self.rows is None else self.rows[1:]
        return Window(self.tokens[1:], self.trust[1:], rows, self.seconds)


EMPTY = Window([], [], None, 0.0)
