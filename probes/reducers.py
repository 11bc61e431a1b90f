"""Streaming reducers: statistics over rows that are never stored.

A reducer sees rows in batches and can be merged with another that saw other rows; any split of the
same rows gives the same answer (sums are kept in float64).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from .errors import OptionError


class Reducer(ABC):
    """Statistics over rows, fed batch by batch.

    Attributes:
        n_rows: Rows seen.
    """

    def __init__(self) -> None:
        self.n_rows = 0

    def update(self, rows: Float[Tensor, "rows width"]) -> None:
        """See some more rows."""
        if len(rows):
            self._add(rows)
            self.n_rows += len(rows)

    @abstractmethod
    def _add(self, rows: Tensor) -> None:
        """Take in a batch that is not empty; `n_rows` counts those before it."""

    @abstractmethod
    def merge(self, other: Any) -> None:
        """Take in what `other` (of the same class) saw, as if its rows had come after this one's."""

    def _require_rows(self) -> None:
        if not self.n_rows:
            raise OptionError(f"{type(self).__name__} has seen no rows; run the model first.")


class RunningMax(Reducer):
    """The largest |values| with the row and channel each stands at.

    Args:
        k: How many to keep.
    """

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        if k < 1:
            raise OptionError(f"k must be at least 1, got {k}.")
        self.k = k
        self._values = torch.empty(0)
        self._rows = torch.empty(0, dtype=torch.int64)
        self._channels = torch.empty(0, dtype=torch.int64)

    def _add(self, rows: Tensor) -> None:
        size = rows.abs().flatten()
        smallest = size.topk(min(self.k, size.numel())).values[-1]
        index = (~(size < smallest)).nonzero()[:, 0]  # all ties, so that the earliest wins
        self._push(
            rows.flatten()[index], index // rows.shape[1] + self.n_rows, index % rows.shape[1]
        )

    def _push(self, values: Tensor, rows: Tensor, channels: Tensor) -> None:
        values = torch.cat([self._values.to(values), values])
        rows, channels = (
            torch.cat([self._rows.to(rows), rows]),
            torch.cat([self._channels.to(channels), channels]),
        )
        order = values.abs().argsort(descending=True, stable=True)[: self.k]
        self._values, self._rows, self._channels = values[order], rows[order], channels[order]

    def merge(self, other: Any) -> None:
        """Take in what `other` saw; its rows are numbered after this one's."""
        if other.n_rows:
            self._push(other._values, other._rows + self.n_rows, other._channels)
            self.n_rows += other.n_rows

    @property
    def values(self) -> Float[Tensor, " k"]:
        """The values, signed, largest size first."""
        self._require_rows()
        return self._values

    @property
    def rows(self) -> Int64[Tensor, " k"]:
        """Row of each, counted from the first row seen."""
        self._require_rows()
        return self._rows

    @property
    def channels(self) -> Int64[Tensor, " k"]:
        """Channel of each."""
        self._require_rows()
        return self._channels


class Moments(Reducer):
    """Mean and covariance, merged pairwise (Chan, Golub & LeVeque 1983), in float64.

    Args:
        covariance: Whether to keep the full covariance; else variances only.
    """

    def __init__(self, *, covariance: bool = True) -> None:
        super().__init__()
        self._full = covariance
        self._mean = torch.empty(0, dtype=torch.float64)
        self._scatter = torch.empty(0, dtype=torch.float64)

    def _add(self, rows: Tensor) -> None:
        rows = rows.double()
        mean = rows.mean(0)
        centred = rows - mean
        scatter = centred.T @ centred if self._full else centred.square().sum(0)
        self._combine(len(rows), mean, scatter)

    def _combine(self, n: int, mean: Tensor, scatter: Tensor) -> None:
        if not self.n_rows:
            self._mean, self._scatter = mean, scatter
            return
        total = self.n_rows + n
        delta = mean - self._mean
        outer = torch.outer(delta, delta) if self._full else delta.square()
        self._mean = self._mean + delta * (n / total)
        self._scatter = self._scatter + scatter + outer * (self.n_rows * n / total)

    def merge(self, other: Any) -> None:
        """Take in what `other` saw.

        Raises:
            OptionError: One keeps the covariance, the other does not.
        """
        if self._full != other._full:
            kept = {True: "the covariance", False: "variances only"}
            raise OptionError(
                f"Moments to be merged must keep the same; this one keeps {kept[self._full]}, the "
                f"other {kept[other._full]}. Make both with the same `covariance`."
            )
        if other.n_rows:
            self._combine(other.n_rows, other._mean, other._scatter)
            self.n_rows += other.n_rows

    @property
    def mean(self) -> Float64[Tensor, " width"]:
        """Mean over rows."""
        self._require_rows()
        return self._mean

    @property
    def variance(self) -> Float64[Tensor, " width"]:
        """Variance of each channel over rows, divided by the number of rows."""
        self._require_rows()
        return (self._scatter.diagonal() if self._full else self._scatter) / self.n_rows

    @property
    def covariance(self) -> Float64[Tensor, "width width"]:
        """Covariance over rows, divided by the number of rows.

        Raises:
            OptionError: Made with covariance=False.
        """
        self._require_rows()
        if not self._full:
            raise OptionError("Moments(covariance=False) keeps variances only.")
        return self._scatter / self.n_rows


class Norms(Reducer):
    """L2 norms of rows: mean, standard deviation, largest and smallest."""

    def __init__(self) -> None:
        super().__init__()
        self._moments = Moments(covariance=False)
        self._largest, self._smallest = -torch.inf, torch.inf

    def _add(self, rows: Tensor) -> None:
        norms = torch.linalg.vector_norm(rows.double(), dim=1)
        self._moments.update(norms[:, None])
        self._largest = max(self._largest, norms.max().item())
        self._smallest = min(self._smallest, norms.min().item())

    def merge(self, other: Any) -> None:
        """Take in what `other` saw."""
        self._moments.merge(other._moments)
        self._largest = max(self._largest, other._largest)
        self._smallest = min(self._smallest, other._smallest)
        self.n_rows += other.n_rows

    @property
    def mean(self) -> float:
        """Mean norm."""
        return self._moments.mean.item()

    @property
    def std(self) -> float:
        """Standard deviation of the norm."""
        return self._moments.variance.sqrt().item()

    @property
    def largest(self) -> float:
        """Largest norm."""
        self._require_rows()
        return self._largest

    @property
    def smallest(self) -> float:
        """Smallest norm."""
        self._require_rows()
        return self._smallest


class Histogram(Reducer):
    """Counts of |values| in bins evenly spaced in the logarithm; zeros have a count of their own.

    Args:
        low: Lower edge of the first bin; smaller values (but zero) are counted there too.
        high: Upper edge of the last bin; larger values are counted there too.
        n_bins: Number of bins.
    """

    def __init__(self, *, low: float = 1e-4, high: float = 1e5, n_bins: int = 90) -> None:
        super().__init__()
        if not 0 < low < high or n_bins < 1:
            raise OptionError(
                f"0 < low < high and n_bins >= 1 must hold, got {low}, {high}, {n_bins}."
            )
        self.edges = torch.logspace(
            math.log10(low), math.log10(high), n_bins + 1, dtype=torch.float64
        )
        self.counts: Int64[Tensor, " bins"] = torch.zeros(n_bins, dtype=torch.int64)
        self.n_zeros = 0

    def _add(self, rows: Tensor) -> None:
        sizes = rows.abs().double().flatten().cpu()
        zeros = sizes == 0
        self.n_zeros += int(zeros.sum())
        bins = torch.bucketize(sizes[~zeros], self.edges, right=True) - 1
        self.counts += torch.bincount(
            bins.clamp(0, len(self.counts) - 1), minlength=len(self.counts)
        )

    def merge(self, other: Any) -> None:
        """Take in what `other` saw.

        Raises:
            OptionError: The bins differ.
        """
        if not torch.equal(self.edges, other.edges):
            raise OptionError("Histograms must have the same bins to be merged.")
        self.counts += other.counts
        self.n_zeros += other.n_zeros
        self.n_rows += other.n_rows
