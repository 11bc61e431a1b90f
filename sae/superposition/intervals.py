"""Intervals for effective features, by resampling whole documents.

Tokens of one document share their features, so documents are drawn with replacement, not tokens.
Three things differ from a mean's bootstrap:

- The plug-in entropy is biased low, and a resample holds only about 63 % of the documents, so its F
  is biased low once more. That second bias estimates the first: it is reported, and
- the interval is the basic one, 2F - quantiles, on the logarithm of F, which moves the other way
  and so corrects for it to first order. Where F(n) still rises it lies above F: a warning in
  itself.
- Two layers (or two dictionaries) are compared on the same draws of documents, `paired_ratio`.

Paper and code give no intervals (arXiv 2512.13568); this is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from .entropy import hill_number

N_RESAMPLES = 500
LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A value with its 95 % interval over documents."""

    value: float
    """Plug-in value on all documents."""
    low: float
    """Lower bound; NaN with fewer than two documents."""
    high: float
    """Upper bound; NaN with fewer than two documents."""
    bias: float
    """Mean of the resamples minus the value: what the plug-in value is too low by, to first order."""


def document_bootstrap(
    mass: Float[Tensor, "documents latents"],
    *,
    order: float = 1.0,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A Hill number with its interval over documents.

    Args:
        mass: Activation mass per document and latent; see `DocumentUsage`.
        order: Order of the Hill number; 1 is the paper's F.
        n_resamples: Draws of documents.
        seed: Fixes the draws; equal seeds and numbers of documents give equal draws.

    Raises:
        OptionError: `n_resamples` is below 2.
    """
    value = hill_number(mass.sum(0), order)
    drawn = resampled_mass(mass, n_resamples=n_resamples, seed=seed)
    return _basic(value, hill_number(drawn, order), len(mass))


def paired_ratio(
    mass: Float[Tensor, "documents latents"],
    other: Float[Tensor, "other_documents other_latents"],
    *,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """F of one dictionary over F of another, on the same draws of the same documents.

    Raises:
        OptionError: The documents differ in number.
    """
    if len(mass) != len(other):
        raise OptionError(
            f"Both must be measured on the same documents, got {len(mass)} and {len(other)}."
        )
    value = hill_number(mass.sum(0)) / hill_number(other.sum(0))
    options = {"n_resamples": n_resamples, "seed": seed}
    above = hill_number(resampled_mass(mass, **options))
    below = hill_number(resampled_mass(other, **options))
    return _basic(value, above / below, len(mass))


def resampled_mass(
    mass: Float[Tensor, "documents latents"], *, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> Float[Tensor, "resamples latents"]:
    """Activation mass of documents drawn with replacement.

    Raises:
        OptionError: `n_resamples` is below 2.
    """
    if n_resamples < 2:
        raise OptionError(f"n_resamples must be at least 2, got {n_resamples}.")
    n = len(mass)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (n_resamples, n), generator=generator)
    times = torch.zeros(n_resamples, n, dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))
    return times @ mass.double()


def _basic(value: Tensor, drawn: Tensor, n_documents: int) -> Interval:
    nan = float("nan")
    if n_documents < 2 or not bool(torch.isfinite(value)):
        return Interval(value=value.item(), low=nan, high=nan, bias=nan)
    tail = (1 - LEVEL) / 2
    logs = drawn[torch.isfinite(drawn)].log()
    low, high = torch.quantile(logs, torch.tensor([tail, 1 - tail], dtype=logs.dtype))
    return Interval(
        value=value.item(),
        low=(2 * value.log() - high).exp().item(),
        high=(2 * value.log() - low).exp().item(),
        bias=(drawn[torch.isfinite(drawn)].mean() - value).item(),
    )
