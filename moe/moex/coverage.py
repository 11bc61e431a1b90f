"""How well single features stand for known properties: coverage and reconstruction (arXiv 2408.00113).

A feature above a share t of its largest activation is a yes-or-no classifier, t in 0, 0.1, ..., 1.

Coverage is the mean over properties of the best F1 any feature and threshold reach. The official code
has two: the best threshold per property, and the best threshold common to all; both are given here.

Reconstruction: on training rows, features whose "above t" means a property with precision of at least
0.95, in at least 10 rows, stand for it; on test rows a property is predicted where any of its
features is above t. F1 over all properties and rows together, the best common t.

Features that never fire, and properties that are always or never there, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...probes.errors import OptionError

THRESHOLDS = tuple(i / 10 for i in range(11))
PRECISION = 0.95
LEAST_FIRED = 10


@dataclass(frozen=True)
class Coverage:
    """Best F1 of every property, and which feature and threshold reach it."""

    per_property: float
    """Mean of the best F1, each property with its own threshold."""
    common: float
    """The same with the one threshold that serves all best."""
    common_threshold: float
    best: Float[np.ndarray, " properties"]
    """Best F1 of each property; NaN where it was left out."""
    feature: np.ndarray
    """Feature that reaches it; -1 where it was left out."""
    threshold: Float[np.ndarray, " properties"]


@dataclass(frozen=True)
class Reconstruction:
    """F1 of predicting all properties from high-precision features."""

    f1: float
    threshold: float
    precision: float
    recall: float
    n_features: int
    """Features that stand for at least one property."""


def f1_scores(
    fires: Bool[Tensor, "rows features"], present: Bool[Tensor, "rows properties"]
) -> Float[Tensor, "features properties"]:
    """F1 of every feature as a classifier of every property; 0 where both are empty."""
    hits = fires.float().T @ present.float()
    total = fires.sum(0)[:, None].float() + present.sum(0)[None].float()
    return 2 * hits / total.clamp(min=1)


def coverage(
    codes: Float[Tensor, "rows features"], present: Bool[Tensor, "rows properties"]
) -> Coverage:
    """Coverage of properties by single features.

    Raises:
        OptionError: No row, or no property that varies.
    """
    n_rows = len(codes)
    varies = present.any(0) & ~present.all(0)
    if not n_rows or not bool(varies.any()):
        raise OptionError("Coverage needs rows, and a property that is there in some of them only.")
    kept = present[:, varies]
    best_each = torch.full((kept.shape[1],), -1.0)
    feature = torch.full((kept.shape[1],), -1, dtype=torch.int64)
    at = torch.zeros(kept.shape[1])
    means = []
    for threshold, fires in _above(codes):
        best, who = f1_scores(fires, kept).max(0)
        means.append(float(best.mean()))
        better = best > best_each
        best_each[better], feature[better], at[better] = best[better], who[better], threshold
    where = varies.numpy()

    def spread(values: Tensor, fill: float) -> np.ndarray:
        full = np.full(len(where), fill, dtype=values.numpy().dtype)
        full[where] = values.numpy()
        return full

    top = int(np.argmax(means))
    return Coverage(
        float(best_each.mean()), means[top], THRESHOLDS[top],
        spread(best_each, np.nan), spread(feature, -1), spread(at, np.nan),
    )  # fmt: skip


def reconstruction(
    train_codes: Float[Tensor, "rows features"],
    train_present: Bool[Tensor, "rows properties"],
    test_codes: Float[Tensor, "test features"],
    test_present: Bool[Tensor, "test properties"],
    *,
    precision: float = PRECISION,
    least_fired: int = LEAST_FIRED,
) -> Reconstruction:
    """Predict properties on test rows from features that were precise on training rows.

    Args:
        train_codes: Features on the rows that label them.
        train_present: Properties there.
        test_codes: Features on other rows (of other games).
        test_present: Properties there.
        precision: Least precision of a label.
        least_fired: Least rows in which it must have fired.
    """
    largest = train_codes.amax(0).clamp(min=0)
    best = Reconstruction(0.0, 0.0, 0.0, 0.0, 0)
    truth = test_present.float()
    pairs = zip(_above(train_codes, largest), _above(test_codes, largest), strict=True)
    for (threshold, fires), (_, test_fires) in pairs:
        fired = fires.sum(0)[:, None].float()
        hits = fires.float().T @ train_present.float()
        labels = (fired >= least_fired) & (hits >= precision * fired)
        predicted = (test_fires.float() @ labels.float()) > 0
        hit = float((predicted.float() * truth).sum())
        said, there = float(predicted.sum()), float(truth.sum())
        f1 = 2 * hit / max(said + there, 1.0)
        if f1 > best.f1:
            n = int(labels.any(1).sum())
            best = Reconstruction(f1, threshold, hit / max(said, 1.0), hit / max(there, 1.0), n)
    return best


def _above(codes: Tensor, largest: Tensor | None = None) -> Iterator[tuple[float, Tensor]]:
    """Each threshold, and where features are above that share of their largest value."""
    largest = codes.amax(0).clamp(min=0) if largest is None else largest
    for threshold in THRESHOLDS:
        # At t = 1 the largest value itself counts, or nothing would.
        above = codes >= threshold * largest if threshold == 1 else codes > threshold * largest
        yield threshold, above & (largest > 0)
