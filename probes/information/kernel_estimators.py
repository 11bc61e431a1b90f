"""Kernel estimators: matrix Rényi information (E4) and InfoNCE (E5). For trends, not for nats.

E4 takes spectra of Gram matrices for laws: S_a(A) = log tr(A^a) / (1 - a) with A = K / tr K, and
I = S(A) + S(B) - S(A o B / tr) (Giraldo, Rao and Principe, 1211.2459). It depends on the bandwidth
(here: half of the median squared distance), is no Shannon information and costs O(n^3). E5
contrasts each row's token with the other rows' (van den Oord et al., 1807.03748) and cannot exceed
log n. Both are computed on groups of rows of distinct documents, and their interval is over groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import OptionError, TooFewTokensError
from .resampling import MIN_DOCUMENTS, Estimate, mean_estimate, require

GROUP = 256
"""Rows compared with each other, where there are enough."""
SMALLEST = 64
"""Fewest rows of a group."""
ORDER = 1.01
"""Rényi order of E4; near one it resembles Shannon entropy."""


def renyi_entropy(gram: Float[Tensor, "rows rows"], *, order: float = ORDER) -> Float[Tensor, ""]:
    """Matrix Rényi entropy (nats) of a positive semi-definite matrix scaled to unit trace.

    Raises:
        OptionError: `order` is not positive, or is 1.
    """
    if order <= 0 or order == 1:
        raise OptionError(f"order must be positive and not 1, got {order}.")
    values = torch.linalg.eigvalsh(gram / gram.trace()).clamp_min(0)
    return values.pow(order).sum().log() / (1 - order)


def renyi_information(
    left: Float[Tensor, "rows rows"], right: Float[Tensor, "rows rows"], *, order: float = ORDER
) -> Float[Tensor, ""]:
    """S(left) + S(right) - S(left o right), nats."""
    both = renyi_entropy(left * right, order=order)
    return renyi_entropy(left, order=order) + renyi_entropy(right, order=order) - both


def gaussian_gram(rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows rows"]:
    """exp(-|x - y|^2 / m), m the median squared distance between different rows."""
    squared = torch.cdist(rows.double(), rows.double()).square()
    apart = squared[~torch.eye(len(rows), dtype=torch.bool)]
    return torch.exp(-squared / apart.median().clamp_min(1e-12))


def token_gram(tokens: Int64[Tensor, " rows"]) -> Float[Tensor, "rows rows"]:
    """One where two tokens are equal, else zero."""
    return (tokens[:, None] == tokens).double()


def info_nce(scores: Float[Tensor, "rows rows"]) -> Float[Tensor, " rows"]:
    """Log n plus the log-probability of the own token among all rows' tokens; at most log n (nats).

    Args:
        scores: Critic of row i's state with row j's token; any function of the token alone may be
        in it.
    """
    return scores.log_softmax(-1).diagonal() + math.log(len(scores))


def grouped_estimate(
    estimator: str,
    groups: list[np.ndarray],
    value: Callable[[np.ndarray], float],
) -> Estimate:
    """Mean of a statistic over groups of rows, with its interval over groups.

    Raises:
        TooFewTokensError: Fewer groups than an interval needs.
    """
    values = np.array([value(rows) for rows in groups])
    return mean_estimate(estimator, values, np.arange(len(values)))


def groups_of(
    documents: Int64[np.ndarray, " rows"], *, n_groups: int, size: int = GROUP, seed: int = 0
) -> list[Int64[np.ndarray, " drawn"]]:
    """Groups of random rows, no document in two of them.

    Raises:
        TooFewTokensError: Documents do not fill the groups.
    """
    generator = np.random.default_rng(seed)
    kinds = generator.permutation(np.unique(documents))
    shares = [np.flatnonzero(np.isin(documents, part)) for part in np.array_split(kinds, n_groups)]
    fewest = min(len(share) for share in shares)
    require(
        "A kernel estimator (E4, E5)", "tokens, evenly over documents",
        have=fewest * n_groups, need=size * n_groups,
    )  # fmt: skip
    return [np.sort(generator.choice(share, size=size, replace=False)) for share in shares]


def fitting_groups(
    documents: Int64[np.ndarray, " rows"], *, n_groups: int, seed: int = 0
) -> list[Int64[np.ndarray, " drawn"]]:
    """Groups as large as the documents fill: `GROUP` rows each, or fewer and smaller ones.

    Args:
        documents: Document of each row.
        n_groups: Most groups; at least `MIN_DOCUMENTS` are made, for the interval.
        seed: Fixes what is drawn.

    Raises:
        TooFewTokensError: Documents do not even fill `MIN_DOCUMENTS` groups of `SMALLEST` rows.
    """
    shapes = [(n, GROUP) for n in range(n_groups, MIN_DOCUMENTS - 1, -1)]
    shapes += [(MIN_DOCUMENTS, GROUP // 2)]
    for n, size in shapes:
        try:
            return groups_of(documents, n_groups=n, size=size, seed=seed)
        except TooFewTokensError:
            continue
    return groups_of(documents, n_groups=MIN_DOCUMENTS, size=SMALLEST, seed=seed)
