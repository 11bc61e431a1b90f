"""Suffix matches and recycled candidates in one tree: copies go deep, guesses go wide.

The recipe that SAM-Decoding (2411.10666) and STAND's tables (2506.04708) find best among training-free
ones switches between the two; here both draft, equal nodes are merged, and thrift keeps those that pay
on this machine. The merging is ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..drafter import Drafter, NoDrafter, Observation
from ..engine import About
from ..registry import register
from ..speculative import Speculative
from ..tree import DraftTree, TreeBuilder
from .suffix import SuffixDrafter, SuffixOptions
from .token_recycling import TokenRecyclingDrafter


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridOptions(SuffixOptions):
    """Options of `Hybrid`."""

    max_draft: int = 48
    """Most nodes of a tree, before thrift."""
    alpha: float = 2.0
    """Drafted tokens per matched token."""


class MergedDrafter(Drafter):
    """Several drafters of chosen tokens, one tree.

    Args:
        parts: By name, in the order they are asked; each gets what room the others left.
    """

    def __init__(self, parts: Mapping[str, Drafter]) -> None:
        self._parts = dict(parts)
        self.prompt_rows = max(part.prompt_rows for part in parts.values())

    def reseed(self, seed: int) -> None:
        """All draw anew."""
        for part in self._parts.values():
            part.reseed(seed)

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """All begin."""
        for part in self._parts.values():
            part.begin(prompt, logits)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """All drafts, equal nodes merged."""
        builder = TreeBuilder()
        for part in self._parts.values():
            if len(builder) < budget:
                builder.graft(part.propose(text, budget - len(builder)))
        return builder.build()

    def observe(self, seen: Observation) -> None:
        """All learn."""
        for part in self._parts.values():
            part.observe(seen)

    def end(self) -> None:
        """The text ended."""
        for part in self._parts.values():
            part.end()

    def forget(self) -> None:
        """All forget."""
        for part in self._parts.values():
            part.forget()

    def memory(self) -> dict[str, np.ndarray]:
        """What each learned, under its name."""
        return {
            f"{name}.{key}": array
            for name, part in self._parts.items()
            for key, array in part.memory().items()
        }

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Give each its own.

        Raises:
            LearnedError: The arrays are not theirs.
        """
        for name, part in self._parts.items():
            own = f"{name}."
            part.remember({
                key.removeprefix(own): array for key, array in memory.items() if key.startswith(own)
            })


@register
class Hybrid(Speculative):
    """Drafts copies of what was said before and what the target thought likely, in one tree."""

    about = About(
        name="hybrid",
        summary="Copies of earlier text and recycled candidates in one tree.",
        paper="2411.10666",
        lossless=True,
        needs="nothing",
    )
    Options = HybridOptions

    def make_drafter(self) -> MergedDrafter:
        """A drafter that knows nothing yet."""
        return MergedDrafter({
            "suffix": SuffixDrafter(self.options, NoDrafter()),
            "recycling": TokenRecyclingDrafter(self.model.d_vocab, shape="best-first"),
        })
