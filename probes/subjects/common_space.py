"""Generalised canonical correlation analysis: one space that every subject's signals map to linearly.

MAXVAR (Kettenring 1971): scores G of all items and one linear map per view, such that

    sum over views of |G - X_j W_j|^2 over the items that view j has    is least,    G^T D G = I,

D counting the views of each item. Views need not have seen the same items: an item that a view lacks
does not enter its sum, so that subjects with disjoint stimuli meet through a view that all have (what
the stimuli mean). With P_j the ridge projector of view j the solution are the leading eigenvectors of
D^-1/2 (sum P_j) D^-1/2; its eigenvalues are the views' mean agreement, and for two complete views they
are (1 + r) / 2 of the canonical correlations r.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import OptionError

RIDGE = 1e-3
"""Share of a view's mean variance added to every direction."""


@dataclass(frozen=True)
class CommonSpace:
    """Scores of the items fitted on, and how each view comes to them."""

    scores: Float[Tensor, "items components"]
    """G, largest agreement first."""
    agreement: Float[Tensor, " components"]
    """Mean share of each score's variance that views explain, 0 to 1."""
    means: tuple[Float[Tensor, " _"], ...]
    maps: tuple[Float[Tensor, "_ components"], ...]
    """W_j."""

    def project(
        self, view: int, signals: Float[Tensor, "others width"]
    ) -> Float[Tensor, "others components"]:
        """Scores of signals of one view."""
        return (signals.double() - self.means[view]) @ self.maps[view]


def fit_common_space(
    views: Sequence[Float[Tensor, "_ _"]],
    rows: Sequence[Int64[Tensor, " _"]],
    *,
    n_components: int,
    ridge: float = RIDGE,
) -> CommonSpace:
    """Solve MAXVAR in float64.

    Args:
        views: Signals of each view, items by width; bring wide ones to principal components first.
        rows: Number of the item that each of a view's rows is of, from 0 on without gaps.
        n_components: Scores kept; no more than the narrowest view has directions.
        ridge: Share of a view's mean variance added to every direction.

    Raises:
        OptionError: Fewer than two views, or an item that no view has.
    """
    if len(views) < 2:
        raise OptionError(f"a common space needs at least two views, got {len(views)}.")
    seen = torch.bincount(torch.cat(list(rows)))
    if (seen == 0).any():
        raise OptionError(f"every item must have a view, got none for {int((seen == 0).sum())}.")
    weight = seen.double().rsqrt()
    means, centred, whitened = [], [], []
    for view, own in zip(views, rows, strict=True):
        means.append(view.double().mean(0))
        centred.append(view.double() - means[-1])
        basis = torch.zeros(len(seen), view.shape[1], dtype=torch.float64)
        basis[own] = centred[-1] @ _root(centred[-1], ridge)
        whitened.append(weight[:, None] * basis)
    left, values, _ = torch.linalg.svd(torch.cat(whitened, 1), full_matrices=False)
    kept = min(n_components, *(view.shape[1] for view in views))
    scores = weight[:, None] * left[:, :kept]
    maps = []
    for part, own in zip(centred, rows, strict=True):
        root = _root(part, ridge)
        maps.append(root @ root.T @ (part.T @ scores[own]))
    return CommonSpace(scores, values[:kept].square(), tuple(means), tuple(maps))


def _root(centred: Tensor, ridge: float) -> Tensor:
    """R with R R^T the inverse of X^T X and its ridge."""
    gram = centred.T @ centred
    gram.diagonal().add_(ridge * gram.diagonal().mean().clamp_min(1e-12))
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp_min(1e-30).rsqrt()
