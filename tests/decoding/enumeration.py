"""Exact laws by enumeration: whatever is drawn or left to chance branches, with its probability.

An experiment asks an `Oracle` for every random choice; `law_of` runs it once for each way that they may
fall. Acceptance rules run unchanged: `ExactBeliefs` hands out a `Chance` instead of a number in [0, 1),
and comparing it with a threshold is a choice of two.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from fluoroscope.decoding import ROOT, Beliefs, DraftTree


@dataclass
class Oracle:
    """Makes the choices of one run: those of `prefix` first, then always the first possible one."""

    prefix: tuple[int, ...] = ()
    weight: float = 1.0
    made: list[int] = field(default_factory=list)
    left: list[tuple[int, ...]] = field(default_factory=list)

    def pick(self, probs: Sequence[float]) -> int:
        """One of several possibilities, by number."""
        if len(self.made) < len(self.prefix):
            choice = self.prefix[len(self.made)]
        else:
            choice, *others = [number for number, p in enumerate(probs) if p > 0]
            self.left += [(*self.made, other) for other in others]
        self.made.append(choice)
        self.weight *= probs[choice]
        return choice


@dataclass
class Chance:
    """A uniform number in [0, 1), times `factor`; comparing it is a choice."""

    oracle: Oracle
    factor: float = 1.0

    def __mul__(self, factor: float) -> "Chance":
        return Chance(self.oracle, self.factor * factor)

    def __lt__(self, limit: float) -> bool:
        p = float(limit > 0) if self.factor == 0 else min(1.0, max(0.0, limit / self.factor))
        return self.oracle.pick([1 - p, p]) == 1


class ExactBeliefs(Beliefs):
    """Beliefs whose every draw is a choice.

    Args:
        tree: The draft.
        law: The target's distribution after the tokens of a path.
        oracle: Chooses.
    """

    def __init__(
        self, tree: DraftTree, law: Callable[[tuple[int, ...]], Tensor], oracle: Oracle
    ) -> None:
        self.tree, self._law, self._oracle = tree, law, oracle

    def probs(self, node: int) -> Tensor:
        """The target's distribution after a node."""
        path = self.tree.path(node) if node != ROOT else []
        return self._law(tuple(self.tree.tokens[step] for step in path))

    def draw(self, probs: Tensor) -> int:
        """A token."""
        return self._oracle.pick((probs / probs.sum()).tolist())

    def choice(self, node: int) -> int:
        """The token plain decoding would put there."""
        return self.draw(self.probs(node))

    def chance(self) -> Any:
        """A fresh uniform number."""
        return Chance(self._oracle)


def law_of(experiment: Callable[[Oracle], Hashable]) -> Counter:
    """Probability of every outcome of an experiment."""
    found: Counter = Counter()
    waiting: list[tuple[int, ...]] = [()]
    while waiting:
        oracle = Oracle(waiting.pop())
        outcome = experiment(oracle)
        found[outcome] += oracle.weight
        waiting += oracle.left
    return found
