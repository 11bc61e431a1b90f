"""E3c: information from contingency tables of discrete states, with the Miller-Madow correction.

Hidden states become discrete by k-means. The plug-in estimate grows with every cell that is filled by
chance, by about (cells - margins) / (2 rows); Miller and Madow's correction takes the first order
off. What is measured is the information of the cluster, not of the state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int64
from sklearn.cluster import MiniBatchKMeans

from .resampling import Estimate, require, statistic_estimate

ROWS_PER_CELL = 2
"""Rows per cell of the table below which the correction's first order does not hold."""


@dataclass(frozen=True)
class PlugIn:
    """Information of discrete states about the next tokens, nats."""

    next: Estimate
    """I(state; W_0)."""
    surplus: Estimate
    """I(state; W_1 | W_0)."""


def clustered(
    rows: Float[np.ndarray, "rows d_model"],
    *,
    n_clusters: int,
    n_fitted: int = 20_000,
    seed: int = 0,
) -> Int64[np.ndarray, " rows"]:
    """Number of the k-means cluster of each row; clusters are found on the first `n_fitted` rows."""
    means = MiniBatchKMeans(
        n_clusters,
        batch_size=2048,
        n_init=1,  # type: ignore[arg-type]  # the checker takes the default, "auto", for its type
        max_iter=20,
        random_state=seed,
    )
    means.fit(rows[:n_fitted])
    return np.asarray(means.predict(rows), dtype=np.int64)


def plug_in_information(
    states: Int64[np.ndarray, " rows"],
    tokens: Int64[np.ndarray, "rows 2"],
    documents: Int64[np.ndarray, " rows"],
    *,
    corrected: bool = True,
) -> PlugIn:
    """Plug-in information with its interval over documents.

    Args:
        states: Discrete state of each row, from 0.
        tokens: W_0 and W_1 of each row, numbered from 0.
        documents: Document of each row.
        corrected: Whether Miller and Madow's correction is taken.

    Raises:
        TooFewTokensError: Fewer than `ROWS_PER_CELL` rows per cell of the three-way table, or too few
            documents.
    """
    shape = (int(states.max()) + 1, int(tokens[:, 0].max()) + 1, int(tokens[:, 1].max()) + 1)
    cells = int(np.prod(shape))
    require("E3c, the contingency table,", "tokens", have=len(states), need=ROWS_PER_CELL * cells)
    cell = np.ravel_multi_index((states, tokens[:, 0], tokens[:, 1]), shape)
    kinds, compact = np.unique(cell, return_inverse=True)
    numbers, counts = np.unique(documents, return_inverse=True)
    table = np.zeros((len(numbers), len(kinds)))
    np.add.at(table, (counts, compact), 1)
    where = np.unravel_index(kinds, shape)

    def next_token(sums: np.ndarray) -> np.ndarray:
        both, alone, token = (_margin(sums, where, axes) for axes in ((0, 1), (0,), (1,)))
        return _entropy(alone, corrected) + _entropy(token, corrected) - _entropy(both, corrected)

    def surplus(sums: np.ndarray) -> np.ndarray:
        parts = [_margin(sums, where, axes) for axes in ((0, 1), (1, 2), (0, 1, 2), (1,))]
        first, second, whole, given = (_entropy(part, corrected) for part in parts)
        return first + second - whole - given

    name = "E3c, the contingency table,"
    return PlugIn(
        statistic_estimate(name, table, next_token), statistic_estimate(name, table, surplus)
    )


def _margin(sums: np.ndarray, where: tuple[np.ndarray, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Counts summed over the variables that are not among `axes`, cells that occur only."""
    _, group = np.unique(np.stack([where[axis] for axis in axes]), axis=1, return_inverse=True)
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(group.max() + 1))
    return np.add.reduceat(sums[:, order], starts, axis=1)


def _entropy(counts: np.ndarray, corrected: bool) -> np.ndarray:  # noqa: FBT001 - one mode, two places
    total = counts.sum(1, keepdims=True)
    probs = counts / total
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = -np.where(probs > 0, probs * np.log(probs), 0.0).sum(1)
    filled = (counts > 0).sum(1)
    return plain + (filled - 1) / (2 * total[:, 0]) if corrected else plain
