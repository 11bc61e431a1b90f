"""Minimum description length of labels given rows, by online coding (Voita & Titov, 2003.12298).

Labels are sent block by block: the first uniformly, at log2(classes) bits each, every later one coded
with a probe trained on all blocks before it. A representation that makes labels easy to learn gives a
short code; how much is learned from how little counts, not only where accuracy ends. Compression is
the uniform code's length over the code's: 1 for labels that cannot be learned (a little less, since
learning noise costs), large where few examples suffice.

Deviations from the paper: the probe is logistic regression on standardised rows; its probabilities
are mixed with a small uniform share, so that a class not seen so far costs finitely many bits.
"""

from __future__ import annotations

import warnings
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
"""Where blocks end, as shares of the rows (2003.12298, section 4.1)."""
SMOOTHING = 1e-3
"""Share of the uniform distribution in every prediction."""
PENALTY = 1.0
"""Inverse regularisation strength, scikit-learn's default. The code itself pays for overconfidence, so
it is not chosen on other rows; strengths that accuracy prefers shrink probabilities too far."""


def online_code_bits(
    rows: Float[np.ndarray, "rows d_model"],
    labels: Int[np.ndarray, " rows"],
    *,
    n_classes: int,
    penalty: float = PENALTY,
) -> float:
    """Length of the labels' online code, in bits.

    Args:
        rows: What the receiver has already, in the order of sending; shuffled by document.
        labels: What is sent, from 0 to n_classes - 1.
        n_classes: How many classes there may be.
        penalty: Inverse regularisation strength of the probe.
    """
    ends = block_ends(len(rows), n_classes)
    bits = ends[0] * np.log2(n_classes)
    for start, stop in pairwise(ends):
        probs = _predicted(rows[:start], labels[:start], rows[start:stop], n_classes, penalty)
        bits -= np.log2(probs[np.arange(stop - start), labels[start:stop]]).sum()
    return float(bits)


def compression(bits: float, n_rows: int, n_classes: int) -> float:
    """How many times shorter than the uniform code."""
    return n_rows * float(np.log2(n_classes)) / bits


def block_ends(n_rows: int, n_classes: int) -> list[int]:
    """Row numbers at which blocks end; the first has at least two rows a class, for a first probe."""
    least = min(2 * n_classes, n_rows)
    ends = {max(round(fraction * n_rows), least) for fraction in FRACTIONS}
    return sorted(ends)


def _predicted(
    known: np.ndarray, labels: np.ndarray, rows: np.ndarray, n_classes: int, penalty: float
) -> Float[np.ndarray, "rows classes"]:
    probs = np.zeros((len(rows), n_classes))
    seen = np.unique(labels)
    if len(seen) == 1:
        probs[:, seen[0]] = 1.0
    else:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=200))
        with warnings.catch_warnings():
            # As in the probe itself: an early stop is regularisation too.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(known, labels)
        probs[:, seen] = probe.predict_proba(rows)
    return (1 - SMOOTHING) * probs + SMOOTHING / n_classes
