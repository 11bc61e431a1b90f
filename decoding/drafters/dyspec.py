"""DySpec (2410.11744): the draft tree that its own probabilities make best, grown as it is drawn.

Draft probability stands in for acceptance. The value of a draw is the chance that verification gets to
it: a child's is its parent's times its probability, a next sibling's the chance that all before it are
rejected. `greedy` always draws at the greatest value (one draft pass per node), `threshold` draws a
whole level at a time wherever the value is at least `min_value` (one pass per level). Siblings are
drawn without replacement. The budget is checked before each draw, as losslessness asks.

Deviations: the printed condition of the threshold loop is reversed, the text is followed; a path that
ends at a leaf emits a token of the target (left out in the pseudo-code); a depth limit.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..acceptance import without
from ..engine import About
from ..registry import register
from ..speculative import Speculative
from ..tree import ROOT, DraftTree
from .draft_model import DraftModel, DraftModelOptions, ModelDrafter, open_draft
from .drawn import Drawing

EXHAUSTED = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class DySpecOptions(DraftModelOptions):
    """Options of `DySpec`."""

    max_draft: int = 16
    """Most nodes of a tree (the paper: 64, on a GPU)."""
    draft_temperature: float | None = 0.6
    """Temperature of the draft's draws, whatever the target's."""
    builder: Literal["greedy", "threshold"] = "threshold"
    """How the tree is grown."""
    min_value: float | None = None
    """Least value drawn at by `threshold`; None for one over `max_draft`."""
    max_depth: int = 8
    """Deepest node."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        if self.builder not in ("greedy", "threshold"):
            raise OptionError(f"builder must be greedy or threshold, got {self.builder!r}.")
        if self.max_depth < 1 or not self.draft_temperature:
            raise OptionError("max_depth must be at least 1 and draft_temperature above 0.")


class DySpecDrafter(ModelDrafter):
    """Grows trees by value.

    Args:
        draft: The draft model; it must sample.
        options: How.
    """

    def __init__(self, draft: DraftModel, options: DySpecOptions) -> None:
        super().__init__(draft)
        self._options = options

    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """A tree of at most `budget` nodes."""
        depth = min(self._options.max_depth, depth)
        root = self.draft.after(text)
        if self._options.builder == "greedy":
            return self._greedy(root, budget, depth)
        return self._by_threshold(root, budget, depth)

    def _greedy(self, root: Float[Tensor, " d_vocab"], budget: int, depth: int) -> DraftTree:
        tree = Drawing("draft-model")
        tree.expand(ROOT, root)
        count = 0
        heap = [(-1.0, 0, ROOT, root)]
        while heap and len(tree) < budget:
            value, _, node, left = heapq.heappop(heap)
            token, share, rest = _draw(self.draft, left)
            child = tree.add(node, token)
            count += 1
            if rest is not None:
                heapq.heappush(heap, (value * (1 - share), count, node, rest))
            if tree.depth(child) < depth and len(tree) < budget:
                count += 1
                row = self.draft.grow([token], [node])[0]
                tree.expand(child, row)
                heapq.heappush(heap, (value * share, count, child, row))
        return tree.build()

    def _by_threshold(self, root: Float[Tensor, " d_vocab"], budget: int, depth: int) -> DraftTree:
        tree, least = Drawing("draft-model"), self._options.min_value or 1 / budget
        level = [(ROOT, root, 1.0)]
        for at in range(1, depth + 1):
            born: list[tuple[int, float]] = []
            for node, row, reach in level:
                tree.expand(node, row)
                left, value = row, reach
                while left is not None and value >= least and len(tree) < budget:
                    token, share, left = _draw(self.draft, left)
                    born.append((tree.add(node, token), value * share))
                    value *= 1 - share
            if not born or len(tree) >= budget or at == depth:
                break
            rows = self.draft.grow(
                [tree.tokens[node] for node, _ in born], [tree.parents[node] for node, _ in born]
            )
            level = [(node, row, v) for (node, v), row in zip(born, rows, strict=True)]
        return tree.build()


def _draw(
    draft: DraftModel, left: Float[Tensor, " d_vocab"]
) -> tuple[int, float, Float[Tensor, " d_vocab"] | None]:
    """A token of what is left, its probability there, and what is left then."""
    token = draft.draw(left)
    share = min(float(left[token]), 1.0)
    rest = without(left, token)
    mass = float(rest.sum())
    return token, share, rest / mass if mass > EXHAUSTED else None


@register
class DySpec(Speculative):
    """Drafts trees with a small model, grown where acceptance is likeliest."""

    about = About(
        name="dyspec",
        summary="A small model grows a tree of drafts wherever acceptance is likeliest.",
        paper="2410.11744",
        lossless=True,
        needs="a draft model of the same vocabulary",
    )
    Options = DySpecOptions

    def make_drafter(self) -> DySpecDrafter:
        """A drafter over the draft model."""
        return DySpecDrafter(open_draft(self.model, self.options), self.options)
