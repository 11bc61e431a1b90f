"""Intervals for means over tokens, by resampling documents.

Tokens of one document are not independent, so whole documents are drawn with replacement. The
interval is the percentile interval of the ratio sum(values) / sum(tokens).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

N_RESAMPLES = 1000
SEED = 0
LEVEL = 0.95


def mean_with_interval(
    sums: Float[np.ndarray, "documents ..."], counts: Int[np.ndarray, " documents"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean per token with a 95 % interval over documents.

    Args:
        sums: Sum of the values over each document's tokens, per column.
        counts: Tokens of each document.

    Returns:
        Mean, lower and upper bound, each of the columns' shape; the bounds are NaN where there is
        but one document.
    """
    mean = np.asarray(sums.sum(0) / counts.sum())
    if len(counts) < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(counts), size=(N_RESAMPLES, len(counts)))
    weights = np.stack([np.bincount(row, minlength=len(counts)) for row in drawn]).astype(float)
    flat = sums.reshape(len(counts), -1)
    means = (weights @ flat) / (weights @ counts)[:, None]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return mean, low.reshape(mean.shape), high.reshape(mean.shape)
