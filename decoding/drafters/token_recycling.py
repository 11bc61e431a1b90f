"""Token Recycling (2408.08696): the candidates the target computes anyway are the next drafts.

A table holds, for every token, the k likeliest successors of the last time it passed the target,
accepted or not; a draft tree is read off it level by level. Tree template "2.2.2": 80 nodes, depth 6.

Deviations: the table also keeps the successors' probabilities, which serve as confidence and, with
`shape="best-first"`, choose the tree; rows never seen draft nothing (the public code drafts copies of
token 0); equal tokens in one tree are written in breadth-first order, the accepted path last (there:
undefined); sampling is by matching (there: greedy only). The prompt's last rows can seed the table
(`seed_rows`; the public code learns nothing from the prompt).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter, Observation
from ..engine import About
from ..errors import LearnedError
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import ROOT, DraftTree, TreeBuilder

TEMPLATE: dict[str, int] = {
    "": 8,
    "0": 8,
    "1": 4,
    "2": 3,
    "3": 2,
    "4": 1,
    "5": 1,
    "6": 1,
    "7": 1,
    "00": 8,
    "01": 3,
    "02": 2,
    "03": 1,
    "04": 1,
    "05": 1,
    "06": 1,
    "07": 1,
    "10": 2,
    "11": 1,
    "20": 1,
    "30": 1,
    "40": 1,
    "50": 1,
    "000": 5,
    "001": 2,
    "002": 1,
    "003": 1,
    "004": 1,
    "010": 1,
    "020": 1,
    "100": 1,
    "200": 1,
    "300": 1,
    "0000": 3,
    "0001": 1,
    "0002": 1,
    "0010": 1,
    "0100": 1,
    "1000": 1,
    "00000": 2,
    "00010": 1,
}
"""Template 2.2.2: how many children the node reached by these ranks has; ranks count from 0."""

N_SUCCESSORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRecyclingOptions(SpeculativeOptions):
    """Options of `TokenRecycling`."""

    max_draft: int = 80
    """At most this many drafted tokens per step."""
    shape: Literal["template", "best-first"] = "template"
    """The paper's fixed tree, or the nodes the table's probabilities make likeliest."""
    seed_rows: int = 0
    """Rows of the prompt, from its end, that fill the table before the first draft; each costs an
    unembedding."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.shape not in ("template", "best-first"):
            raise OptionError(f"shape must be template or best-first, got {self.shape!r}.")
        if self.seed_rows < 0:
            raise OptionError(f"seed_rows must be at least 0, got {self.seed_rows}.")


class SuccessorTable:
    """For every token its likeliest successors when it was last seen, best first.

    Args:
        d_vocab: Tokens.
    """

    def __init__(self, d_vocab: int) -> None:
        self.n = min(N_SUCCESSORS, d_vocab)
        self.ids = np.full((d_vocab, self.n), -1, dtype=np.int32)
        self.probs = np.zeros((d_vocab, self.n), dtype=np.float32)

    def update(
        self, tokens: Sequence[int], ids: Int64[Tensor, "rows k"], probs: Float[Tensor, "rows k"]
    ) -> None:
        """Overwrite the rows of `tokens`; of equal tokens the last one counts."""
        new_ids, new_probs = ids.cpu().numpy(), probs.cpu().numpy()
        last = {token: row for row, token in enumerate(tokens)}
        at, rows = list(last.keys()), list(last.values())
        self.ids[at], self.probs[at] = new_ids[rows], new_probs[rows]


class TokenRecyclingDrafter(Drafter):
    """Reads draft trees off the successor table.

    Args:
        d_vocab: Tokens.
        shape: See `TokenRecyclingOptions`.
        seed_rows: See `TokenRecyclingOptions`.
    """

    def __init__(
        self,
        d_vocab: int,
        *,
        shape: Literal["template", "best-first"] = "template",
        seed_rows: int = 0,
    ) -> None:
        self.prompt_rows = seed_rows
        self._d_vocab, self._shape = d_vocab, shape
        self.table = SuccessorTable(d_vocab)

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """Seed the table from the prompt, if asked to."""
        if self.prompt_rows and logits is not None:
            probs, ids = logits.float().softmax(-1).topk(self.table.n, dim=-1)
            self.table.update(prompt[-len(logits) :], ids, probs)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """The successors of the root, theirs, and so on."""
        if self._shape == "template":
            return self._from_template(text[-1], budget)
        return self._best_first(text[-1], budget)

    def observe(self, seen: Observation) -> None:
        """Every row teaches, those of rejected tokens too; the accepted path has the last word."""
        fed = seen.fed
        order = [*range(len(fed)), 0, *(node + 1 for node in seen.path)]
        last = {fed[row]: row for row in order}
        nodes = [row - 1 for row in last.values()]
        self.table.update(list(last), *seen.beliefs.likeliest(nodes, self.table.n))

    def forget(self) -> None:
        """Empty the table."""
        self.table = SuccessorTable(self._d_vocab)

    def memory(self) -> dict[str, np.ndarray]:
        """The table."""
        return {"ids": self.table.ids, "probs": self.table.probs}

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over a table.

        Raises:
            LearnedError: It is not a table of this vocabulary.
        """
        ids, probs = memory.get("ids"), memory.get("probs")
        if ids is None or probs is None or {ids.shape, probs.shape} != {self.table.ids.shape}:
            raise LearnedError(
                f"Token Recycling needs arrays ids and probs of shape {self.table.ids.shape}; "
                f"got { {name: array.shape for name, array in memory.items()} }."
            )
        self.table.ids[:], self.table.probs[:] = ids, probs

    def _from_template(self, root: int, budget: int) -> DraftTree:
        builder = TreeBuilder()
        level: dict[str, tuple[int, int]] = {"": (ROOT, root)}
        while level:
            below: dict[str, tuple[int, int]] = {}
            for path, (node, token) in level.items():
                for rank in range(min(TEMPLATE.get(path, 0), self.table.n)):
                    if len(builder) == budget:
                        return builder.build()
                    child = self._successor(builder, node, token, rank)
                    if child is not None:
                        below[f"{path}{rank}"] = child
            level = below
        return builder.build()

    def _best_first(self, root: int, budget: int) -> DraftTree:
        """Always the likeliest next node: a node's next sibling, or its first child."""
        builder, count = TreeBuilder(), 0
        heap = [(-float(self.table.probs[root, 0]), count, ROOT, root, 0, 1.0)]
        while heap and len(builder) < budget:
            _, _, node, token, rank, reach = heapq.heappop(heap)
            child = self._successor(builder, node, token, rank)
            if child is None:
                continue
            below = reach * float(self.table.probs[token, rank])
            for at, of, place, value in (
                (node, token, rank + 1, reach),
                (child[0], child[1], 0, below),
            ):
                if place < self.table.n:
                    count += 1
                    prob = value * float(self.table.probs[of, place])
                    heapq.heappush(heap, (-prob, count, at, of, place, value))
        return builder.build()

    def _successor(
        self, builder: TreeBuilder, node: int, token: int, rank: int
    ) -> tuple[int, int] | None:
        """Add the successor of a rank below a node, unless the token was never seen."""
        successor = int(self.table.ids[token, rank])
        if successor < 0:
            return None
        prob = float(self.table.probs[token, rank])
        return builder.add(node, successor, prob, "token-recycling"), successor


@register
class TokenRecycling(Speculative):
    """Drafts what the target thought likely the last time it saw the same token."""

    about = About(
        name="token-recycling",
        summary="Drafts trees of what the target thought likely when it last saw each token.",
        paper="2408.08696",
        lossless=True,
        needs="nothing",
    )
    Options = TokenRecyclingOptions

    def make_drafter(self) -> TokenRecyclingDrafter:
        """A drafter with an empty table."""
        return TokenRecyclingDrafter(
            self.model.d_vocab, shape=self.options.shape, seed_rows=self.options.seed_rows
        )
