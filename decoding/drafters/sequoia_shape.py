"""The best shape of a draft tree, by dynamic programming (Sequoia, 2402.12374, section 3.1).

Positional acceptance: a node's child of rank k is accepted with probability p_k, wherever the node is.
T[m][l][b] is the greatest expected number of tokens per pass of trees with m nodes (the root included),
at most l levels below it and exactly b children of the root:

    T[1][l][0] = 1
    T[m][l][b] = max over y of T[y][l][b-1] + p_b max over b' of T[m-y][l-1][b']

Size and depth are chosen by what passes cost on this machine (section 3.3). Deviation: a draft pass is
priced at the tree's mean width, since a level is drafted in one pass.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .shape import Shape, Slot

Seconds = Callable[[int], float]


class BestShapes:
    """Best trees of every size and depth up to a limit.

    Args:
        acceptance: By rank, from the first child on: the probability that it is the accepted one.
        max_nodes: Most drafted nodes.
        max_depth: Most levels.
    """

    def __init__(self, acceptance: Sequence[float], max_nodes: int, max_depth: int) -> None:
        m, depth, width = max_nodes + 1, max_depth, min(len(acceptance), max_nodes)
        value = np.full((m + 1, depth + 1, width + 1), -np.inf)
        self._rest = np.zeros((m + 1, depth + 1, width + 1), dtype=np.int64)
        value[1, :, 0] = 1.0
        for level in range(1, depth + 1):
            below = value[:, level - 1].max(-1)
            possible = np.isfinite(below)
            for b in range(1, width + 1):
                child = np.full(m + 1, -np.inf)
                child[possible] = acceptance[b - 1] * below[possible]
                for n in range(b + 1, m + 1):
                    # The root with its first b - 1 children keeps y nodes, the b-th child the others.
                    y = np.arange(1, n)
                    sums = value[y, level, b - 1] + child[n - y]
                    best = int(sums.argmax())
                    value[n, level, b] = sums[best]
                    self._rest[n, level, b] = best + 1
        self._widest = value.argmax(-1)
        self.expected = value.max(-1)
        """Expected tokens per pass, by nodes (root included) and levels; -inf where no tree is."""

    def shape(self, n_nodes: int, depth: int) -> Shape:
        """The best tree of so many drafted nodes on at most so many levels."""
        slots: list[Slot] = []
        waiting: list[tuple[Slot, int, int]] = [((), n_nodes + 1, depth)]
        while waiting:
            slot, n, level = waiting.pop()
            if slot:
                slots.append(slot)
            for b in range(int(self._widest[n, level]), 0, -1):
                kept = int(self._rest[n, level, b])
                waiting.append(((*slot, b - 1), n - kept, level - 1))
                n = kept
        return Shape.of(slots)

    def choose(
        self, n_nodes: int, depth: int, target: Seconds | None = None, draft: Seconds | None = None
    ) -> Shape:
        """The tree that gives most tokens per second; most tokens per pass without costs.

        Args:
            n_nodes: At most so many drafted nodes.
            depth: At most so many levels.
            target: Seconds of a target's pass over so many rows.
            draft: The same of the draft's.
        """
        n_nodes = min(n_nodes, self.expected.shape[0] - 2)
        depth = min(depth, self.expected.shape[1] - 1)
        if n_nodes < 1 or depth < 1:
            return Shape(())
        tokens = self.expected[: n_nodes + 2, : depth + 1]
        if target is None or draft is None:
            n, level = np.unravel_index(int(tokens.argmax()), tokens.shape)
            return self.shape(int(n) - 1, int(level))
        best, chosen = 1.0 / target(1), (0, 0)
        for n in range(1, n_nodes + 1):
            for level in range(1, min(n, depth) + 1):
                seconds = target(1 + n) + level * draft(-(-n // level))
                if tokens[n + 1, level] / seconds > best:
                    best, chosen = tokens[n + 1, level] / seconds, (n, level)
        return self.shape(*chosen) if chosen[0] else Shape(())
