"""Input-guided Aggressive Decoding (2205.10350): the input is the draft of a near copy.

The draft is the rest of the source from a pointer on. At a bifurcation the target's own token counts,
and the pointer is found again by the shortest suffix of the output (up to three tokens) that occurs
exactly once in the source; none or several: nothing is drafted until one does.

Deviations: for decoder-only models, whose source is the prompt or what the caller names; a draft has at
most `max_draft` tokens, doubled after one is accepted whole and halved after a miss (there: unbounded);
sampling by matching (there: greedy).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter, Observation
from ..engine import About
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import DraftTree
from .ngrams import NgramIndex

LONGEST_SUFFIX = 3
SHORTEST_DRAFT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AggressiveOptions(SpeculativeOptions):
    """Options of `Aggressive`."""

    max_draft: int = 64
    """Longest draft."""
    source: str | None = None
    """The text that is copied from; None for the prompt."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.source is not None and not self.source:
            raise OptionError("source must not be empty; None takes the prompt.")


class SourceDrafter(Drafter):
    """Copies a source onwards from where the output stands in it.

    Args:
        source: Its tokens; None for the prompt.
        longest: Longest draft.
    """

    branches = False

    def __init__(self, source: Sequence[int] | None, longest: int) -> None:
        self._source, self._longest = source, longest
        self._index = NgramIndex(LONGEST_SUFFIX)
        self._pointer: int | None = None
        self._length, self._n_prompt = SHORTEST_DRAFT, 0

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """A new source, and the pointer at its beginning."""
        self._index = NgramIndex(LONGEST_SUFFIX)
        self._index.extend(prompt if self._source is None else self._source)
        self._n_prompt = len(prompt)
        self._pointer, self._length = 0, min(16, self._longest)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """The source from the pointer on."""
        output, source = text[self._n_prompt :], self._index.tokens
        if len(output) == 1:  # it came from the prompt's pass, which nothing was drafted for
            self._pointer = 1 if output[0] == source[0] and len(source) > 1 else None
        if self._pointer is None:
            self._pointer = self.locate(output)
        if self._pointer is None:
            return DraftTree()
        stop = self._pointer + min(budget, self._length)
        copied = self._index.tokens[self._pointer : stop]
        trust = [1 - 1 / (step + 3) for step in range(len(copied))]
        return DraftTree.chain(copied, trust, source="source")

    def observe(self, seen: Observation) -> None:
        """Move the pointer along the accepted copy; after a bifurcation it has to be found again."""
        if self._pointer is None:
            return
        source, start = self._index.tokens, self._pointer
        copied = 0
        for token in seen.emitted:
            if start + copied >= len(source) or source[start + copied] != token:
                break
            copied += 1
        whole = copied == len(seen.emitted) and start + copied < len(source)
        self._pointer = start + copied if whole else None
        drafted = len(seen.tree)
        if drafted:
            grown = self._length * 2 if len(seen.path) == drafted else self._length // 2
            self._length = max(SHORTEST_DRAFT, min(grown, self._longest))

    def locate(self, output: Sequence[int]) -> int | None:
        """Where the source goes on: after the shortest suffix of `output` that occurs in it once."""
        for n in range(1, min(LONGEST_SUFFIX, len(output)) + 1):
            ends = self._index.ends(output[-n:])
            if not ends:
                return None
            if len(ends) == 1:
                return ends[0] if ends[0] < len(self._index.tokens) else None
        return None


@register
class Aggressive(Speculative):
    """Drafts the source text: for corrections, rewrites and other near copies."""

    about = About(
        name="aggressive",
        summary="Drafts the rest of the input; for corrections, rewrites and other near copies.",
        paper="2205.10350",
        lossless=True,
        needs="an output that nearly copies its input",
    )
    Options = AggressiveOptions

    def make_drafter(self) -> SourceDrafter:
        """A drafter over the source."""
        source = self.options.source
        ids = None if source is None else self.model.encode(source, bos=False).tolist()
        return SourceDrafter(ids, self.options.max_draft)
