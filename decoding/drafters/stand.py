"""STAND (2506.04708): drafts drawn from what the model itself said after the same few tokens.

A table keeps, for the last 4, 3 and 2 tokens, the ten likeliest successors with their probabilities, as
a running mean over all occurrences. A tree's children are drawn from them without replacement, by the
largest Gumbel-perturbed log-probabilities; a branch ends where no context is known. The gain grows with
the number of texts about one problem, so the table is kept across prompts.

Deviations and choices (no code was published; the summary leaves them open): contexts are the tokens
before the predicted one; rows of the root and of the accepted path teach, since their contexts really
occurred; the tree's shape is read off the paper's figure (children per node, level by level) instead of
fitted to AIME; verification is recursive rejection without replacement, exact for sparse proposals.
Greedy decoding takes the likeliest successors as they are, which are chosen then, not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Drafter, Observation
from ..engine import About
from ..errors import LearnedError
from ..registry import register
from ..speculative import Speculative, SpeculativeOptions
from ..tree import ROOT, DraftTree, SparseProbs
from .drawn import Drawing

N_KEPT = 10
LENGTHS = (4, 3, 2)
"""Lengths of the contexts, in the order they are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandOptions(SpeculativeOptions):
    """Options of `Stand`."""

    branching: tuple[int, ...] = (4, 2, 1, 1, 1, 1)
    """Children per node, level by level (the paper's tree has 80 nodes on 13 levels)."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if not self.branching or any(not 1 <= width <= N_KEPT for width in self.branching):
            raise OptionError(
                f"branching must be numbers from 1 to {N_KEPT}, got {self.branching}."
            )


class NgramTable:
    """Mean distribution after each context, its ten likeliest tokens."""

    def __init__(self) -> None:
        self._means: dict[tuple[int, ...], dict[int, float]] = {}
        self._counts: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        return len(self._means)

    def update(self, context: Sequence[int], probs: Mapping[int, float]) -> None:
        """Take a distribution into the mean of each context that ends as this one does."""
        for length in LENGTHS:
            if len(context) < length:
                continue
            key = tuple(context[-length:])
            mean, seen = self._means.get(key, {}), self._counts.get(key, 0)
            merged = {token: p * seen / (seen + 1) for token, p in mean.items()}
            for token, p in probs.items():
                merged[token] = merged.get(token, 0.0) + p / (seen + 1)
            best = sorted(merged.items(), key=lambda item: (-item[1], item[0]))[:N_KEPT]
            self._means[key], self._counts[key] = dict(best), seen + 1

    def lookup(self, context: Sequence[int]) -> dict[int, float]:
        """The mean after the longest known context; empty if none is known."""
        for length in LENGTHS:
            found = self._means.get(tuple(context[-length:])) if len(context) >= length else None
            if found:
                return found
        return {}

    def arrays(self) -> dict[str, np.ndarray]:
        """The table, one row per context; contexts are filled up with -1 in front."""
        longest = max(LENGTHS)
        n = len(self._means)
        keys = np.full((n, longest), -1, dtype=np.int32)
        ids = np.full((n, N_KEPT), -1, dtype=np.int32)
        probs = np.zeros((n, N_KEPT), dtype=np.float64)
        for row, (key, mean) in enumerate(self._means.items()):
            keys[row, longest - len(key) :] = key
            ids[row, : len(mean)] = list(mean)
            probs[row, : len(mean)] = list(mean.values())
        counts = np.array(list(self._counts.values()), dtype=np.int64)
        return {"contexts": keys, "ids": ids, "probs": probs, "counts": counts}

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `arrays` gave."""
        for key, ids, probs, count in zip(
            arrays["contexts"], arrays["ids"], arrays["probs"], arrays["counts"], strict=True
        ):
            context = tuple(int(token) for token in key if token >= 0)
            real = ids >= 0
            self._means[context] = dict(zip(ids[real].tolist(), probs[real].tolist(), strict=True))
            self._counts[context] = int(count)


class StandDrafter(Drafter):
    """Draws trees from the table.

    Args:
        branching: Children per node, level by level.
        greedy: Whether the likeliest are taken instead of drawn.
    """

    def __init__(self, branching: Sequence[int], *, greedy: bool) -> None:
        self.law = "point" if greedy else "without_replacement"  # type: ignore[misc]
        self._branching, self._greedy = branching, greedy
        self._noise = np.random.default_rng(0)
        self.table = NgramTable()

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self._noise = np.random.default_rng(seed)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """A level at a time; whether a node gets another child never depends on which it would be."""
        tree, tail = Drawing("n-grams"), list(text[-max(LENGTHS) :])
        level: list[tuple[int, list[int]]] = [(ROOT, tail)]
        for width in self._branching[:budget]:
            below: list[tuple[int, list[int]]] = []
            for node, context in level:
                mean = self.table.lookup(context)
                room = min(width, budget - len(tree), len(mean))
                if room < 1:
                    continue
                probs = np.array(list(mean.values()))
                probs /= probs.sum()
                ids = list(mean)
                tree.expand(node, SparseProbs(tuple(ids), tuple(probs.tolist())))
                for place in self._order(probs)[:room]:
                    child = tree.add(node, ids[place], float(probs[place]))
                    below.append((child, [*context[1:], ids[place]]))
            level = below
        return tree.build(law=self.law)

    def observe(self, seen: Observation) -> None:
        """Learn from the rows whose contexts became text."""
        context = list(seen.text[-max(LENGTHS) :])
        for node in (ROOT, *seen.path):
            if node != ROOT:
                context = [*context, seen.tree.tokens[node]]
            row = self._row(seen, node)
            top = torch.topk(row, min(N_KEPT, len(row)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            self.table.update(context, {token: p for token, p in pairs if p > 0})

    def forget(self) -> None:
        """Empty the table."""
        self.table = NgramTable()

    def memory(self) -> dict[str, np.ndarray]:
        """The table."""
        return self.table.arrays()

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over a table.

        Raises:
            LearnedError: Arrays are missing.
        """
        missing = {"contexts", "ids", "probs", "counts"} - memory.keys()
        if missing:
            raise LearnedError(f"STAND's table lacks {', '.join(sorted(missing))}.")
        self.forget()
        self.table.fill(memory)

    def _order(self, probs: np.ndarray) -> list[int]:
        if self._greedy:
            return np.argsort(-probs, kind="stable").tolist()
        return np.argsort(-(np.log(probs) + self._noise.gumbel(size=len(probs)))).tolist()

    def _row(self, seen: Observation, node: int) -> Float[Tensor, " d_vocab"]:
        """The target's distribution as it is sampled from; before truncation where it is not."""
        if self._greedy:
            return seen.beliefs.log_probs[node + 1].exp()
        return seen.beliefs.probs(node)


@register
class Stand(Speculative):
    """Drafts draws from what the model said after the same few tokens."""

    about = About(
        name="stand",
        summary="Draws drafts from what the model itself said after the same few tokens.",
        paper="2506.04708",
        lossless=True,
        needs="nothing; gains by many texts about one problem",
    )
    Options = StandOptions

    def make_drafter(self) -> StandDrafter:
        """A drafter with an empty table."""
        return StandDrafter(self.options.branching, greedy=self.options.temperature == 0)
