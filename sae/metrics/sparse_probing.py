"""k-sparse probing: how much of a concept sits in one, two or five latents.

For a balanced yes-or-no task the k latents with the largest difference of class means on the
training rows are taken, and a logistic regression on those alone is scored on rows it has not seen.
Beside it stands the same with the k channels of the activations themselves, and a probe on all
channels: a dictionary is worth something for the concept only above the first.

SAEBench's setting (arXiv 2503.09532): codes pooled over a text's tokens, k = 1, 2, 5, L2 penalty
with C = 1, at most 1,000 iterations, 4,000 rows to fit and 1,000 to score. Its eight data sets
cannot be had offline; tasks come from whoever calls. Rows are scaled to unit variance, which
SAEBench does not do: without it the penalty depends on the scale of the codes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ...probes.errors import OptionError

SIZES = (1, 2, 5)
TEST_SHARE = 0.2
MIN_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class SparseProbe:
    """Accuracy of sparse probes on one task."""

    sizes: tuple[int, ...]
    accuracy: Float[np.ndarray, " sizes"]
    """Test accuracy with the k best latents."""
    baseline: Float[np.ndarray, " sizes"]
    """Test accuracy with the k best channels of the activations."""
    full: float
    """Test accuracy with all channels."""
    latents: tuple[int, ...]
    """The best latents, best first."""
    n_test: int

    @property
    def majority(self) -> float:
        """Accuracy of guessing: tasks are balanced."""
        return 0.5


def sparse_probe(
    codes: Float[np.ndarray, "texts latents"],
    activations: Float[np.ndarray, "texts d_model"],
    labels: Bool[np.ndarray, " texts"],
    *,
    groups: Int[np.ndarray, " texts"] | None = None,
    sizes: Sequence[int] = SIZES,
    seed: int = 0,
) -> SparseProbe:
    """Probe one concept with few latents.

    Args:
        codes: Codes pooled over each text's tokens.
        activations: Activations pooled alike.
        labels: Whether each text has the concept; classes are balanced by leaving rows out.
        groups: What belongs together and must not be split between fitting and scoring (the document
            of each row where rows are tokens); None: every row stands alone.
        sizes: Numbers of latents.
        seed: Fixes which rows balance the classes and which are held out.

    Raises:
        OptionError: Too few rows of either class, or a size below 1 or above the latents.
    """
    if min(sizes) < 1 or max(sizes) > min(codes.shape[1], activations.shape[1]):
        raise OptionError(f"sizes must be from 1 to the number of latents, got {tuple(sizes)}.")
    train, test = _balanced_split(labels, groups, np.random.default_rng(seed))
    order = _by_class_difference(codes[train], labels[train])
    channels = _by_class_difference(activations[train], labels[train])
    return SparseProbe(
        sizes=tuple(sizes),
        accuracy=np.array([_score(codes[:, order[:k]], labels, train, test) for k in sizes]),
        baseline=np.array([
            _score(activations[:, channels[:k]], labels, train, test) for k in sizes
        ]),
        full=_score(activations, labels, train, test),
        latents=tuple(int(i) for i in order[: max(sizes)]),
        n_test=len(test),
    )


def _balanced_split(
    labels: Bool[np.ndarray, " texts"],
    groups: Int[np.ndarray, " texts"] | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to score, as many of either class in each."""
    of = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    held_out = np.zeros(int(of.max(initial=-1)) + 1, dtype=bool)
    drawn = generator.permutation(len(held_out))
    held_out[drawn[: max(round(len(held_out) * TEST_SHARE), 1)]] = True
    parts = []
    for part in (~held_out[of], held_out[of]):
        yes, no = np.flatnonzero(part & labels), np.flatnonzero(part & ~labels)
        n = min(len(yes), len(no))
        if n < MIN_ROWS:
            raise OptionError(
                f"A task needs at least {MIN_ROWS} rows of each class to fit on and to score on, got "
                f"{len(yes)} with and {len(no)} without the concept."
            )
        parts.append(np.concatenate([generator.permutation(rows)[:n] for rows in (yes, no)]))
    return parts[0], parts[1]


def _by_class_difference(
    rows: Float[np.ndarray, "texts columns"], labels: Bool[np.ndarray, " texts"]
) -> np.ndarray:
    difference = np.abs(rows[labels].mean(0) - rows[~labels].mean(0))
    return np.argsort(-difference, kind="stable")


def _score(rows: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000))
    probe.fit(rows[train], labels[train])
    return float(probe.score(rows[test], labels[test]))
