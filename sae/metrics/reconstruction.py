"""How well rows are reconstructed, streamed over any number of them.

The only correct explained variance is `1 - sum |x - x_hat|^2 / sum |x - mean|^2` with one global
mean per dimension; fvu is one minus that. Several published forms differ: a mean of per-row ratios;
a scalar mean over dimensions; the variance of the error, which forgives a constant one; the second
moment in place of the variance (called nmse here). They are not offered under the name.

What is kept per document is what resampling documents needs, so intervals are those of the ratio
itself.

References:
    SAEBench, arXiv 2503.09532, section on core metrics; Gao et al., arXiv 2406.04093 (nmse).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.errors import OptionError
from ...probes.readings.bootstrap import LEVEL, N_RESAMPLES, SEED


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Reconstruction of a set of rows."""

    n_rows: int
    fvu: float
    """Fraction of variance unexplained."""
    fvu_low: float
    """Lower bound of its 95 % interval over documents; NaN for fewer than two."""
    fvu_high: float
    """Upper bound."""
    nmse: float
    """Squared error over squared norm: fvu without the mean taken out."""
    mse: float
    """Squared error per row, summed over dimensions."""
    cosine: float
    """Mean cosine of row and reconstruction, over rows where both are not zero."""
    norm_ratio: float
    """Mean length of reconstructions over mean length of rows; below 1 is shrinkage."""
    relative_bias: float
    """`E |x_hat|^2 / E <x, x_hat>`; 1 is unbiased, below 1 the reconstruction is too short."""

    @property
    def explained_variance(self) -> float:
        """One minus fvu."""
        return 1.0 - self.fvu


class ReconstructionStats:
    """Sums over rows, in float64; adding rows in any chunks gives the same answer.

    Args:
        d_model: Width of a row.
    """

    def __init__(self, d_model: int) -> None:
        self._d_model = d_model
        self._pivot: Tensor | None = None
        self._sums = np.zeros((0, 3))  # per document: rows, squared error, squared size
        self._totals = np.zeros((0, d_model))
        self._scalars = np.zeros(6)
        self._n_cosines = 0

    def add(
        self,
        x: Float[Tensor, "rows d_model"],
        x_hat: Float[Tensor, "rows d_model"],
        documents: Int[np.ndarray, " rows"] | None = None,
    ) -> None:
        """Take in rows.

        Args:
            x: What was to be reconstructed.
            x_hat: Its reconstruction, in the same scale.
            documents: Number of the document each row is from; None puts all in document 0.

        Raises:
            OptionError: A width other than the one given at first.
        """
        if x.shape[-1] != self._d_model:
            raise OptionError(f"Rows must be {self._d_model} wide, got {x.shape[-1]}.")
        if not len(x):
            return
        x, x_hat = x.double().cpu(), x_hat.double().cpu()
        if self._pivot is None:
            self._pivot = x.mean(0)  # sums about a point near the mean lose no digits
        error, centred = (x - x_hat).square().sum(1), x - self._pivot
        self._collect(documents, error, centred)
        sizes, sizes_hat = x.norm(dim=1), x_hat.norm(dim=1)
        inner = (x * x_hat).sum(1)
        both = (sizes > 0) & (sizes_hat > 0)
        cosines = inner[both] / (sizes[both] * sizes_hat[both])
        parts = (sizes, sizes_hat, sizes_hat.square(), inner, cosines, sizes.square())
        self._scalars += [float(part.sum()) for part in parts]
        self._n_cosines += int(both.sum())

    def _collect(self, documents: np.ndarray | None, error: Tensor, centred: Tensor) -> None:
        numbers = np.zeros(len(error), dtype=np.int64) if documents is None else documents
        room = int(numbers.max()) + 1 - len(self._sums)
        if room > 0:
            self._sums = np.concatenate([self._sums, np.zeros((room, 3))])
            self._totals = np.concatenate([self._totals, np.zeros((room, self._d_model))])
        columns = torch.stack([torch.ones_like(error), error, centred.square().sum(1)], dim=1)
        np.add.at(self._sums, numbers, columns.numpy())
        np.add.at(self._totals, numbers, centred.numpy())

    def result(self) -> Reconstruction:
        """What the rows so far say.

        Raises:
            OptionError: Fewer than two rows were added.
        """
        used = self._sums[:, 0] > 0
        sums, totals = self._sums[used], self._totals[used]
        n_rows = int(sums[:, 0].sum())
        if n_rows < 2:
            raise OptionError(f"fvu needs at least 2 rows, got {n_rows}; add rows first.")
        low, high = _interval(sums, totals)
        length, length_hat, square_hat, inner, cosines, square = self._scalars
        error = float(sums[:, 1].sum())
        return Reconstruction(
            n_rows=n_rows,
            fvu=float(_fvu(np.ones((1, len(sums))), sums, totals)[0]),
            fvu_low=low,
            fvu_high=high,
            nmse=_ratio(error, square),
            mse=error / n_rows,
            cosine=_ratio(cosines, self._n_cosines),
            norm_ratio=_ratio(length_hat, length),
            relative_bias=_ratio(square_hat, inner),
        )


def fvu(x: Float[Tensor, "rows d_model"], x_hat: Float[Tensor, "rows d_model"]) -> float:
    """Fraction of variance unexplained of rows held in memory."""
    stats = ReconstructionStats(x.shape[1])
    stats.add(x, x_hat)
    return stats.result().fvu


def _fvu(weights: np.ndarray, sums: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Fvu where each document counts as often as its weight says, one per row of weights."""
    n, error, size = (weights @ sums).T
    variance = size - np.square(weights @ totals).sum(1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(variance > 1e-12 * np.maximum(size, 1e-300), error / variance, np.nan)


def _interval(sums: np.ndarray, totals: np.ndarray) -> tuple[float, float]:
    if len(sums) < 2:
        return float("nan"), float("nan")
    generator = np.random.default_rng(SEED)
    drawn = generator.integers(len(sums), size=(N_RESAMPLES, len(sums)))
    weights = np.stack([np.bincount(row, minlength=len(sums)) for row in drawn]).astype(float)
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(_fvu(weights, sums, totals), [tail, 1 - tail])
    return float(low), float(high)


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
