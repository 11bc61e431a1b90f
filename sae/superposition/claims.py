"""What a paper says, what was measured, and whether the interval decides between them.

A claim is a number that should lie on one side of a bound. It is confirmed where the whole 95 %
interval lies on that side, not confirmed where the whole interval lies on the other, and undecided
in between: an experiment of affordable size often cannot tell, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats

Side = Literal["above", "below"]
Verdict = Literal["confirmed", "not confirmed", "undecided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One statement of the paper, tested."""

    text: str
    """What should hold, in words."""
    paper: str
    """What the paper reports."""
    estimate: float
    """What was measured."""
    low: float
    """Lower bound of the 95 % interval."""
    high: float
    """Upper bound."""
    side: Side
    """On which side of the bound the claim puts the number."""
    bound: float = 0.0
    """The bound."""

    @classmethod
    def over_seeds(
        cls, values: Sequence[float] | Float[np.ndarray, " seeds"], *, text: str, paper: str,
        side: Side, bound: float = 0.0,
    ) -> Claim:  # fmt: skip
        """A claim about the mean over seeds, with Student's interval."""
        estimate, low, high = seed_interval(values)
        return cls(
            text=text, paper=paper, estimate=estimate, low=low, high=high, side=side, bound=bound
        )

    @property
    def verdict(self) -> Verdict:
        """Whether the interval decides."""
        # A bound that is not a number decides nothing: every comparison with it is false.
        if self.low > self.bound:
            return "confirmed" if self.side == "above" else "not confirmed"
        if self.high < self.bound:
            return "confirmed" if self.side == "below" else "not confirmed"
        return "undecided"


def seed_interval(
    values: Sequence[float] | Float[np.ndarray, " seeds"],
) -> tuple[float, float, float]:
    """Mean over seeds with Student's 95 % interval; infinite with one seed, NaN with none.

    Values that are not numbers (a dictionary that never fired) are left out.
    """
    kept = np.asarray(values, dtype=float)
    kept = kept[np.isfinite(kept)]
    if len(kept) == 0:
        return float("nan"), float("nan"), float("nan")
    mean = float(kept.mean())
    if len(kept) == 1:
        return mean, -float("inf"), float("inf")
    reach = float(stats.t.ppf(0.975, len(kept) - 1) * kept.std(ddof=1) / len(kept) ** 0.5)
    return mean, mean - reach, mean + reach


def correlation_interval(
    x: Float[np.ndarray, " models"],
    y: Float[np.ndarray, " models"],
    *,
    n_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Pearson correlation with a percentile interval over models drawn with replacement."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(len(x), size=(n_resamples, len(x)))
    found = _pearson(x[drawn], y[drawn])
    low, high = np.nanquantile(found, [0.025, 0.975])
    return float(_pearson(x[None], y[None])[0]), float(low), float(high)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return (x * y).sum(1) / np.where(scale > 0, scale, np.nan)
