"""How often and how strongly latents fire, streamed: L0, dead and dense latents, density histogram.

A latent fires where its code is not zero, so that dictionaries with signed codes are counted right.
Dead means silent on all rows seen: the number of rows belongs to every such figure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from ...probes.errors import OptionError
from ..codes import Codes, as_sparse

DENSE = 0.1
"""A latent that fires on more than this share of rows is called dense."""
FREQUENT = 0.01
BIN_EDGES = np.linspace(-7, 0, 29)
"""Edges of the histogram over log10 density; dead latents are counted apart."""


@dataclass(frozen=True, kw_only=True)
class Activity:
    """Activity of all latents over a set of rows."""

    n_rows: int
    l0: float
    """Mean number of firing latents per row."""
    l0_std: float
    l1: float
    """Mean sum of absolute codes per row."""
    n_dead: int
    n_frequent: int
    """Latents that fire on more than 1 % of the rows."""
    n_dense: int
    """Latents that fire on more than 10 % of the rows."""
    density: Float[np.ndarray, " latents"]
    """Share of rows on which each latent fires."""
    maximum: Float[np.ndarray, " latents"]
    """Largest absolute code."""
    mean_active: Float[np.ndarray, " latents"]
    """Mean absolute code where it fires; 0 for dead latents."""

    @property
    def histogram(self) -> Int[np.ndarray, " bins"]:
        """Latents per bin of log10 density (edges: `BIN_EDGES`), dead ones left out."""
        alive = self.density[self.density > 0]
        return np.histogram(np.log10(alive), BIN_EDGES)[0]


class ActivityStats:
    """Counts over rows; adding rows in any chunks gives the same answer.

    Args:
        d_sae: Number of latents.
    """

    def __init__(self, d_sae: int) -> None:
        self._n_active = torch.zeros(d_sae, dtype=torch.int64)
        self._sum = torch.zeros(d_sae, dtype=torch.float64)
        self._max = torch.zeros(d_sae, dtype=torch.float64)
        self._n_rows, self._l0, self._l0_squared = 0, 0.0, 0.0

    def add(self, codes: Codes) -> None:
        """Take in the codes of rows: sparse, or a full matrix [rows, latents].

        Raises:
            OptionError: The codes are of another width.
        """
        sparse = as_sparse(codes.detach())
        if sparse.d_sae != len(self._sum):
            raise OptionError(f"Codes must be {len(self._sum)} wide, got {sparse.d_sae}.")
        sizes, latents = sparse.values.abs().double().cpu(), sparse.indices.cpu()
        self._n_active += sparse.counts().cpu()
        self._sum.index_add_(0, latents, sizes)
        self._max.scatter_reduce_(0, latents, sizes, "amax")
        per_row = sparse.l0().double()
        self._n_rows += sparse.n_rows
        self._l0 += float(per_row.sum())
        self._l0_squared += float(per_row.square().sum())

    def result(self) -> Activity:
        """What the rows so far say.

        Raises:
            OptionError: No row was added.
        """
        if not self._n_rows:
            raise OptionError("Activity needs at least 1 row, got 0; add rows first.")
        density = (self._n_active / self._n_rows).numpy()
        l0 = self._l0 / self._n_rows
        return Activity(
            n_rows=self._n_rows,
            l0=l0,
            l0_std=float(np.sqrt(max(self._l0_squared / self._n_rows - l0**2, 0.0))),
            l1=float(self._sum.sum()) / self._n_rows,
            n_dead=int((density == 0).sum()),
            n_frequent=int((density > FREQUENT).sum()),
            n_dense=int((density > DENSE).sum()),
            density=density,
            maximum=self._max.numpy().copy(),
            mean_active=(self._sum / self._n_active.clamp(min=1)).numpy(),
        )
