"""Where n-grams occurred in a growing sequence of tokens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class NgramIndex:
    """End positions of every n-gram of up to `longest` tokens, in order of occurrence.

    Args:
        longest: Longest n-gram indexed.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._ends: dict[tuple[int, ...], list[int]] = defaultdict(list)
        self._tokens: list[int] = []

    @property
    def tokens(self) -> Sequence[int]:
        """The sequence so far."""
        return self._tokens

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens."""
        for token in tokens:
            self._tokens.append(token)
            end = len(self._tokens)
            for n in range(1, min(self._longest, end) + 1):
                self._ends[tuple(self._tokens[end - n :])].append(end)

    def ends(self, ngram: Sequence[int]) -> Sequence[int]:
        """Positions right after each occurrence of `ngram`."""
        return self._ends.get(tuple(ngram), ())

    def match_length(self, end: int, suffix: Sequence[int], *, at_most: int) -> int:
        """How many tokens before position `end` equal the last ones of `suffix`."""
        length = 0
        for ours, theirs in zip(
            reversed(self._tokens[max(0, end - at_most) : end]), reversed(suffix), strict=False
        ):
            if ours != theirs:
                break
            length += 1
        return length
