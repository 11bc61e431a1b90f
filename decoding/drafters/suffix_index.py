"""Every suffix of a stream of sequences, with counts, in memory linear in the stream.

SuffixDecoding (2411.04975) keeps path-compressed suffix trees. This index answers the same questions
with the same counts from the stream itself: the occurrences of a suffix are the positions of its last
token, narrowed token by token; a node of the suffix tree is the set of its occurrences. Sequences lie
one after the other with a separator between, so the oldest are dropped by moving the beginning.
"""

from __future__ import annotations

from array import array
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

SEPARATOR = -1


class SuffixIndex:
    """Where suffixes occurred.

    Args:
        max_sequences: Sequences kept; the oldest go first. None for all.
        max_tokens: Tokens kept, roughly; the oldest sequences go first. None for all.
    """

    def __init__(self, max_sequences: int | None = None, max_tokens: int | None = None) -> None:
        self._max_sequences, self._max_tokens = max_sequences, max_tokens
        self._tokens = np.zeros(1024, dtype=np.int32)
        self._length = 0
        self._positions: dict[int, array[int]] = defaultdict(lambda: array("q"))
        self._starts: deque[int] = deque()

    def __len__(self) -> int:
        """Tokens held."""
        return self._length - self.start

    @property
    def tokens(self) -> Int[np.ndarray, " length"]:
        """The whole stream, separators and dropped tokens included."""
        return self._tokens[: self._length]

    @property
    def start(self) -> int:
        """Where the oldest sequence that is kept begins."""
        return self._starts[0] if self._starts else 0

    def begin(self) -> None:
        """A new sequence begins."""
        self._put(SEPARATOR)
        self._starts.append(self._length)
        self._evict()

    def extend(self, tokens: Sequence[int]) -> None:
        """Append tokens to the newest sequence."""
        for token in tokens:
            self._positions[token].append(self._length)
            self._put(token)

    def matches(
        self, suffix: Sequence[int], longest: int
    ) -> Iterator[tuple[int, Int[np.ndarray, " occurrences"]]]:
        """Occurrences of the last m tokens of `suffix`, for m = 1, 2, ... while there are any.

        Yields:
            m, and the positions right after each occurrence.
        """
        found = np.frombuffer(self._positions.get(suffix[-1], array("q")), dtype=np.int64)
        ends = found[np.searchsorted(found, self.start) :] + 1
        tokens, m = self.tokens, 1
        while len(ends):
            yield m, ends
            m += 1
            if m > min(longest, len(suffix)):
                return
            before = ends - m
            ends = ends[(before >= self.start) & (tokens[before] == suffix[-m])]

    def continuations(
        self, ends: Int[np.ndarray, " occurrences"]
    ) -> list[tuple[int, Int[np.ndarray, " _"]]]:
        """What follows the occurrences: tokens with the occurrences they extend, most frequent first.

        Equal counts are ordered by their latest occurrence.
        """
        open_ends = ends[ends < self._length]
        following = self.tokens[open_ends]
        real = following != SEPARATOR
        open_ends, following = open_ends[real], following[real]
        if not len(open_ends):
            return []
        if (following == following[0]).all():
            return [(int(following[0]), open_ends + 1)]
        groups = [(int(token), open_ends[following == token] + 1) for token in np.unique(following)]
        return sorted(groups, key=lambda group: (-len(group[1]), -int(group[1][-1])))

    def _put(self, token: int) -> None:
        if self._length == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)])
        self._tokens[self._length] = token
        self._length += 1

    def _evict(self) -> None:
        while len(self._starts) > 1 and (
            (self._max_sequences is not None and len(self._starts) > self._max_sequences)
            or (self._max_tokens is not None and len(self) > self._max_tokens)
        ):
            self._starts.popleft()
        if self.start > max(1024, self._length // 2):
            self._compact()

    def _compact(self) -> None:
        """Give back the memory of what was dropped."""
        offset = self.start
        kept = self.tokens[offset:].copy()
        self._starts = deque(start - offset for start in self._starts)
        self._tokens = np.concatenate([kept, np.zeros(max(1024, len(kept)), dtype=np.int32)])
        self._length = len(kept)
        self._positions.clear()
        for position, token in enumerate(kept.tolist()):
            if token != SEPARATOR:
                self._positions[token].append(position)
