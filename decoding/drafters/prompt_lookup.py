"""Prompt lookup: what followed the last few tokens when they occurred before is the draft.

The method of transformers' `prompt_lookup_num_tokens` and of vLLM's n-gram proposer. Ours prefers the
occurrence whose context agrees longest with the text's end (the latest of several), where transformers
takes the first one; `occurrence="first"` gives its drafts exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter
from ..engine import About
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import DraftTree
from .ngrams import NgramIndex

LONGEST_CONTEXT = 32
"""Tokens of context compared to choose between occurrences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLookupOptions(SpeculativeOptions):
    """Options of `PromptLookup`."""

    max_ngram: int = 3
    """Longest n-gram looked up; shorter ones are tried if it did not occur before."""
    occurrence: Literal["best", "first"] = "best"
    """Which earlier occurrence is continued: that with the longest common context, or the first."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.max_ngram < 1:
            raise OptionError(f"max_ngram must be at least 1, got {self.max_ngram}.")
        if self.occurrence not in ("best", "first"):
            raise OptionError(f"occurrence must be best or first, got {self.occurrence!r}.")


class PromptLookupDrafter(Drafter):
    """Copies from the text itself."""

    branches = False

    def __init__(self, options: PromptLookupOptions) -> None:
        self._options = options
        self._index = NgramIndex(options.max_ngram)

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """Start a new index."""
        self._index = NgramIndex(self._options.max_ngram)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """The continuation of an earlier occurrence of the text's end."""
        index = self._index
        index.extend(text[len(index.tokens) :])
        for n in range(min(self._options.max_ngram, len(text) - 1), 0, -1):
            ends = [end for end in index.ends(text[-n:]) if end < len(text)]
            if ends:
                end, length = self._pick(ends, text, n)
                found = index.tokens[end : end + budget]
                # Having agreed for so long, a copy goes on with about this probability.
                trust = [(length + step) / (length + step + 1) for step in range(len(found))]
                return DraftTree.chain(found, trust, source="prompt-lookup")
        return DraftTree()

    def _pick(self, ends: list[int], text: Sequence[int], n: int) -> tuple[int, int]:
        if self._options.occurrence == "first":
            return ends[0], n
        lengths = {
            end: self._index.match_length(end, text, at_most=LONGEST_CONTEXT) for end in ends[-64:]
        }
        best = max(lengths, key=lambda end: (lengths[end], end))
        return best, lengths[best]


@register
class PromptLookup(Speculative):
    """Drafts what followed the same tokens earlier in the text."""

    about = About(
        name="prompt-lookup",
        summary="Drafts what followed the same tokens earlier in prompt and text.",
        paper=None,
        lossless=True,
        needs="nothing",
    )
    Options = PromptLookupOptions

    def make_drafter(self) -> PromptLookupDrafter:
        """A drafter with an empty index."""
        return PromptLookupDrafter(self.options)
