"""Intervals for means over tokens, by resampling documents.

Tokens of one document are not independent, nor are windows cut from it, so whole documents are drawn
with replacement. The interval is the expanded percentile interval of sum(values) / sum(tokens)
(Hesterberg 2015, arXiv 1411.5279): with n documents its quantiles lie at
Phi(-+ sqrt(n / (n - 1)) t), t being Student's for n - 1, since plain ones are too narrow over few. Of
normal means over 5, 10 and 40 documents the plain interval holds 84, 90 and 94 %, this one 92, 94 and
95 %; of exponential ones 79, 86 and 92 %, and 87, 91 and 94 %.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import norm
from scipy.stats import t as student

N_RESAMPLES = 1000
SEED = 0
LEVEL = 0.95


def tail_of(n_documents: int) -> float:
    """Share of resamples beyond each end of the interval over so many documents (two at least)."""
    widened = math.sqrt(n_documents / (n_documents - 1))
    return float(norm.cdf(widened * student.ppf((1 - LEVEL) / 2, n_documents - 1)))


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
    tail = tail_of(len(counts))
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return mean, low.reshape(mean.shape), high.reshape(mean.shape)


def _by_document(
    sums: np.ndarray, counts: np.ndarray, documents: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    _, place = np.unique(documents, return_inverse=True)
    whole = np.zeros((place.max() + 1, *sums.shape[1:]))
    np.add.at(whole, place, sums)
    return whole, np.bincount(place, weights=counts)
