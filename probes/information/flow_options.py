"""How information flow is read: rows, classes, families, estimators."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import OptionError
from .readout import ReadoutOptions

FEWEST_DIRECTIONS = 16
"""Directions of a state below which a readout says nothing about the layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """How much is read and how readouts are made."""

    n_futures: int = 4
    """Tokens looked ahead: W_0 to W_3; at most 9."""
    n_classes: int = 1024
    """Classes of tokens, the shared one included."""
    train_rows: int = 40_000
    """Most rows trained on; drawn from all training documents."""
    test_rows: int = 16_000
    """Most rows tested on, drawn from all test documents."""
    choose_rows: int = 6_000
    """Most rows the best epoch is chosen on."""
    depths: int = 3
    """Depths of the draft at the last layer; below `n_futures`."""
    n_directions: int | None = None
    """Principal directions of states, and of embeddings, that readouts see; None for as many as the
    training rows allow (all, where there are enough)."""
    n_clusters: int = 24
    """Clusters of states for the contingency table."""
    coarse_classes: int = 16
    """Classes of tokens for the contingency table."""
    n_groups: int = 8
    """Groups of rows for the kernel estimators."""
    world_states: int = 64
    """States whose likely continuations the model reads itself (E3a)."""
    world_context: int = 48
    """Longest context of those, in tokens."""
    world_classes: int = 64
    """Classes of W_0 and W_1 there."""
    world_dropped: float = 0.05
    """Probability of W_0 left unread there."""
    world_most: int = 48
    """Most W_0 read per state there."""
    probe: ReadoutOptions = field(default_factory=ReadoutOptions)
    """The softmax-linear probe, and the additive one."""
    head: ReadoutOptions = field(default_factory=lambda: ReadoutOptions(rank=256, interacts=True))
    """The draft head."""
    seed: int = 0
    """Fixes the split and what is drawn."""

    def __post_init__(self) -> None:
        if not 2 <= self.n_futures <= 9 or not 1 <= self.depths < self.n_futures:
            raise OptionError(
                "n_futures must be 2 to 9 and depths at least 1 and below it, got "
                f"{self.n_futures} and {self.depths}."
            )
        if min(self.train_rows, self.test_rows, self.choose_rows, self.n_clusters) < 1:
            raise OptionError("Numbers of rows and clusters must be at least 1.")
        if self.n_directions is not None and self.n_directions < FEWEST_DIRECTIONS:
            raise OptionError(
                f"n_directions must be at least {FEWEST_DIRECTIONS}, or None to follow the training "
                f"rows; got {self.n_directions}."
            )
