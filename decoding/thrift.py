"""How much of a draft is worth verifying.

Every row that passes the target costs time and pays only if it is accepted. Thrift keeps the part of a
tree that gives most tokens per second: it corrects the drafter's confidence by what was accepted of
late, and weighs it against the target's own cost curve. The idea of choosing size by measured cost is
Sequoia's (2402.12374); the calibration is ours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from .tree import ROOT, DraftTree

N_BINS = 10
PRIOR = 6.0
"""Observations that the drafter's own word counts for."""
DECAY = 0.98
"""What an observation still counts for after the next one in its bin."""


class Calibration:
    """How often drafted tokens are accepted, by source and confidence.

    A bin starts from the drafter's own word and moves to what is observed; old observations fade.
    """

    def __init__(self) -> None:
        self._accepted: dict[tuple[str, int], float] = defaultdict(float)
        self._seen: dict[tuple[str, int], float] = defaultdict(float)

    def probability(self, source: str, confidence: float) -> float:
        """Chance that a node is accepted once its parent is."""
        key = _bin(source, confidence)
        return (self._accepted[key] + PRIOR * confidence) / (self._seen[key] + PRIOR)

    def observe(self, source: str, confidence: float, *, accepted: bool) -> None:
        """A node whose parent is text was, or was not, the next token."""
        key = _bin(source, confidence)
        self._accepted[key] = DECAY * self._accepted[key] + accepted
        self._seen[key] = DECAY * self._seen[key] + 1.0


class Thrift:
    """Cuts trees of chosen tokens to the size that pays.

    Args:
        seconds: What a forward pass over so many rows takes.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self._calibration = Calibration()

    def trim(self, tree: DraftTree) -> DraftTree:
        """The nodes that together give most tokens per second; drawn trees are left alone."""
        if not len(tree) or tree.law != "point":
            return tree
        reach = self._reach(tree)
        order = sorted(range(len(tree)), key=lambda node: -reach[node])
        expected, best_rate, best_n = 1.0, 1.0 / self._seconds(1), 0
        for n, node in enumerate(order, start=1):
            expected += reach[node]
            rate = expected / self._seconds(1 + n)
            if rate > best_rate:
                best_rate, best_n = rate, n
        return tree if best_n == len(tree) else tree.keep(order[:best_n])

    def observe(self, tree: DraftTree, emitted: Sequence[int]) -> None:
        """Learn from what became text, also about nodes that were cut off before the pass."""
        node = ROOT
        for token in emitted:
            following = None
            for child in tree.children.get(node, []):
                accepted = tree.tokens[child] == token
                self._calibration.observe(
                    tree.source(child), tree.confidence[child], accepted=accepted
                )
                following = child if accepted else following
            if following is None:
                return
            node = following

    def _reach(self, tree: DraftTree) -> list[float]:
        found: list[float] = []
        for node, parent in enumerate(tree.parents):
            own = self._calibration.probability(tree.source(node), tree.confidence[node])
            found.append(own if parent == ROOT else found[parent] * own)
        return found


def _bin(source: str, confidence: float) -> tuple[str, int]:
    """Bins are finer where confidence is small: wide trees live there."""
    return source, min(int(confidence**0.5 * N_BINS), N_BINS - 1)
