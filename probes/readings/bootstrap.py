"""Intervals for means over tokens, by resampling documents.

Tokens of one document are not independent, nor are windows cut from it, so whole documents are drawn
with replacement. The interval is the percentile interval of the ratio sum(values) / sum(tokens). Over
few documents it is too narrow: 95 % intervals of a normal mean hold it in about 93 % of cases over 40
documents, 90 % over ten, 83 % over five.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

N_RESAMPLES = 1000
SEED = 0
LEVEL = 0.95


def mean_with_interval(
    sums: Float[np.ndarray, "texts ..."],
    counts: Int[np.ndarray, " texts"],
    documents: Int[np.ndarray, " texts"] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean per token with a 95 % interval over documents.

    Args:
        sums: Sum of the values over each text's tokens, per column.
        counts: Tokens of each text.
        documents: Document that each text was cut from; None where every text is one of its own.

    Returns:
        Mean, lower and upper bound, each of the columns' shape; the bounds are NaN where there is
        but one document.
    """
    mean = np.asarray(sums.sum(0) / counts.sum())
    if documents is not None:
        sums, counts = _by_document(sums, counts, documents)
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


def _by_document(
    sums: np.ndarray, counts: np.ndarray, documents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    _, place = np.unique(documents, return_inverse=True)
    whole = np.zeros((place.max() + 1, *sums.shape[1:]))
    np.add.at(whole, place, sums)
    return whole, np.bincount(place, weights=counts)
