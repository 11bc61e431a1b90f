"""F as a function of the number of documents, and the refusal to rank layers where it still rises.

The plug-in entropy is biased low in small samples, and by different amounts in different layers:
the authors' own list for Pythia-70M goes from 191 effective features on one text to 6,320 on 20,000
(code of arXiv 2512.13568). So F comes with its curve, and layers are ordered only where the last
doubling of the documents added less than 2 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.errors import OptionError
from .entropy import hill_number
from .errors import NotConvergedError

MOST_RISE = 0.02
"""Relative rise of F over the last doubling up to which layers are ranked."""
N_ORDERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """F(n) over random orders of the documents."""

    n_documents: Int[np.ndarray, " sizes"]
    """Documents read: powers of 2, and all."""
    features: Float[np.ndarray, " sizes"]
    """Mean F over orders."""
    low: Float[np.ndarray, " sizes"]
    """2.5 % quantile over orders."""
    high: Float[np.ndarray, " sizes"]
    """97.5 % quantile over orders."""
    rise: float
    """Relative rise of F over the last doubling (half the documents to all); NaN with one document."""

    @property
    def converged(self) -> bool:
        """Whether the last doubling added at most `MOST_RISE`."""
        return self.rise <= MOST_RISE


def feature_curve(
    mass: Float[Tensor, "documents latents"],
    *,
    order: float = 1.0,
    n_orders: int = N_ORDERS,
    seed: int = 0,
) -> Curve:
    """F on the first 1, 2, 4, ... documents of random orders.

    Args:
        mass: Activation mass per document and latent; see `DocumentUsage`.
        order: Order of the Hill number; 1 is the paper's F.
        n_orders: Random orders averaged over.
        seed: Fixes the orders.

    Raises:
        OptionError: There is no document.
    """
    n = len(mass)
    if n == 0:
        raise OptionError("F(n) needs at least one document, got none.")
    sizes = sorted({*(2**k for k in range(n.bit_length()) if 2**k <= n), max(n // 2, 1), n})
    generator = torch.Generator().manual_seed(seed)
    found = torch.empty(n_orders, len(sizes), dtype=torch.float64)
    for row in found:
        shuffled = mass[torch.randperm(n, generator=generator)].double()
        done, total = 0, torch.zeros(mass.shape[1], dtype=torch.float64)
        for column, size in enumerate(sizes):
            total = total + shuffled[done:size].sum(0)
            row[column], done = hill_number(total, order), size
    values = found.numpy()
    mean = values.mean(0)
    return Curve(
        n_documents=np.array(sizes),
        features=mean,
        low=np.quantile(values, 0.025, axis=0),
        high=np.quantile(values, 0.975, axis=0),
        rise=_rise(mean, sizes, n),
    )


def _rise(mean: np.ndarray, sizes: list[int], n: int) -> float:
    if n < 2:
        return float("nan")
    half = n // 2
    # An odd number's half is a little less than half: the rise is put per exact doubling.
    return float((mean[-1] / mean[sizes.index(half)]) ** (1 / np.log2(n / half)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Layers in order of F, and those that are not ordered."""

    ranked: tuple[str, ...]
    """Names whose curve has converged, most effective features first."""
    refused: tuple[str, ...]
    """Names whose curve still rises (or is not known), in the order given."""
    rises: Mapping[str, float]
    """Relative rise over the last doubling, by name."""

    def require_all(self) -> tuple[str, ...]:
        """The ranked names.

        Raises:
            NotConvergedError: Some were refused.
        """
        if self.refused:
            rises = ", ".join(f"{name} {self.rises[name]:+.1%}" for name in self.refused[:5])
            raise NotConvergedError(
                f"Layers are ranked where F rises by at most {MOST_RISE:.0%} over the last doubling "
                f"of documents; {len(self.refused)} still rise ({rises}). Capture more documents."
            )
        return self.ranked


def rank(curves: Mapping[str, Curve]) -> Ranking:
    """Order layers by F, leaving out those whose curve still rises by more than 2 % per doubling."""
    rises = {name: curve.rise for name, curve in curves.items()}
    settled = [name for name, curve in curves.items() if curve.converged]
    settled.sort(key=lambda name: -curves[name].features[-1])
    refused = tuple(name for name in curves if name not in settled)
    return Ranking(ranked=tuple(settled), refused=refused, rises=rises)
