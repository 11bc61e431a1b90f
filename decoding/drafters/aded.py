"""ADED / Adaptix (2407.12021): a tri-gram table searched for the draft worth verifying.

The table maps two tokens to weighted successors and learns from the text as it is written. A PUCT
search from the text's last two tokens visits what is likely and what was tried little; the paths
visited most are the draft, each with its heaviest successor added.

Faults of the public code that are corrected here: the value backed up by a rollout is that of the new
tokens (there: of the token that two states share, almost a constant; `as_shipped=True` brings that
back); a tri-gram of the text is counted once (there: once per step while it stays in a window of 16);
weights are normalised when read (there: they may exceed one); short contexts draft nothing (there: a
crash); the search is seeded. Sampling verifies by matching (there: one draw per path, which is biased).
Drafted: at most 4 tokens deep. No corpus is needed; `texts` can fill the table beforehand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter, Observation
from ..engine import About
from ..errors import LearnedError
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import ROOT, DraftTree, TreeBuilder

STEP, CEILING, N_SUCCESSORS = 0.04, 3.0, 12
"""Weight that an occurrence adds, greatest weight, successors kept per pair."""
C1, C2, DEPTH, N_PATHS = 32.0, 8.0, 3, 24


@dataclass(frozen=True, slots=True, kw_only=True)
class AdedOptions(SpeculativeOptions):
    """Options of `Aded`."""

    max_draft: int = 64
    """Most nodes of a tree."""
    search: Literal["puct", "best-first"] = "puct"
    """The paper's search, or simply the likeliest nodes by the table."""
    iterations: int = 150
    """Visits of a search."""
    texts: tuple[str, ...] = ()
    """Texts that fill the table beforehand."""
    as_shipped: bool = False
    """Whether rollouts are valued as the public code values them."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if self.search not in ("puct", "best-first"):
            raise OptionError(f"search must be puct or best-first, got {self.search!r}.")
        if self.iterations < 1:
            raise OptionError(f"iterations must be at least 1, got {self.iterations}.")


class TrigramTable:
    """Weights of what followed two tokens."""

    def __init__(self) -> None:
        self._weights: dict[tuple[int, int], dict[int, float]] = {}

    def add(self, tokens: Sequence[int]) -> None:
        """Count every tri-gram of a sequence once."""
        for a, b, c in zip(tokens, tokens[1:], tokens[2:], strict=False):
            found = self._weights.setdefault((a, b), {})
            found[c] = min(found.get(c, 0.0) + STEP, CEILING)
            if len(found) > N_SUCCESSORS:
                del found[min(found, key=lambda token: (found[token], token != c, token))]

    def successors(self, pair: tuple[int, int]) -> list[tuple[int, float]]:
        """Successors with their shares, the heaviest first."""
        found = self._weights.get(pair, {})
        total = sum(found.values())
        ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        return [(token, weight / total) for token, weight in ranked]

    def rows(self) -> np.ndarray:
        """All tri-grams with their weights, one row each."""
        return np.array(
            [
                (*pair, token, w)
                for pair, found in self._weights.items()
                for token, w in found.items()
            ],
            dtype=np.float64,
        ).reshape(-1, 4)

    def fill(self, rows: np.ndarray) -> None:
        """Take over what `rows` gave."""
        for a, b, c, weight in rows.tolist():
            self._weights.setdefault((int(a), int(b)), {})[int(c)] = weight


@dataclass(slots=True)
class Visited:
    """A node of the search."""

    pair: tuple[int, int]
    prior: float
    parent: Visited | None
    visits: int = 0
    value: float = 0.0
    children: list[Visited] = field(default_factory=list)

    def score(self, n_parent: int) -> float:
        """PUCT: mean value, and more for what is likely and little visited."""
        if not self.visits:
            return math.inf
        breadth = C1 + math.log((n_parent + C2 + 1) / C2)
        return (
            self.value / self.visits
            + self.prior * math.sqrt(n_parent) / (1 + self.visits) * breadth
        )

    def path(self) -> list[Visited]:
        """Nodes from the first level down to this one."""
        found, node = [], self
        while node.parent is not None:
            found.append(node)
            node = node.parent
        return found[::-1]


class AdedDrafter(Drafter):
    """Searches the table.

    Args:
        options: How.
        texts: Token ids of texts that fill the table beforehand.
    """

    def __init__(self, options: AdedOptions, texts: Sequence[Sequence[int]] = ()) -> None:
        self._options, self._texts = options, texts
        self._draw = np.random.default_rng(0)
        self.forget()

    def reseed(self, seed: int) -> None:
        """Begin the rollouts' draws anew."""
        self._draw = np.random.default_rng(seed)

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """The prompt's tri-grams are learned too."""
        self.table.add(prompt)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """The paths visited most, or the likeliest nodes."""
        if len(text) < 2:
            return DraftTree()
        pair = (text[-2], text[-1])
        if self._options.search == "best-first":
            return self._best_first(pair, budget)
        root = self.search(pair)
        builder = TreeBuilder()
        for node in self._most_visited(root):
            path = [(n.pair[1], n.prior) for n in node.path()]
            path += self.table.successors(node.pair)[:1]
            at = ROOT
            for token, share in path[:budget]:
                if len(builder) >= budget:
                    return builder.build()
                at = builder.add(at, token, share, "tri-grams")
        return builder.build()

    def observe(self, seen: Observation) -> None:
        """Learn the tri-grams that end in a new token."""
        self.table.add([*seen.text[-2:], *seen.emitted])

    def forget(self) -> None:
        """Empty the table, but for the texts given."""
        self.table = TrigramTable()
        for text in self._texts:
            self.table.add(text)

    def memory(self) -> dict[str, np.ndarray]:
        """The table."""
        return {"trigrams": self.table.rows()}

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over a table.

        Raises:
            LearnedError: There is none.
        """
        if "trigrams" not in memory:
            raise LearnedError("ADED needs an array 'trigrams'.")
        self.forget()
        self.table.fill(memory["trigrams"])

    def search(self, pair: tuple[int, int]) -> Visited:
        """The root of a search tree, visited `iterations` times."""
        root = Visited(pair, 1.0, None)
        if not self.table.successors(pair):
            return root
        for _ in range(self._options.iterations):
            node, depth = root, 0
            while node.children:
                n = node.visits
                node = max(node.children, key=lambda child: child.score(n))
                depth += 1
            if depth < DEPTH:
                node.children = [
                    Visited((node.pair[1], token), share, node)
                    for token, share in self.table.successors(node.pair)
                ]
            value = self._value(node, depth)
            while node is not None:
                node.visits += 1
                node.value += value
                node = node.parent
        return root

    def _value(self, node: Visited, depth: int) -> float:
        """Mean share of the tokens on the way here and on a random way on."""
        if self._options.as_shipped:
            return 1.0
        shares = [n.prior for n in node.path()]
        pair = node.pair
        for _ in range(DEPTH - depth):
            following = self.table.successors(pair)
            if not following:
                break
            weights = np.array([share for _, share in following])
            token, share = following[
                int(self._draw.choice(len(weights), p=weights / weights.sum()))
            ]
            shares.append(share)
            pair = (pair[1], token)
        return float(np.mean(shares)) if shares else 0.0

    def _most_visited(self, root: Visited) -> list[Visited]:
        found: list[Visited] = []
        waiting = list(root.children)
        while waiting:
            node = waiting.pop()
            found.append(node)
            waiting.extend(node.children)
        return sorted(found, key=lambda node: -node.visits)[:N_PATHS]

    def _best_first(self, pair: tuple[int, int], budget: int) -> DraftTree:
        builder = TreeBuilder()
        open_nodes = [
            (share, ROOT, token, share, (pair[1], token), 1)
            for token, share in self.table.successors(pair)
        ]
        while open_nodes and len(builder) < budget:
            best = max(range(len(open_nodes)), key=lambda place: open_nodes[place][0])
            reach, parent, token, share, here, depth = open_nodes.pop(best)
            node = builder.add(parent, token, share, "tri-grams")
            if depth <= DEPTH:
                open_nodes += [
                    (reach * p, node, t, p, (here[1], t), depth + 1)
                    for t, p in self.table.successors(here)
                ]
        return builder.build()


@register
class Aded(Speculative):
    """Drafts what a search of a tri-gram table of text finds worth verifying."""

    about = About(
        name="aded",
        summary="Searches a tri-gram table, learned from text as it is written, for drafts.",
        paper="2407.12021",
        lossless=True,
        needs="nothing; gains by texts like the output",
    )
    Options = AdedOptions

    def make_drafter(self) -> AdedDrafter:
        """A drafter whose table holds the texts given."""
        texts = [self.model.encode(text, bos=False).tolist() for text in self.options.texts]
        return AdedDrafter(self.options, texts)
