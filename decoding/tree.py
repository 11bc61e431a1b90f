"""Draft trees: what a drafter proposes to the target in one step.

A chain is a tree of width one. The root is not part of the tree: it is the newest token of the text,
already decided, whose forward pass has not run yet. Nodes are numbered parents before children, and
the parent of a node that hangs off the root is `ROOT`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import DraftError

ROOT = -1
MASS_OFF = 1e-3
"""How far the sum of a proposal may be from one."""

Law = Literal["point", "iid", "without_replacement"]
"""How siblings came about: chosen deterministically; drawn independently from one distribution; drawn
from it one after the other, never the same token twice. The acceptance rule must know."""


@dataclass(frozen=True)
class SparseProbs:
    """A distribution over the vocabulary that is zero but for a few tokens."""

    ids: tuple[int, ...]
    probs: tuple[float, ...]

    def dense(self, like: Float[Tensor, " d_vocab"]) -> Float[Tensor, " d_vocab"]:
        """The same distribution as a row like `like`."""
        row = torch.zeros_like(like)
        row[list(self.ids)] = torch.tensor(self.probs, dtype=like.dtype, device=like.device)
        return row


Proposal = Float[Tensor, " d_vocab"] | SparseProbs
"""The distribution that the children of one node were drawn from."""


@dataclass(frozen=True)
class DraftTree:
    """Drafted tokens and how they hang together.

    Raises:
        DraftError: Lengths differ, or a node stands before its parent.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    """Parent of each node, `ROOT` for those right after the text."""
    confidence: tuple[float, ...] = ()
    """The drafter's own estimate that a node is accepted once its parent is. Drawn nodes: their
    probability in what all their siblings were drawn from. The verifier never reads it."""
    law: Law = "point"
    proposals: Mapping[int, Proposal] = field(default_factory=dict)
    """By parent, what its children were drawn from; empty where tokens were chosen, not drawn."""
    sources: tuple[str, ...] = ()
    """Which drafter, or which part of one, made each node; empty if nobody says."""

    def __post_init__(self) -> None:
        if not len(self.tokens) == len(self.parents) == len(self.confidence):
            raise DraftError(
                f"A draft needs one parent and one confidence per token, got {len(self.tokens)} "
                f"tokens, {len(self.parents)} parents and {len(self.confidence)} confidences."
            )
        if self.sources and len(self.sources) != len(self.tokens):
            raise DraftError(f"{len(self.tokens)} tokens have {len(self.sources)} sources.")
        for node, parent in enumerate(self.parents):
            if not ROOT <= parent < node:
                raise DraftError(
                    f"Node {node} has parent {parent}; parents stand before their children and those "
                    f"of the first level have parent {ROOT}."
                )

    @classmethod
    def chain(
        cls,
        tokens: Sequence[int],
        confidence: float | Sequence[float] = 1.0,
        *,
        source: str = "",
    ) -> DraftTree:
        """A tree of width one of chosen tokens."""
        given = (
            [confidence] * len(tokens) if isinstance(confidence, int | float) else list(confidence)
        )
        return cls(
            tuple(tokens),
            tuple(range(-1, len(tokens) - 1)),
            tuple(given),
            sources=(source,) * len(tokens),
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def source(self, node: int) -> str:
        """Which drafter made a node; empty if nobody says."""
        return self.sources[node] if self.sources else ""

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Depth of each node; 1 right after the root."""
        found: list[int] = []
        for parent in self.parents:
            found.append(1 if parent == ROOT else found[parent] + 1)
        return tuple(found)

    @cached_property
    def children(self) -> dict[int, list[int]]:
        """Children of each node that has any, in the order they were drawn."""
        found: dict[int, list[int]] = {}
        for node, parent in enumerate(self.parents):
            found.setdefault(parent, []).append(node)
        return found

    @property
    def is_chain(self) -> bool:
        """Whether no node has a sibling."""
        return all(parent == node - 1 for node, parent in enumerate(self.parents))

    def path(self, node: int) -> list[int]:
        """Nodes from the first level down to `node`; empty for the root."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found[::-1]

    def reach(self) -> list[float]:
        """Estimated probability that each node is accepted with all its ancestors."""
        found: list[float] = []
        for parent, own in zip(self.parents, self.confidence, strict=True):
            found.append(own if parent == ROOT else found[parent] * own)
        return found

    def keep(self, nodes: Iterable[int]) -> DraftTree:
        """The tree of some of its nodes, which must hold every ancestor of each.

        Lossless for chosen tokens only: leaving out drawn ones after looking at them would change the
        law they were drawn by.

        Raises:
            DraftError: The tokens were drawn, or an ancestor is missing.
        """
        if self.law != "point":
            raise DraftError("Only trees of chosen tokens can be cut after they were made.")
        kept = sorted(nodes)
        number = {ROOT: ROOT} | {old: new for new, old in enumerate(kept)}
        try:
            parents = tuple(number[self.parents[node]] for node in kept)
        except KeyError as error:
            raise DraftError(f"Node {error.args[0]} is missing; its descendant is kept.") from None
        return DraftTree(
            tuple(self.tokens[node] for node in kept),
            parents,
            tuple(self.confidence[node] for node in kept),
            sources=tuple(self.sources[node] for node in kept) if self.sources else (),
        )

    def check(self, d_vocab: int) -> None:
        """Check a tree before it is fed.

        Raises:
            DraftError: A token is no integer or outside the vocabulary, a confidence is no probability,
                siblings are equal that cannot be, or drawn tokens come without the distribution they
                were drawn from.
        """
        if not all(isinstance(token, int) and 0 <= token < d_vocab for token in self.tokens):
            raise DraftError(f"Drafted token ids must be integers from 0 to {d_vocab - 1}.")
        if not all(0 <= chance <= 1 for chance in self.confidence):
            raise DraftError(f"Confidences must be from 0 to 1, got {self.confidence}.")
        if self.law != "iid" and len(set(zip(self.parents, self.tokens, strict=True))) < len(self):
            how = "Chosen siblings" if self.law == "point" else "Siblings without replacement"
            raise DraftError(f"{how} must differ; TreeBuilder merges equal chosen ones.")
        if self.law != "point" and self.tokens:
            self._check_proposals(d_vocab)

    def _check_proposals(self, d_vocab: int) -> None:
        missing = self.children.keys() - self.proposals.keys()
        if missing:
            raise DraftError(f"Nodes {sorted(missing)} have drawn children but no proposal.")
        masses = []
        for node in self.children:
            row = self.proposals[node]
            if isinstance(row, SparseProbs):
                if not all(0 <= token < d_vocab for token in row.ids):
                    raise DraftError(f"Proposed token ids must be from 0 to {d_vocab - 1}.")
                row = torch.tensor(row.probs, dtype=torch.float64)
            elif row.shape != (d_vocab,):
                raise DraftError(f"A proposal must have {d_vocab} entries, got {tuple(row.shape)}.")
            masses.append(torch.stack([row.sum(), row.min()]).double())
        totals, least = torch.stack(masses).T.tolist()
        if not all(abs(total - 1) < MASS_OFF for total in totals) or min(least) < 0:
            raise DraftError(f"Proposals must be distributions; their sums are {totals}.")


class TreeBuilder:
    """Grows a tree of chosen tokens; equal siblings become one node."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._parents: list[int] = []
        self._confidence: list[float] = []
        self._sources: list[str] = []
        self._nodes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, parent: int, token: int, confidence: float = 1.0, source: str = "") -> int:
        """The node of `token` below `parent`, new or known; whoever is surer of it counts."""
        known = self._nodes.get((parent, token))
        if known is not None:
            if confidence > self._confidence[known]:
                self._confidence[known], self._sources[known] = confidence, source
            return known
        node = len(self._tokens)
        self._nodes[parent, token] = node
        self._tokens.append(token)
        self._parents.append(parent)
        self._confidence.append(confidence)
        self._sources.append(source)
        return node

    def graft(self, tree: DraftTree) -> None:
        """Add all nodes of another tree of chosen tokens."""
        number = {ROOT: ROOT}
        for node, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
            number[node] = self.add(number[parent], token, tree.confidence[node], tree.source(node))

    def build(self) -> DraftTree:
        """The tree so far."""
        return DraftTree(
            tuple(self._tokens),
            tuple(self._parents),
            tuple(self._confidence),
            sources=tuple(self._sources),
        )
