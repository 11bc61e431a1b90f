"""The spectral claim with one side whitened: which directions of a state carry the prediction's spread.

For prototypes' means g and linear functions of a state h of unit variance, the Rayleigh quotient of
arXiv 2507.19247 (section 7, in the weak form of its fifth version) is the generalised eigenproblem

    C_hg C_gh v = l S_h v

where only h is whitened. Its l is the variance of g, over all of its coordinates, that v . h explains,
so that l / tr S_g is a share; whitening g too gives CCA, whose correlations do not care how much of g
moves. A direction that predicts a rare coordinate perfectly leads a CCA and comes late here. The first
k directions with their loadings C_gh v are the best prediction of g of rank k (reduced-rank regression,
Izenman 1975; redundancy analysis, van den Wollenberg 1977).

Eigenvalues of the fit are too high by about d_model / rows of g's variance; what is reported is the
share explained by the fitted map on rows of other documents, which may be negative.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .alignment import RIDGE, ROWS_PER_DIMENSION, whitening
from .resampling import require


@dataclass(frozen=True)
class OneSided:
    """Directions of the states by how much of the other side's variance they explain."""

    directions: Float[Tensor, "columns directions"]
    """v, of unit variance on the rows of the fit, most explained first."""
    loadings: Float[Tensor, "others directions"]
    """C_gh v: what the other side moves by when v . h grows by one; orthogonal columns."""
    eigenvalues: Float[Tensor, " directions"]
    """l, in the other side's squared unit."""
    total: float
    """tr S_g of the rows of the fit."""
    left_mean: Tensor
    right_mean: Tensor

    @property
    def shares(self) -> Float[Tensor, " directions"]:
        """Shares l / tr S_g on the rows of the fit, too high by about columns / rows."""
        return self.eigenvalues / self.total

    def scores(self, left: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows directions"]:
        """The functions v . h of states."""
        return (left.double() - self.left_mean) @ self.directions

    def explained(
        self,
        left: Float[Tensor, "rows columns"],
        right: Float[Tensor, "rows others"],
        order: Int64[Tensor, " rows"] | None = None,
    ) -> Float[Tensor, " directions"]:
        """Share of the other side's variance that the first 1, 2, ... directions explain on given rows.

        Args:
            left: States.
            right: The other side.
            order: Another pairing of rows; None for the given one.
        """
        scores, centred = self.scores(left), right.double() - self.right_mean
        along = centred @ self.loadings
        if order is not None:
            along = along[order]
        # Loadings are orthogonal: what a direction adds to the squared error is its own affair.
        gained = 2 * (scores * along).sum(0)
        gained -= scores.square().sum(0) * self.loadings.square().sum(0)
        spread = (centred - centred.mean(0)).square().sum()
        offset = len(centred) * centred.mean(0).square().sum()
        return (gained.cumsum(0) - offset) / spread.clamp_min(1e-30)


def fit_one_sided(
    left: Float[Tensor, "rows columns"],
    right: Float[Tensor, "rows others"],
    *,
    n_directions: int,
    ridge: float = RIDGE,
) -> OneSided:
    """Solve the eigenproblem by whitening the states and one SVD, in float64.

    Args:
        left: States.
        right: Prototypes' means, or whatever stands for the prediction; any scale, never whitened.
        n_directions: Directions kept.
        ridge: Share of the mean variance added to every direction of the states.

    Raises:
        TooFewTokensError: Fewer than `ROWS_PER_DIMENSION` rows per column of the states.
    """
    need = ROWS_PER_DIMENSION * left.shape[1]
    require("E7, one-sided alignment,", "tokens to fit on", have=len(left), need=need)
    left_mean, right_mean = left.double().mean(0), right.double().mean(0)
    x, y = left.double() - left_mean, right.double() - right_mean
    white = whitening(x, ridge)
    across = white.T @ (x.T @ y / len(x))
    u, values, v = torch.linalg.svd(across, full_matrices=False)
    return OneSided(
        white @ u[:, :n_directions],
        v[:n_directions].T * values[:n_directions],
        values[:n_directions].square(),
        float(y.square().sum() / len(y)),
        left_mean,
        right_mean,
    )


def span_overlap(
    one: Float[Tensor, "rows directions"], other: Float[Tensor, "rows directions"]
) -> float:
    """|Q_one^T Q_other|_F^2 / k of two sets of k functions over the same rows, centred.

    1 where they span the same functions; k / d for k random directions of d that are white.
    """
    bases = [torch.linalg.qr(part.double() - part.double().mean(0)).Q for part in (one, other)]
    return float((bases[0].T @ bases[1]).square().sum() / one.shape[1])


def principal_scores(
    fit: Float[Tensor, "rows columns"], rows: Float[Tensor, "others columns"], k: int
) -> Float[Tensor, "others k"]:
    """Scores of rows on the k leading principal directions of others: the states' own spectrum."""
    centred = fit.double() - fit.double().mean(0)
    leading = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -k:].flip(1)
    return (rows.double() - fit.double().mean(0)) @ leading
