"""Estimates with intervals over documents, and refusals where there are too few of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..errors import TooFewTokensError
from ..readings.bootstrap import SEED, mean_with_interval, tail_of

N_RESAMPLES = 400
"""Resamples of statistics that are no plain means."""
MIN_DOCUMENTS = 5
"""Documents below which an interval over documents means nothing."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over documents."""

    value: float
    low: float
    high: float

    def apart_from(self, other: Estimate) -> bool:
        """Whether the intervals do not meet."""
        return self.low > other.high or other.low > self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))
"""What stands where an estimator refused."""


def require(estimator: str, what: str, *, have: int, need: int) -> None:
    """Refuse to estimate from too little.

    Raises:
        TooFewTokensError: `have` is below `need`.
    """
    if have < need:
        raise TooFewTokensError(
            f"{estimator} needs at least {need:,} {what}, got {have:,}. Capture more (--tokens), or "
            "give it less to tell apart (fewer classes, futures or clusters)."
        )


def sums_by_document(
    values: Float[np.ndarray, "rows ..."], documents: Int[np.ndarray, " rows"]
) -> tuple[Float[np.ndarray, "documents ..."], Int[np.ndarray, " documents"]]:
    """Sum of the values over each document's rows, and rows per document."""
    _, inverse = np.unique(documents, return_inverse=True)
    counts = np.bincount(inverse)
    sums = np.zeros((len(counts), *values.shape[1:]))
    np.add.at(sums, inverse, values)
    return sums, counts


def mean_estimate(
    estimator: str, values: Float[np.ndarray, " rows"], documents: Int[np.ndarray, " rows"]
) -> Estimate:
    """Mean of per-row values with its interval over documents.

    Raises:
        TooFewTokensError: There are fewer than `MIN_DOCUMENTS` documents.
    """
    sums, counts = sums_by_document(values, documents)
    require(estimator, "documents", have=len(counts), need=MIN_DOCUMENTS)
    mean, low, high = mean_with_interval(sums[:, None], counts)
    return Estimate(float(mean[0]), float(low[0]), float(high[0]))


def statistic_estimate(
    estimator: str,
    sums: Float[np.ndarray, "documents columns"],
    statistic: Callable[[Float[np.ndarray, "resamples columns"]], Float[np.ndarray, " resamples"]],
    *,
    n_resamples: int = N_RESAMPLES,
) -> Estimate:
    """A function of sums over documents, with the basic bootstrap interval over documents.

    Resampling repeats a plug-in's bias, so quantiles are reflected about the value (2 v - quantile)
    instead of taken as they are; over few documents they are those of the expanded interval.

    Args:
        estimator: What is estimated, for the refusal.
        sums: Whatever the statistic needs, summed within each document (counts are a column too).
        statistic: From sums over all drawn documents to the number, row by row.
        n_resamples: Times the documents are drawn anew.

    Raises:
        TooFewTokensError: There are fewer than `MIN_DOCUMENTS` documents.
    """
    require(estimator, "documents", have=len(sums), need=MIN_DOCUMENTS)
    generator = np.random.default_rng(SEED)
    value = float(statistic(sums.sum(0)[None])[0])
    drawn = generator.multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=n_resamples
    ).astype(sums.dtype)
    # Few resamples at a time: a statistic over the vocabulary makes rows as wide as it.
    found = np.concatenate([statistic(part @ sums) for part in np.array_split(drawn, 20)])
    tail = tail_of(len(sums))
    low, high = np.quantile(found, [tail, 1 - tail])
    return Estimate(value, float(2 * value - high), float(2 * value - low))
