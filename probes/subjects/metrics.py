"""How well predicted meanings find their stimulus (arXiv 2404.07850, section 4)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from ..readings.bootstrap import mean_with_interval

METRICS = ("two-way", "top-1", "cosine")
"""Names of the rows of `score`."""


def correlations(
    predicted: Float[Tensor, "items d"], target: Float[Tensor, "items d"]
) -> Float[Tensor, "items items"]:
    """Pearson correlation of every prediction with every target."""
    centred = [
        F.normalize(part - part.mean(1, keepdim=True), dim=1) for part in (predicted, target)
    ]
    return centred[0] @ centred[1].T


def two_way(
    predicted: Float[Tensor, "items d"], target: Float[Tensor, "items d"]
) -> Float[Tensor, " items"]:
    """Share of the other stimuli that a prediction resembles less than its own; chance is 0.5.

    A tie counts half.
    """
    found = correlations(predicted, target)
    own = found.diagonal()[:, None]
    beaten = (found < own).double() + 0.5 * (found == own).double()
    n = len(predicted)
    return (beaten.sum(1) - 0.5) / max(n - 1, 1)


def top_one(
    predicted: Float[Tensor, "items d"], target: Float[Tensor, "items d"]
) -> Float[Tensor, " items"]:
    """Whether the own stimulus is the most similar of all, 0 or 1; chance is 1 / items."""
    found = correlations(predicted, target)
    return (found.argmax(1) == torch.arange(len(found), device=found.device)).double()


def item_scores(
    predicted: Float[Tensor, "items d"], target: Float[Tensor, "items d"]
) -> Float[np.ndarray, "items metrics"]:
    """Each of `METRICS` for every item.

    Args:
        predicted: Meanings read off signals.
        target: What the stimuli mean, in the same order.
    """
    cosine = F.cosine_similarity(predicted, target, dim=1).double()
    columns = torch.stack([two_way(predicted, target), top_one(predicted, target), cosine], 1)
    return columns.detach().cpu().numpy()


def with_bounds(
    columns: Float[np.ndarray, "items columns"],
    documents: Int64[np.ndarray, " items"] | None = None,
) -> Float[np.ndarray, "columns 3"]:
    """Mean, lower and upper 95 % bound over documents of each column.

    Args:
        columns: Values of every item.
        documents: Document that each item is from; None where every item stands alone.
    """
    ones = np.ones(len(columns), dtype=np.int64)
    return np.stack(mean_with_interval(columns, ones, documents), axis=1)


def score(
    predicted: Float[Tensor, "items d"],
    target: Float[Tensor, "items d"],
    documents: Int64[np.ndarray, " items"] | None = None,
) -> Float[np.ndarray, "metrics 3"]:
    """Mean, lower and upper 95 % bound over documents of each of `METRICS`.

    Args:
        predicted: Meanings read off signals.
        target: What the stimuli mean, in the same order.
        documents: Document that each item is from; None where every item stands alone.
    """
    return with_bounds(item_scores(predicted, target), documents)


def explained(predicted: Float[Tensor, "items d"], signal: Float[Tensor, "items d"]) -> float:
    """Share of the variance of signals that predictions explain, over all units together (R^2)."""
    error = (predicted - signal).double().square().sum()
    spread = (signal - signal.mean(0)).double().square().sum()
    return float(1 - error / spread)
