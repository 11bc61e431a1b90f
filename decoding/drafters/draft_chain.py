"""Speculative sampling (2211.17192, 2302.01318): a small model writes ahead, the target checks.

The draft stops early where reaching its next token has become unlikely by its own probabilities; the
decision is taken before that token is drawn, which keeps the law.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...probes.errors import OptionError
from ..engine import About
from ..registry import register
from ..speculative import Speculative
from ..tree import DraftTree
from .draft_model import DraftModel, DraftModelOptions, ModelDrafter, open_draft


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftChainOptions(DraftModelOptions):
    """Options of `DraftChain`."""

    max_draft: int = 8
    """Longest chain."""
    min_reach: float = 0.3
    """The chain ends where its next token is less likely than this to be reached; 0 never ends it."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        if not 0 <= self.min_reach < 1:
            raise OptionError(f"min_reach must be in [0, 1), got {self.min_reach}.")


class ChainDrafter(ModelDrafter):
    """Draws one token after the other.

    Args:
        draft: The draft model.
        min_reach: The chain ends where its next token is less likely than this to be reached.
    """

    branches = False

    def __init__(self, draft: DraftModel, min_reach: float) -> None:
        super().__init__(draft)
        self._min_reach = min_reach

    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """A chain of at most `depth` tokens."""
        tokens: list[int] = []
        trust: list[float] = []
        proposals, reach = {}, 1.0
        row = self.draft.after(text)
        while len(tokens) < depth and reach >= self._min_reach:
            token = self.draft.draw(row)
            proposals[len(tokens) - 1] = row
            tokens.append(token)
            trust.append(float(row[token]))
            reach *= trust[-1]
            if len(tokens) < depth:
                row = self.draft.grow([token], [len(tokens) - 2])[0]
        return DraftTree(
            tuple(tokens),
            tuple(range(-1, len(tokens) - 1)),
            tuple(trust),
            law=self.law,
            proposals={} if self.draft.greedy else proposals,
            sources=("draft-model",) * len(tokens),
        )


@register
class DraftChain(Speculative):
    """Drafts a chain with a small model."""

    about = About(
        name="draft-chain",
        summary="A small model writes a few tokens ahead; the target checks them in one pass.",
        paper="2211.17192",
        lossless=True,
        needs="a draft model of the same vocabulary",
    )
    Options = DraftChainOptions

    def make_drafter(self) -> ChainDrafter:
        """A drafter over the draft model."""
        return ChainDrafter(open_draft(self.model, self.options), self.options.min_reach)
