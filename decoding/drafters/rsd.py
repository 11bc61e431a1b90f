"""Recursive speculative decoding (2402.14160): trees whose siblings are drawn without replacement.

RSD-C gives every node of a level the same number of children, the largest Gumbel-perturbed
log-probabilities in falling order. RSD-S is stochastic beam search: of all children of a level's beams
the W with the largest perturbed path log-probability stay, the noise of a parent's children conditioned
on their greatest being the parent's own (Kool et al. 2019, 1903.06059). Cutting by perturbed value is
lossless: it depends on when the next sibling arrives, not on which token it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..engine import About
from ..registry import register
from ..speculative import Speculative
from ..tree import ROOT, DraftTree
from .draft_model import DraftModel, DraftModelOptions, ModelDrafter, open_draft
from .drawn import Drawing


@dataclass(frozen=True, slots=True, kw_only=True)
class RsdConstantOptions(DraftModelOptions):
    """Options of `RsdConstant`."""

    draft_temperature: float | None = 1.0
    """Temperature of the draft's draws."""
    branching: tuple[int, ...] = (3, 2, 1, 1)
    """Children per node, level by level."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        if not self.branching or any(width < 1 for width in self.branching):
            raise OptionError(f"branching must be numbers of at least 1, got {self.branching}.")
        _require_draws(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class RsdStochasticOptions(DraftModelOptions):
    """Options of `RsdStochastic`."""

    draft_temperature: float | None = 1.0
    """Temperature of the draft's draws."""
    width: int = 4
    """Beams."""
    depth: int = 4
    """Levels."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        if min(self.width, self.depth) < 1:
            raise OptionError(
                f"width and depth must be at least 1, got {self.width}, {self.depth}."
            )
        _require_draws(self)


def _require_draws(options: DraftModelOptions) -> None:
    if not options.draft_temperature:
        raise OptionError("draft_temperature must be above 0: these trees are drawn.")


class ConstantDrafter(ModelDrafter):
    """RSD-C.

    Args:
        draft: The draft model; it must sample.
        branching: Children per node, level by level.
    """

    def __init__(self, draft: DraftModel, branching: Sequence[int]) -> None:
        super().__init__(draft)
        self._branching = branching

    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """A level at a time, as long as the whole level fits the budget."""
        tree, level = Drawing("draft-model"), [(ROOT, self.draft.after(text))]
        widths = self._branching[:depth]
        for at, width in enumerate(widths, start=1):
            if len(tree) + width * len(level) > budget:
                break
            born: list[int] = []
            for node, row in level:
                tree.expand(node, row)
                noisy = row.double().log() + self.draft.gumbel(row)
                chosen = noisy.topk(min(width, len(noisy))).indices.tolist()
                born += [tree.add(node, token) for token in chosen if float(row[token]) > 0]
            if not born or at == len(widths):
                break
            rows = self.draft.grow([tree.tokens[n] for n in born], [tree.parents[n] for n in born])
            level = list(zip(born, rows, strict=True))
        return tree.build()


class StochasticDrafter(ModelDrafter):
    """RSD-S.

    Args:
        draft: The draft model; it must sample.
        width: Beams.
        depth: Levels.
    """

    def __init__(self, draft: DraftModel, width: int, depth: int) -> None:
        super().__init__(draft)
        self._width, self._depth = width, depth

    def draw(self, text: Sequence[int], budget: int, depth: int) -> DraftTree:
        """Beams of the largest perturbed path log-probability, a level at a time."""
        tree = Drawing("draft-model")
        beams = [(ROOT, self.draft.after(text), 0.0, 0.0)]
        depth = min(self._depth, depth)
        for at in range(1, depth + 1):
            width = min(self._width, budget - len(tree))
            if width < 1:
                break
            found = []
            for node, row, path, own in beams:
                tree.expand(node, row)
                logs = path + row.double().log()
                noisy = condition_maximum(logs + self.draft.gumbel(logs), own)
                best = noisy.topk(min(width, len(noisy)))
                for value, token in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                    if value > -torch.inf:
                        found.append((value, float(logs[token]), node, token))
            found.sort(key=lambda child: -child[0])
            born = [
                (tree.add(node, token), logs, value) for value, logs, node, token in found[:width]
            ]
            if not born or at == depth:
                break
            rows = self.draft.grow(
                [tree.tokens[n] for n, _, _ in born], [tree.parents[n] for n, _, _ in born]
            )
            beams = [
                (n, row, logs, value) for (n, logs, value), row in zip(born, rows, strict=True)
            ]
        return tree.build()


def condition_maximum(
    perturbed: Float[Tensor, " d_vocab"], maximum: float
) -> Float[Tensor, " d_vocab"]:
    """Perturbed log-probabilities, conditioned on their greatest being `maximum`.

    -log(exp(-maximum) - exp(-greatest) + exp(-perturbed)), in the stable form of 1903.06059, app. B.3.
    """
    greatest = perturbed.max()
    gap = perturbed - greatest
    v = maximum - perturbed + torch.log1p(-gap.exp())
    return torch.where(
        perturbed == greatest,
        torch.full_like(perturbed, maximum),
        maximum - v.clamp(min=0) - torch.log1p(torch.exp(-v.abs())),
    ).masked_fill(perturbed == -torch.inf, -torch.inf)


@register
class RsdConstant(Speculative):
    """RSD-C: trees of constant branching, drawn without replacement from a small model."""

    about = About(
        name="rsd-c",
        summary="A small model draws trees of constant branching without replacement.",
        paper="2402.14160",
        lossless=True,
        needs="a draft model of the same vocabulary",
    )
    Options = RsdConstantOptions

    def make_drafter(self) -> ConstantDrafter:
        """A drafter over the draft model."""
        return ConstantDrafter(open_draft(self.model, self.options), self.options.branching)


@register
class RsdStochastic(Speculative):
    """RSD-S: trees by stochastic beam search over a small model."""

    about = About(
        name="rsd-s",
        summary="A small model draws trees by stochastic beam search.",
        paper="2402.14160",
        lossless=True,
        needs="a draft model of the same vocabulary",
    )
    Options = RsdStochasticOptions

    def make_drafter(self) -> StochasticDrafter:
        """A drafter over the draft model."""
        return StochasticDrafter(
            open_draft(self.model, self.options), self.options.width, self.options.depth
        )
