"""Which experts are super: the paper's criterion and the two other definitions it comes with.

Expert (l, e) qualifies if a[l, e] > P_q(A) and a[l, e] > max(A) / r and l in L (arXiv 2507.23279,
Eq. 6; strict, q = 99.5, r = 10). The three sources differ in A and L:

    variant       A (the population)                          L (where candidates may stand)
    "code"        layers with index < round(0.75 * n_layers)  the same
    "paper"       all layers                                  layers where massive activations form
    "algorithm1"  layers where massive activations form       the same

Deviations: true division instead of the code's floor division (which turns the second test into "> 0"
for maxima below 10). The percentile is numpy's linear one. With it at most ceil((1 - q/100) * (N - 1))
of N experts can qualify; below five a warning says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from ..probes.errors import OptionError
from .errors import NoExpertsError

Variant = Literal["code", "paper", "algorithm1"]

FEW = 5


class FewExpertsWarning(UserWarning):
    """So few experts are compared that the percentile alone bounds how many can qualify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CriterionOptions:
    """How super experts are told from others."""

    variant: Variant = "code"
    """Whose definition of population and candidate layers; the code's reproduces the paper's lists."""
    quantile: float = 99.5
    """Percentile of the population a maximum must exceed, 0-100 (Eq. 6)."""
    ratio: float = 10.0
    """The largest maximum is divided by this to give the second bound (Eq. 6)."""
    layer_fraction: float = 0.75
    """Share of the layers, from the first, that the code's variant looks at (`--include_layers`)."""
    layers: tuple[int, ...] | None = None
    """Candidate layers given by hand; replaces L (and, for "code" and "algorithm1", the population)."""
    include_shared: bool = True
    """Whether shared experts take part (five of DeepSeek-R1's ten super experts are shared)."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 100:
            raise OptionError(f"quantile must be from 0 to below 100, got {self.quantile}.")
        if not self.ratio >= 1:
            raise OptionError(f"ratio must be at least 1, got {self.ratio}.")
        if not 0 < self.layer_fraction <= 1:
            raise OptionError(f"layer_fraction must be in (0, 1], got {self.layer_fraction}.")


@dataclass(frozen=True)
class Selection:
    """Experts that qualify, and the bounds they passed."""

    experts: tuple[tuple[int, int], ...]
    """(row, column) in the table of maxima, largest maximum first."""
    percentile: float
    """P_q(A)."""
    fraction_of_max: float
    """max(A) / r."""
    n_population: int
    n_selectable: int
    """How many the percentile can let through at most."""


def formation_layers(
    largest: Float[np.ndarray, " layers"],
    median: Float[np.ndarray, " layers"],
    *,
    absolute: float = 100.0,
    ratio: float = 1000.0,
    rise: float = 1.5,
) -> list[int]:
    """Layers in which massive activations form.

    Layer l if its largest |h| is at least `absolute`, at least `ratio` medians, and at least `rise`
    times that of the layer before. The first two bounds are arXiv 2402.17762's; the paper gives no
    test of its own, and the rise of 1.5 is our choice.
    """
    before = np.concatenate([[0.0], largest[:-1]])
    met = (largest >= absolute) & (largest >= ratio * median) & (largest >= rise * before)
    return np.flatnonzero(met).tolist()


def select_super(
    maxima: Float[np.ndarray, "rows columns"],
    present: Bool[np.ndarray, "rows columns"],
    layers: Sequence[int],
    n_layers: int,
    options: CriterionOptions | None = None,
    *,
    formation: Sequence[int] | None = None,
) -> Selection:
    """Apply the criterion to a table of maxima.

    Args:
        maxima: a[l, e]; 0 for experts that got no token.
        present: False where a column stands for no expert (a layer without a shared expert).
        layers: Layer of each row, dense layers counted.
        n_layers: Decoder layers of the model, dense ones included.
        options: Thresholds and variant.
        formation: Layers where massive activations form; needed by "paper" and "algorithm1".

    Raises:
        NoExpertsError: No mixture-of-experts layer is in range; names those the model has.
        OptionError: The variant needs formation layers and none are given.
    """
    options = options or CriterionOptions()
    allowed = _allowed(options, n_layers, formation)
    rows = np.isin(np.asarray(layers), sorted(allowed))
    if not rows.any():
        raise NoExpertsError(
            f"No mixture-of-experts layer is in range: the variant {options.variant!r} looks at "
            f"layers {sorted(allowed) or 'none'}, the model has experts in {list(layers)}. Give "
            "layers=..., or a larger layer_fraction."
        )
    there = present.copy()
    if not options.include_shared:
        there[:, -1] = False
    population = maxima[there if options.variant == "paper" else there & rows[:, None]]
    n_selectable = math.ceil(round((1 - options.quantile / 100) * (len(population) - 1), 9))
    if n_selectable < FEW:
        warnings.warn(
            f"The {options.quantile} percentile of {len(population)} experts lets at most "
            f"{n_selectable} qualify; lower quantile to find more.",
            FewExpertsWarning,
            stacklevel=2,
        )
    percentile = float(np.percentile(population, options.quantile))
    bound = float(population.max() / options.ratio)
    passing = (maxima > percentile) & (maxima > bound) & there & rows[:, None]
    found = sorted(np.argwhere(passing).tolist(), key=lambda at: -maxima[at[0], at[1]])
    return Selection(
        tuple((int(r), int(c)) for r, c in found), percentile, bound, len(population), n_selectable
    )


def _allowed(options: CriterionOptions, n_layers: int, formation: Sequence[int] | None) -> set[int]:
    if options.layers is not None:
        return set(options.layers)
    if options.variant == "code":
        return set(range(round(options.layer_fraction * n_layers)))
    if formation is None:
        raise OptionError(
            f"variant {options.variant!r} needs the layers where massive activations form; give "
            "formation=..., or layers=... by hand."
        )
    return set(formation)
