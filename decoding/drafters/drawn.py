"""Trees of drawn tokens while they grow: nodes, and the distributions their children come from."""

from __future__ import annotations

from ..tree import DraftTree, Law, Proposal, SparseProbs


class Drawing:
    """Grows a tree whose siblings are drawn without replacement; draw order is child order.

    Args:
        source: Who draws.
    """

    def __init__(self, source: str) -> None:
        self._source = source
        self.tokens: list[int] = []
        self.parents: list[int] = []
        self._shares: list[float] = []
        self._depths: list[int] = []
        self._rows: dict[int, Proposal] = {}

    def __len__(self) -> int:
        return len(self.tokens)

    def depth(self, node: int) -> int:
        """Depth of a node; 1 right after the root."""
        return self._depths[node]

    def expand(self, node: int, row: Proposal) -> None:
        """Say what the children of a node will be drawn from."""
        self._rows[node] = row

    def add(self, parent: int, token: int) -> int:
        """A drawn token; how sure it is, is its share in what all its siblings were drawn from."""
        self.tokens.append(token)
        self.parents.append(parent)
        self._shares.append(_share(self._rows[parent], token))
        self._depths.append(1 if parent < 0 else self._depths[parent] + 1)
        return len(self.tokens) - 1

    def build(self, law: Law = "without_replacement") -> DraftTree:
        """The tree, with the distributions of the nodes that have children."""
        expanded = set(self.parents) if law != "point" else set()
        return DraftTree(
            tuple(self.tokens),
            tuple(self.parents),
            tuple(self._shares),
            law=law,
            proposals={node: row for node, row in self._rows.items() if node in expanded},
            sources=(self._source,) * len(self.tokens),
        )


def _share(row: Proposal, token: int) -> float:
    if isinstance(row, SparseProbs):
        return row.probs[row.ids.index(token)]
    return min(float(row[token]), 1.0)
