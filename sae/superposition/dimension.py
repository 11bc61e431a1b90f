"""Intrinsic dimension of a cloud of activations: two nearest neighbours, and the participation ratio.

TwoNN (Facco et al., arXiv 1803.06992): where density varies little over the distance to the second
neighbour, the ratio mu = r2 / r1 is Pareto distributed with exponent d. The maximum-likelihood
estimate is used instead of the paper's line through the empirical distribution, since the sum of ln
mu is then gamma distributed and gives an exact interval; neither corrects the known bias low in
high dimensions.

The participation ratio of the covariance, (sum lambda)^2 / sum lambda^2, counts linear dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from ...probes.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class IntrinsicDimension:
    """TwoNN's estimate with its 95 % interval, which holds if points were drawn independently."""

    value: float
    low: float
    high: float
    n_points: int
    """Distinct points it rests on."""


def two_nn(
    rows: Float[Tensor, "rows d"], *, max_rows: int = 2000, seed: int = 0
) -> IntrinsicDimension:
    """Intrinsic dimension from the ratio of distances to the two nearest neighbours.

    Args:
        rows: Points; duplicates count once.
        max_rows: At most so many, drawn at random: the cost grows with their square.
        seed: Fixes which.

    Raises:
        OptionError: Fewer than 3 distinct points.
    """
    from sklearn.neighbors import NearestNeighbors

    points = np.unique(rows.double().numpy(), axis=0)
    if len(points) > max_rows:
        points = np.random.default_rng(seed).permutation(points)[:max_rows]
    if len(points) < 3:
        raise OptionError(
            f"Two neighbours need at least 3 distinct points, got {len(points)}; give more rows."
        )
    near = NearestNeighbors(n_neighbors=3, algorithm="brute").fit(points)
    distances, _ = near.kneighbors(points)
    kept = distances[:, 1] > 0
    logs = np.log(distances[kept, 2] / distances[kept, 1])
    n, total = len(logs), float(logs.sum())
    if total <= 0:
        return IntrinsicDimension(value=np.inf, low=np.inf, high=np.inf, n_points=n)
    # n d-exponential logs: d total is gamma distributed with shape n.
    low, high = stats.gamma.ppf([0.025, 0.975], n) / total
    return IntrinsicDimension(value=(n - 1) / total, low=float(low), high=float(high), n_points=n)


def participation_ratio(rows: Float[Tensor, "rows d"]) -> float:
    """Linear dimensions that the variance is spread over; NaN where rows do not vary.

    Computed from the covariance itself, tr(C)^2 / tr(C^2), without eigenvalues.
    """
    centred = rows.double() - rows.double().mean(0)
    gram = centred.T @ centred if rows.shape[1] <= rows.shape[0] else centred @ centred.T
    below = gram.square().sum()
    return (gram.trace() ** 2 / below).item() if torch.is_nonzero(below) else float("nan")
