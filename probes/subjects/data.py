"""Subjects: whoever answers the same kind of stimulus with signals of its own width."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import OptionError

FEWEST = 32
"""Training items of a subject below which nothing can be learnt."""


@dataclass(frozen=True)
class Subject:
    """One subject's signals and what the stimuli mean, for training and for testing."""

    name: str
    """Unique among the subjects of an experiment."""
    train: Float[Tensor, "items width"]
    """Signals to learn from, standardised (see `standardise`)."""
    train_targets: Float[Tensor, "items d_semantic"]
    """What their stimuli mean; rows of any norm."""
    test: Float[Tensor, "test_items width"]
    """Held-out signals. Row i of every subject answers the same stimulus."""
    test_targets: Float[Tensor, "test_items d_semantic"]
    """What those mean; the same for every subject."""
    anchors: Float[Tensor, "anchors width"] | None = None
    """Signals of further items, the same for every subject, whose meanings nobody uses: what relative
    representations compare with. None where there are none."""
    test_documents: Int64[np.ndarray, " test_items"] | None = None
    """Document that each test item is from, for intervals; None where every item stands alone."""
    floor_of: str | None = None
    """None for a subject proper. A control has the name of the subject it is the floor of (the same
    architecture, untrained), or an empty text where it is the floor of all (no model at all)."""
    mean: Float[Tensor, " width"] | None = None
    """What was subtracted from signals when they were standardised; None where nobody asks."""
    scale: Float[Tensor, " width"] | None = None
    """What they were divided by."""

    def __post_init__(self) -> None:
        parts = [self.train, self.test, *([] if self.anchors is None else [self.anchors])]
        widths = {part.shape[1] for part in parts}
        if len(widths) != 1:
            raise OptionError(f"{self.name} must have signals of one width, got {sorted(widths)}.")
        if len(self.train) != len(self.train_targets) or len(self.test) != len(self.test_targets):
            raise OptionError(f"{self.name} must have one target per signal.")
        if len(self.train) < FEWEST:
            raise OptionError(
                f"{self.name} must have at least {FEWEST} training items, got {len(self.train)}."
            )
        if self.test_documents is not None and len(self.test_documents) != len(self.test):
            raise OptionError(f"{self.name} must have one document per test item.")
        for part in (*parts, self.train_targets, self.test_targets):
            if not torch.isfinite(part).all():
                raise OptionError(f"{self.name} has signals or targets that are not finite.")

    @property
    def is_control(self) -> bool:
        """Whether nothing was learnt by what gives its signals."""
        return self.floor_of is not None

    def restored(self, signals: Float[Tensor, "others width"]) -> Float[Tensor, "others width"]:
        """Standardised signals back on the subject's own scale (what was clipped stays so).

        Raises:
            OptionError: The scale is not known.
        """
        if self.mean is None or self.scale is None:
            raise OptionError(
                f"{self.name} must have mean and scale for its signals to be restored."
            )
        return signals * self.scale + self.mean

    @property
    def width(self) -> int:
        """Numbers in a signal."""
        return self.train.shape[1]

    def few(self, n: int, *, seed: int = 0) -> Subject:
        """The same subject with `n` training items, drawn without replacement."""
        if n > len(self.train):
            raise OptionError(f"{self.name} has {len(self.train)} training items, asked for {n}.")
        chosen = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))[:n]
        return replace(self, train=self.train[chosen], train_targets=self.train_targets[chosen])

    def anchored(self) -> Float[Tensor, "anchors width"]:
        """The anchors.

        Raises:
            OptionError: There are none.
        """
        if self.anchors is None:
            raise OptionError(
                f"{self.name} has no anchors; relative representations need signals of items that "
                "every subject answered."
            )
        return self.anchors


def standardise(
    train: Float[Tensor, "items width"], *others: Float[Tensor, "_ width"], clip: float = 8.0
) -> tuple[Float[Tensor, "_ width"], ...]:
    """Per unit: mean 0 and standard deviation 1 on the training split, then clipped.

    Without the clip a massive activation owns every squared error.

    Args:
        train: Training signals.
        others: Held-out signals and the like, scaled by the training split's numbers.
        clip: Largest absolute value left.

    Returns:
        All of them, training signals first.
    """
    mean, std = scaling(train)
    return tuple(((part - mean) / std).clamp(-clip, clip) for part in (train, *others))


def scaling(
    train: Float[Tensor, "items width"],
) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
    """Mean and standard deviation of each unit; 1 for the latter where a unit hardly moves."""
    mean, std = train.mean(0), train.std(0)
    return mean, torch.where(std > 1e-6 * std.max().clamp(min=1e-30), std, torch.ones_like(std))
