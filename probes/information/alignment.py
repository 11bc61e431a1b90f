"""Do contexts that predict alike stand alike? The spectra of predictions and of states (E7).

The predictive-similarity operator of arXiv 2507.19247 (section 7) on N contexts is K / N with, for
laws p, K_BC = sum sqrt(p p'), K_lin = <p, p'>, K_H = exp(-b d_H^2), K_KL = exp(-b JS). The spectral
claim is used in its weak, generalised-CCA form: for linear functions of h, maximising agreement
with the prototypes' mean g is the eigenproblem C_hg C_gh v = l S_h v, whitening on both sides makes
it CCA, fitted on one half of the documents and scored on the other. That training by log loss *is*
spectral contrastive learning is not claimed (the paper's fifth version withdraws it). The
eigenproblem itself, with the states alone whitened, is in `one_sided`.

With the model's own predictions the comparison is a tautology: they are a smooth function of h, so
any weights align, random ones too. The statement about learning needs targets from the data (the
unembedding row of the token that came), beside a permuted control and a model with random weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.stats import spearmanr
from torch import Tensor

from .resampling import Estimate, require

RIDGE = 1e-3
"""Share of the mean variance added in whitening."""
N_PERMUTED = 100
"""Permutations of the null."""
ROWS_PER_DIMENSION = 2
"""Rows to fit on per dimension of the state, below which held-out correlations are noise."""


def bhattacharyya_kernel(probs: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows rows"]:
    """Sum of sqrt(p p')."""
    roots = probs.sqrt()
    return roots @ roots.T


def linear_kernel(probs: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows rows"]:
    """<p, p'>."""
    return probs @ probs.T


def hellinger_kernel(
    probs: Float[Tensor, "rows vocab"], *, beta: float = 1.0
) -> Float[Tensor, "rows rows"]:
    """exp(-beta d^2) with d^2 = 2 (1 - BC)."""
    return torch.exp(-2 * beta * (1 - bhattacharyya_kernel(probs)))


def jensen_shannon_kernel(
    probs: Float[Tensor, "rows vocab"], *, beta: float = 1.0
) -> Float[Tensor, "rows rows"]:
    """exp(-beta JS), a row at a time: rows times vocabulary is all that is held."""
    found = []
    entropies = torch.special.entr(probs).sum(-1)
    for number, row in enumerate(probs):
        mixed = torch.special.entr((probs + row) / 2).sum(-1)
        found.append(mixed - (entropies + entropies[number]) / 2)
    return torch.exp(-beta * torch.stack(found).clamp_min(0))


@dataclass(frozen=True)
class Canonical:
    """Canonical directions of two sets of columns, fitted on one part and usable on another."""

    left: Float[Tensor, "columns directions"]
    right: Float[Tensor, "others directions"]
    left_mean: Tensor
    right_mean: Tensor

    def correlations(
        self, left: Float[Tensor, "rows columns"], right: Float[Tensor, "rows others"]
    ) -> Float[Tensor, " directions"]:
        """Correlation of each pair of directions on given rows, in the order of the fit."""
        return correlations(
            (left - self.left_mean) @ self.left, (right - self.right_mean) @ self.right
        )


def correlations(
    left: Float[Tensor, "rows columns"], right: Float[Tensor, "rows columns"]
) -> Float[Tensor, " columns"]:
    """Correlation of the columns, pair by pair."""
    left, right = left - left.mean(0), right - right.mean(0)
    scale = (left.square().sum(0) * right.square().sum(0)).sqrt().clamp_min(1e-30)
    return (left * right).sum(0) / scale


def fit_canonical(
    left: Float[Tensor, "rows columns"],
    right: Float[Tensor, "rows others"],
    *,
    n_directions: int,
    ridge: float = RIDGE,
) -> Canonical:
    """Ridge CCA by whitening both sides and one SVD, in float64.

    Args:
        left: States.
        right: Prototypes' means, or whatever stands for the prediction.
        n_directions: Pairs kept, most correlated first.
        ridge: Share of the mean variance added to every direction.

    Raises:
        TooFewTokensError: Fewer than `ROWS_PER_DIMENSION` rows per column.
    """
    need = ROWS_PER_DIMENSION * max(left.shape[1], right.shape[1])
    require("E7, canonical correlation,", "tokens to fit on", have=len(left), need=need)
    left_mean, right_mean = left.double().mean(0), right.double().mean(0)
    x, y = left.double() - left_mean, right.double() - right_mean
    white_x, white_y = whitening(x, ridge), whitening(y, ridge)
    across = white_x.T @ (x.T @ y / len(x)) @ white_y
    u, _, v = torch.linalg.svd(across, full_matrices=False)
    return Canonical(
        white_x @ u[:, :n_directions], white_y @ v[:n_directions].T, left_mean, right_mean
    )


def whitening(
    centred: Float[Tensor, "rows columns"], ridge: float
) -> Float[Tensor, "columns columns"]:
    """W with W^T S W = 1 for the covariance S and its ridge (a share of the mean variance)."""
    covariance = centred.T @ centred / len(centred)
    covariance.diagonal().add_(ridge * covariance.diagonal().mean().clamp_min(1e-12))
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(1e-30).rsqrt()


def linear_cka(
    left: Float[Tensor, "rows columns"], right: Float[Tensor, "rows others"]
) -> Float[Tensor, ""]:
    """Linear centred kernel alignment, from covariances (columns by columns, never rows by rows)."""
    left, right = left - left.mean(0), right - right.mean(0)
    across = (left.T @ right).square().sum()
    return across / ((left.T @ left).norm() * (right.T @ right).norm())


def subspace_overlap(
    kernel: Float[Tensor, "rows rows"], states: Float[Tensor, "rows d_model"], *, k: int
) -> float:
    """|Q_K^T Q_H|_F^2 / k of the kernel's and the states' top k principal directions over rows."""
    return float((top_vectors(kernel, k).T @ state_vectors(states, k)).square().sum() / k)


def top_vectors(kernel: Float[Tensor, "rows rows"], k: int) -> Float[Tensor, "rows k"]:
    """Leading eigenvectors of the kernel, centred on both sides."""
    centred = kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
    return torch.linalg.eigh((centred + centred.T) / 2).eigenvectors[:, -k:]


def state_vectors(states: Float[Tensor, "rows d_model"], k: int) -> Float[Tensor, "rows k"]:
    """Leading left singular vectors of the centred states."""
    return torch.linalg.svd(states - states.mean(0), full_matrices=False).U[:, :k]


def operator_spectrum(kernel: Float[Tensor, "rows rows"]) -> Float[Tensor, " rows"]:
    """Eigenvalues of K / N, largest first."""
    return torch.linalg.eigvalsh(kernel / len(kernel)).flip(0)


def dirichlet_energy(
    kernel: Float[Tensor, "rows rows"], functions: Float[Tensor, "rows functions"]
) -> Float[Tensor, " functions"]:
    """Half of the mean of K(x, x') (f(x) - f(x'))^2, over functions scaled to unit variance."""
    functions = (functions - functions.mean(0)) / functions.std(0, unbiased=False).clamp_min(1e-12)
    degrees = kernel.mean(1)
    own = (degrees[:, None] * functions.square()).mean(0)
    return own - (functions * (kernel @ functions)).mean(0) / len(kernel)


def permutation_null(
    value: Callable[[Int64[np.ndarray, " rows"]], float],
    n_rows: int,
    *,
    n: int = N_PERMUTED,
    seed: int = 0,
) -> Estimate:
    """Mean and central 95 % of a statistic when rows are paired at random.

    Args:
        value: From an order of the rows of one side to the statistic.
        n_rows: Rows.
        n: Permutations.
        seed: Fixes them.
    """
    generator = np.random.default_rng(seed)
    found = np.array([value(generator.permutation(n_rows)) for _ in range(n)])
    low, high = np.quantile(found, [0.025, 0.975])
    return Estimate(float(found.mean()), float(low), float(high))


def rank_correlation(
    left: Float[np.ndarray, " pairs"], right: Float[np.ndarray, " pairs"]
) -> float:
    """Spearman's correlation."""
    found: Any = spearmanr(left, right)
    return float(found.statistic)
