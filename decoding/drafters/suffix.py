"""SuffixDecoding (2411.04975): what most often followed the longest known suffix is the draft.

One index per request holds prompt and text, one for all requests holds the responses. A draft goes on
the longer, the longer the suffix that matched: at most alpha times its length. Its score, the sum of
its nodes' probabilities, is the number of tokens expected to be accepted; the better of the two
indices drafts, and below a threshold a fallback does.

Counts are those of the authors' suffix trees, the current suffix itself included, so that what was seen
once before is believed with probability 1/2. Deviations: equal counts go to the latest occurrence
(theirs: unspecified); confidence leaves the current suffix out, which nothing has followed yet, and is
lowered for short matches, since a count knows nothing of how much context agreed (score and stopping
follow the paper).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, groupby
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter, NoDrafter, Observation
from ..engine import About
from ..errors import LearnedError
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import ROOT, DraftTree, TreeBuilder
from .suffix_index import SEPARATOR, SuffixIndex
from .token_recycling import TokenRecyclingDrafter


@dataclass(frozen=True, slots=True, kw_only=True)
class SuffixOptions(SpeculativeOptions):
    """Options of `SuffixDecoding`."""

    max_depth: int = 64
    """Longest match and draft together."""
    max_requests: int | None = 10_000
    """Responses the index for all requests keeps, oldest dropped first; 0 for no such index."""
    max_tokens: int | None = 10_000_000
    """Tokens it keeps, roughly."""
    alpha: float = 1.0
    """Drafted tokens per matched token."""
    offset: float = 0.0
    """Drafted tokens beyond alpha times the match."""
    min_prob: float = 0.1
    """A draft ends where it is less likely than this, by counts, to be reached."""
    tree: bool = False
    """Whether several continuations are drafted, the likeliest nodes first."""
    fallback: Literal["none", "token-recycling"] = "none"
    """Who drafts where no suffix is worth it."""
    threshold: float = 1.0
    """Score below which the fallback drafts."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.max_depth < 2:
            raise OptionError(f"max_depth must be at least 2, got {self.max_depth}.")
        if self.alpha < 0 or not 0 <= self.min_prob <= 1:
            raise OptionError(
                f"alpha must be at least 0 and min_prob from 0 to 1, got {self.alpha} and "
                f"{self.min_prob}."
            )
        if self.fallback not in ("none", "token-recycling"):
            raise OptionError(f"fallback must be none or token-recycling, got {self.fallback!r}.")


class Guess(NamedTuple):
    """A draft with what speaks for it."""

    tree: DraftTree
    score: float
    """Expected accepted tokens, by counts."""
    match_length: int


NOTHING = Guess(DraftTree(), 0.0, 0)


class Continuation(NamedTuple):
    """A token that followed, on the way down."""

    reach: float
    """Chance, by counts, that the draft is accepted so far."""
    token: int
    confidence: float
    ends: np.ndarray
    """Positions right after it."""
    agreed: int
    """Tokens that agree up to it, the match included."""


class SuffixDrafter(Drafter):
    """Continues suffixes as they went on before.

    Args:
        options: How.
        fallback: Who drafts where the score stays below the threshold.
    """

    def __init__(self, options: SuffixOptions, fallback: Drafter) -> None:
        self._options, self._fallback = options, fallback
        self.branches = options.tree or fallback.branches  # type: ignore[misc]
        self._local = SuffixIndex()
        self._n_prompt = self._n_known = 0
        self.forget()

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """A new request: an index of its own, and a new sequence in the common one."""
        self._local = SuffixIndex()
        self._local.begin()
        self._local.extend(prompt)
        self._n_prompt = self._n_known = len(prompt)
        if self._global is not None:
            self._global.begin()
        self._fallback.begin(prompt, logits)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """The continuation that counts promise most of, or the fallback's draft."""
        guess = self.speculate(text, budget)
        if guess.score >= self._options.threshold or isinstance(self._fallback, NoDrafter):
            return guess.tree
        return self._fallback.propose(text, budget)

    def speculate(self, text: Sequence[int], budget: int) -> Guess:
        """The better guess of the two indices, the request's own if they are equally good."""
        self._learn(text)
        best = self._speculate(self._local, text, budget, "suffix-local")
        if self._global is not None:
            other = self._speculate(self._global, text, budget, "suffix-global")
            best = other if other.score > best.score else best
        return best

    def observe(self, seen: Observation) -> None:
        """Emitted tokens are taken up at the next proposal; rejected ones never."""
        self._fallback.observe(seen)
        self._learn(seen.text)
        self._take(seen.emitted)

    def forget(self) -> None:
        """Empty the common index."""
        limits = (self._options.max_requests, self._options.max_tokens)
        self._global = None if limits[0] == 0 else SuffixIndex(*limits)
        self._fallback.forget()

    def memory(self) -> dict[str, np.ndarray]:
        """The common index' stream, and what the fallback learned."""
        known = (
            {} if self._global is None else {"stream": self._global.tokens[self._global.start :]}
        )
        return known | {
            f"fallback.{name}": array for name, array in self._fallback.memory().items()
        }

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over a stream of responses.

        Raises:
            LearnedError: There is no stream, or this engine keeps no common index.
        """
        if "stream" not in memory or self._global is None:
            raise LearnedError("SuffixDecoding needs an array 'stream' and a max_requests above 0.")
        self.forget()
        stream = memory["stream"].astype(np.int32)
        for sequence in np.split(stream, np.flatnonzero(stream == SEPARATOR)):
            self._global.begin()
            self._global.extend(sequence[sequence != SEPARATOR].tolist())
        own = "fallback."
        self._fallback.remember({
            name.removeprefix(own): array for name, array in memory.items() if name.startswith(own)
        })

    def _learn(self, text: Sequence[int]) -> None:
        self._take(text[self._n_known :])

    def _take(self, fresh: Sequence[int]) -> None:
        self._local.extend(fresh)
        if self._global is not None:
            self._global.extend(fresh)
        self._n_known += len(fresh)

    def _speculate(
        self, index: SuffixIndex, text: Sequence[int], budget: int, source: str
    ) -> Guess:
        """Try all lengths of suffixes; of those with the same occurrences, the one that allows most."""
        options, best = self._options, NOTHING
        context = text[-options.max_depth :]
        longest = min(len(context) - 1, options.max_depth - 1)
        for _, alike in groupby(index.matches(context, longest), key=lambda match: len(match[1])):
            # A shorter match leaves more of `max_depth` to the draft, a longer one more by `alpha`.
            cap, m, ends = max(
                ((self._cap(m, budget), m, ends) for m, ends in alike), key=lambda one: one[:2]
            )
            guess = self._expand(index, ends, cap, m, source)
            best = guess if guess.score >= best.score else best
        return best

    def _cap(self, m: int, budget: int) -> int:
        """Most tokens drafted after a match of `m` tokens."""
        options = self._options
        return min(budget, int(options.alpha * m + options.offset + 1e-6), options.max_depth - m)

    def _expand(self, index: SuffixIndex, ends: np.ndarray, cap: int, m: int, source: str) -> Guess:
        """Grow a chain of the most frequent continuations, or a tree of the likeliest nodes."""
        builder, score, order = TreeBuilder(), 0.0, count()
        first = self._continuations(index, Continuation(1.0, SEPARATOR, 1.0, ends, m))
        heap = [(-one.reach, next(order), ROOT, one) for one in first]
        while heap and len(builder) < cap:
            _, _, parent, found = heapq.heappop(heap)
            node = builder.add(parent, found.token, found.confidence, source)
            score += found.reach
            for one in self._continuations(index, found):
                heapq.heappush(heap, (-one.reach, next(order), node, one))
        return Guess(builder.build(), score, m)

    def _continuations(self, index: SuffixIndex, after: Continuation) -> Iterator[Continuation]:
        """What may follow, most frequent first, as long as it is likely enough to be reached."""
        following = index.continuations(after.ends)
        n_continued = sum(len(narrowed) for _, narrowed in following)
        trust = after.agreed / (after.agreed + 1)
        for token, narrowed in following if self._options.tree else following[:1]:
            reach = after.reach * len(narrowed) / len(after.ends)
            if reach < self._options.min_prob:
                return
            confidence = trust * len(narrowed) / n_continued
            yield Continuation(reach, token, confidence, narrowed, after.agreed + 1)


@register
class SuffixDecoding(Speculative):
    """Drafts what most often followed the longest suffix seen before, in any request."""

    about = About(
        name="suffix",
        summary="Drafts what most often followed the longest known suffix, in this text or others.",
        paper="2411.04975",
        lossless=True,
        needs="nothing; gains by repetition across prompts",
    )
    Options = SuffixOptions

    def make_drafter(self) -> SuffixDrafter:
        """A drafter with an empty index."""
        recycling = self.options.fallback == "token-recycling"
        fallback = TokenRecyclingDrafter(self.model.d_vocab) if recycling else NoDrafter()
        return SuffixDrafter(self.options, fallback)
