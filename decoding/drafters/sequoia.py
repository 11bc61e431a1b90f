"""Sequoia (2402.12374): draft trees of the best shape for measured acceptance and measured costs.

How often a node's first, second, ... child is the accepted one is counted while decoding. Dynamic
programming gives the best tree of every size from it (`sequoia_shape`), and what passes cost on this
machine gives the size. Children are drawn without replacement from a draft model, a level at a time in
one pass; greedy: the likeliest ones.

Deviations: acceptance is measured on the run, not beforehand (what was learned can be kept in a file),
and an accepted child counts against all tried before it, so that ranks beyond a node's width are
censored, not missed; until enough is counted a prior speaks; used-up proposals end a node's children
(there: a uniform rest, which is the rule 'sequoia').
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..drafter import Observation
from ..engine import About
from ..errors import LearnedError
from ..registry import register
from ..speculative import Speculative
from ..tree import ROOT, DraftTree
from .draft_model import DraftModel, DraftModelOptions, ModelDrafter, open_draft
from .drawn import Drawing
from .sequoia_shape import BestShapes, Seconds
from .shape import Shape, Slot

PRIOR = 4.0
"""Tries that the prior counts for at every rank."""
PRIOR_ACCEPTANCE = (0.5, 0.25)
"""Prior chance that a tried child is accepted: the first one, all later ones."""
REFIT = 1.25
"""The shape is fitted again when the tries have grown by this factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequoiaOptions(DraftModelOptions):
    """Options of `Sequoia`."""

    max_draft: int = 16
    """Most nodes of a tree (the paper: 64 to 768, on a GPU)."""
    thrifty: bool = False
    """The size follows from costs already (`by_cost`); True cuts greedy trees once more."""
    max_depth: int = 8
    """Deepest node."""
    max_width: int = 8
    """Most children of a node."""
    by_cost: bool = True
    """Whether the size is what pays on this machine; False takes all of `max_draft`. A sampled text
    then depends on the machine as well as on the seed, its distribution does not."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        for name in ("max_depth", "max_width"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")


class RankCounts:
    """How often a node's child of each rank was tried, and accepted.

    Args:
        width: Ranks counted.
    """

    def __init__(self, width: int) -> None:
        self.tried = np.zeros(width, dtype=np.int64)
        self.accepted = np.zeros(width, dtype=np.int64)

    def observe(self, n_children: int, accepted: int | None) -> None:
        """A node with so many children was decided about; `accepted` is a rank, or None for no one."""
        n_tried = n_children if accepted is None else accepted + 1
        self.tried[:n_tried] += 1
        if accepted is not None and accepted < len(self.accepted):
            self.accepted[accepted] += 1

    def acceptance(self) -> list[float]:
        """By rank, the chance that it is the accepted one: p_1, p_2, ... of the paper."""
        prior = np.full(len(self.tried), PRIOR_ACCEPTANCE[1])
        prior[0] = PRIOR_ACCEPTANCE[0]
        once_tried = (self.accepted + PRIOR * prior) / (self.tried + PRIOR)
        left = np.concatenate([[1.0], np.cumprod(1 - once_tried)[:-1]])
        return (left * once_tried).tolist()


class SequoiaDrafter(ModelDrafter):
    """Fills the best shape with the draft model's tokens.

    Args:
        draft: The draft model.
        options: Limits.
        costs: Seconds of the target's and of the draft's pass over so many rows; None for full size.
    """

    def __init__(
        self,
        draft: DraftModel,
        options: SequoiaOptions,
        costs: tuple[Seconds, Seconds] | None = None,
    ) -> None:
        super().__init__(draft)
        self._options, self._costs = options, costs or (None, None)
        self._whole = DraftTree()
        self.forget()

    def forget(self) -> None:
        """Back to the prior."""
        self.counts = RankCounts(self._options.max_width)
        self._best: BestShapes | None = None
        self._shapes: dict[tuple[int, int], Shape] = {}
        self._fitted_at = 0

    def shape(self, budget: int, depth: int) -> Shape:
        """The shape for a budget, as far as is known."""
        tries = int(self.counts.tried[0])
        if self._best is None or tries > REFIT * self._fitted_at + 8:
            options = self._options
            acceptance = self.counts.acceptance()
            self._best = BestShapes(acceptance, options.max_draft, options.max_depth)
            self._shapes, self._fitted_at = {}, tries
        if (budget, depth) not in self._shapes:
            self._shapes[budget, depth] = self._best.choose(budget, depth, *self._costs)
        return self._shapes[budget, depth]

    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """A level at a time, one draft pass each."""
        shape = self.shape(budget, min(self._options.max_depth, depth))
        tree = Drawing("draft-model")
        if len(shape):
            level: list[tuple[int, Slot]] = [(ROOT, ())]
            rows = [self.draft.after(text)]
            while level:
                born: list[tuple[int, Slot]] = []
                for (node, slot), row in zip(level, rows, strict=True):
                    tree.expand(node, row)
                    for rank, token in enumerate(self._children(row, shape.n_children[slot])):
                        child = (*slot, rank)
                        born.append((tree.add(node, token), child))
                level = [(node, slot) for node, slot in born if slot in shape.n_children]
                if not level:
                    break
                # All are fed, whether or not they have children: the draft numbers nodes as the tree.
                fed = [node for node, _ in born]
                grown = self.draft.grow(
                    [tree.tokens[n] for n in fed], [tree.parents[n] for n in fed]
                )
                rows = [grown[fed.index(node)] for node, _ in level]
        self._whole = tree.build(law=self.law)
        return self._whole

    def observe(self, seen: Observation) -> None:
        """Count, down the tree as it was drafted, which child was accepted."""
        tree, self._whole = self._whole, DraftTree()
        # A drawn child may be refused and its token emitted all the same; chosen ones may be cut off.
        accepted = seen.path if tree.law != "point" else _followed(tree, seen.emitted)
        for parent, child in zip([ROOT, *accepted], [*accepted, None], strict=True):
            if siblings := tree.children.get(parent):
                self.counts.observe(len(siblings), None if child is None else siblings.index(child))

    def memory(self) -> dict[str, np.ndarray]:
        """The counts."""
        return {"tried": self.counts.tried, "accepted": self.counts.accepted}

    def remember(self, memory: Mapping[str, np.ndarray]) -> None:
        """Take over counts; ranks beyond `max_width` are dropped.

        Raises:
            LearnedError: They are no counts.
        """
        tried, accepted = memory.get("tried"), memory.get("accepted")
        if tried is None or accepted is None or tried.shape != accepted.shape or tried.ndim != 1:
            raise LearnedError("Sequoia's counts must be 'tried' and 'accepted', one per rank.")
        self.forget()
        kept = min(len(tried), len(self.counts.tried))
        self.counts.tried[:kept], self.counts.accepted[:kept] = tried[:kept], accepted[:kept]

    def _children(self, row: Float[Tensor, " d_vocab"], n_children: int) -> list[int]:
        """Distinct tokens: drawn one after the other, or the likeliest; fewer where no mass is left."""
        logs = row.double().log()
        noisy = logs if self.draft.greedy else logs + self.draft.gumbel(logs)
        best = noisy.topk(min(n_children, len(noisy)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        return [token for token, value in pairs if value > -np.inf]


def _followed(tree: DraftTree, emitted: Sequence[int]) -> list[int]:
    """Nodes that say what was emitted, from the first level down."""
    found: list[int] = []
    for token in emitted:
        children = tree.children.get(found[-1] if found else ROOT, [])
        same = [child for child in children if tree.tokens[child] == token]
        if not same:
            break
        found.append(same[0])
    return found


@register
class Sequoia(Speculative):
    """Drafts trees of the best shape for measured acceptance and costs."""

    about = About(
        name="sequoia",
        summary="A small model fills the tree that measured acceptance and costs make best.",
        paper="2402.12374",
        lossless=True,
        needs="a draft model of the same vocabulary",
    )
    Options = SequoiaOptions

    def prepare(self) -> None:
        """Measure both models, besides what every drafting engine checks."""
        super().prepare()
        if self.options.by_cost:
            self._curves()

    def make_drafter(self) -> SequoiaDrafter:
        """A drafter over the draft model."""
        draft = open_draft(self.model, self.options)
        costs = (self._seconds, self._draft_seconds) if self.options.by_cost else None
        return SequoiaDrafter(draft, self.options, costs)

    def _curves(self) -> None:
        self._seconds(1)
        self._draft_seconds(1)

    def _seconds(self, rows: int) -> float:
        return self.cost_curve(self.model).seconds(rows)

    def _draft_seconds(self, rows: int) -> float:
        drafter = self.drafter
        assert isinstance(drafter, SequoiaDrafter)
        return self.cost_curve(drafter.draft.model).seconds(rows)
