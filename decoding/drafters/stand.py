"""STAND (2506.04708): drafts drawn from what the model itself said after the same few tokens.

A table keeps, for the last 4, 3 and 2 tokens, the ten likeliest successors with their probabilities, as
a running mean over all occurrences. A tree's children are drawn from them without replacement, by the
largest Gumbel-perturbed log-probabilities; a branch ends where no context is known. The gain grows with
the number of texts about one problem, so the table is kept across prompts.

Deviations and choices (no code was published; the summary leaves them open): contexts are the tokens
before the predicted one; rows of the root and of the accepted path teach, since their contexts really
occurred; verification is recursive rejection without replacement, exact for sparse proposals. The tree
begins as a small one of constant branching; `fit_template` fits it as the paper does: a large heuristic
tree drafts, acceptances are counted by slot, the best slots stay. It is kept with what was learned.
Greedy decoding takes the likeliest successors as they are, which are chosen then, not drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
from ..stopping import Stopping
from ..tree import ROOT, DraftTree, SparseProbs
from .drawn import Drawing
from .shape import Shape, Slot

N_KEPT = 10
LENGTHS = (4, 3, 2)
"""Lengths of the contexts, in the order they are looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandOptions(SpeculativeOptions):
    """Options of `Stand`."""

    branching: tuple[int, ...] = (4, 2, 1, 1, 1, 1)
    """Children per node, level by level, until a template is fitted (the paper's fitted tree has 80
    nodes on 13 levels)."""

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
        branching: Children per node, level by level, of the template it begins with.
        greedy: Whether the likeliest are taken instead of drawn.
    """

    def __init__(self, branching: Sequence[int], *, greedy: bool) -> None:
        self.law = "point" if greedy else "without_replacement"  # type: ignore[misc]
        self._first, self._greedy = Shape.constant(branching), greedy
        self._noise = np.random.default_rng(0)
        self.table = NgramTable()
        self.template = self._first
        """The shape of its trees."""
        self.tally: dict[Slot, int] | None = None
        """How often each slot was accepted, while somebody counts."""

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self._noise = np.random.default_rng(seed)

    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """A level at a time; whether a node gets another child never depends on which it would be."""
        tree = Drawing("n-grams")
        level: list[tuple[int, Slot, list[int]]] = [(ROOT, (), list(text[-max(LENGTHS) :]))]
        while level:
            below: list[tuple[int, Slot, list[int]]] = []
            for node, slot, context in level:
                width = min(self.template.n_children.get(slot, 0), budget - len(tree))
                mean = self.table.lookup(context) if width > 0 else {}
                if not mean:
                    continue
                probs = np.array(list(mean.values()))
                probs /= probs.sum()
                ids = list(mean)
                tree.expand(node, SparseProbs(tuple(ids), tuple(probs.tolist())))
                for rank, place in enumerate(self._order(probs)[:width]):
                    child = tree.add(node, ids[place])
                    below.append((child, (*slot, rank), [*context, ids[place]][-max(LENGTHS) :]))
            level = below
        return tree.build(law=self.law)

    def observe(self, seen: Observation) -> None:
        """Learn from the rows whose contexts became text."""
        if self.tally is not None:
            self._count(seen)
        context = list(seen.text[-max(LENGTHS) :])
        for node in (ROOT, *seen.path):
            if node != ROOT:
                context = [*context, seen.tree.tokens[node]]
            row = self._row(seen, node)
            top = torch.topk(row, min(N_KEPT, len(row)))
            pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
            self.table.update(context, {token: p for token, p in pairs if p > 0})

    def forget(self) -> None:
        """Empty the table, and back to the first template."""
        self.table, self.template = NgramTable(), self._first

    def memory(self) -> dict[str, np.ndarray]:
        """The table and the template."""
        return self.table.arrays() | {"template": self.template.array()}

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over a table, and a template if there is one.

        Raises:
            LearnedError: Arrays are missing, or the template is none.
        """
        missing = {"contexts", "ids", "probs", "counts"} - memory.keys()
        if missing:
            raise LearnedError(f"STAND's table lacks {', '.join(sorted(missing))}.")
        try:
            stored = memory.get("template")
            template = self._first if stored is None else Shape.from_array(stored)
        except OptionError as error:
            raise LearnedError(f"STAND's template is damaged: {error}") from error
        self.forget()
        self.table.fill(memory)
        self.template = template

    def _count(self, seen: Observation) -> None:
        assert self.tally is not None
        slot: Slot = ()
        for node in seen.path:
            rank = seen.tree.children[seen.tree.parents[node]].index(node)
            slot = (*slot, rank)
            self.tally[slot] = self.tally.get(slot, 0) + 1

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


PROBE_ACCEPTANCE = tuple(0.6 * 0.5**rank for rank in range(N_KEPT))
"""By rank, the guess that shapes the probing tree; only its order of magnitude matters."""


def fit_template(
    engine: Stand,
    prompts: Sequence[str],
    *,
    size: int = 80,
    probe: Shape | None = None,
    stopping: Stopping | None = None,
    chat: bool = False,
) -> Shape:
    """Fit the shape of the engine's trees to what is accepted on some prompts (2506.04708, section 3).

    The prompts are decoded with a large heuristic tree, verified whole; slots are counted whenever they
    are accepted, and the best ones become the engine's template, which `save_learned` keeps with the
    table. The decoded texts teach the table as any others.

    Args:
        engine: Takes the template.
        prompts: What to decode (the paper: 30 problems of AIME).
        size: Most slots of the template.
        probe: The heuristic tree; None for four times `size` slots on up to 20 levels (the paper: 625
            slots for 80). Every step verifies all of it.
        stopping: When each text stops.
        chat: Whether prompts are put in the model's chat template.

    Returns:
        The template; the old one if nothing was accepted.

    Raises:
        OptionError: `size` is below 1.
    """
    if size < 1:
        raise OptionError(f"size must be at least 1, got {size}.")
    drafter, given = engine.drafter, engine.options
    assert isinstance(drafter, StandDrafter)
    before = drafter.template
    wide = probe or Shape.likeliest(PROBE_ACCEPTANCE, 4 * size, 20)
    drafter.template, drafter.tally = wide, {}
    engine.options = replace(given, max_draft=len(wide), thrifty=False, keep=True)
    try:
        engine.generate(prompts, stopping=stopping, chat=chat)
        fitted = Shape.best(drafter.tally, size) if drafter.tally else before
    except BaseException:
        drafter.template = before
        raise
    finally:
        drafter.tally = None
        engine.options = given
    drafter.template = fitted
    return fitted
