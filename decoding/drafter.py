"""Drafters: whatever guesses the next tokens before the target has seen them.

A drafter proposes a tree, and is then told what verification taught: every row of logits, accepted or
not. What it learned from one text may serve the next; `memory` hands it out to be kept in a file.
Whatever a drafter does, the text stays the target's: a drafter that raises or returns nonsense costs
speed only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ..probes import Model
from .beliefs import Beliefs
from .errors import LearnedError
from .tree import DraftTree, Law


@dataclass(frozen=True)
class Observation:
    """What one verification taught."""

    text: Sequence[int]
    """Token ids before the step, root included."""
    tree: DraftTree
    """What was fed behind the root."""
    path: Sequence[int]
    """Accepted nodes."""
    emitted: Sequence[int]
    """Tokens that became text: the accepted ones and the target's own."""
    beliefs: Beliefs
    """The target's rows, for the root and every node."""

    @property
    def fed(self) -> list[int]:
        """The root and the drafted tokens, one per row of logits."""
        return [self.text[-1], *self.tree.tokens]


class Drafter(ABC):
    """Proposes draft trees."""

    law: ClassVar[Law] = "point"
    """How siblings come about."""
    branches: ClassVar[bool] = True
    """Whether trees may be wider than a chain."""
    models: tuple[Model, ...] = ()
    """Models whose passes drafting takes; they are laid out for decoding as the target is."""
    prompt_rows: int = 0
    """How many of the prompt's last rows of logits `begin` wants; they cost an unembedding each."""

    def reseed(self, seed: int) -> None:
        """Begin the drafter's own draws anew, if it draws; called before every text."""

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """A new text begins.

        Args:
            prompt: Its token ids.
            logits: The target's rows after the last `prompt_rows` tokens.
        """

    @abstractmethod
    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """Guess what comes after `text` (whose last token is the root).

        Args:
            text: Token ids so far.
            budget: At most this many tokens deep and this many nodes may be used.
        """

    def observe(self, seen: Observation) -> None:
        """Learn from a verification."""

    def end(self) -> None:
        """The text ended, or was interrupted."""

    def forget(self) -> None:
        """Drop what was learned from all texts."""

    def memory(self) -> dict[str, np.ndarray]:
        """What was learned from all texts, as arrays."""
        return {}

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over what `memory` gave.

        Raises:
            LearnedError: This drafter learns nothing, or the arrays are not its own.
        """
        if memory:
            raise LearnedError(f"{type(self).__name__} keeps nothing between texts.")


class NoDrafter(Drafter):
    """Proposes nothing: plain decoding."""

    branches = False

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """Nothing."""
        return DraftTree()
