"""Effective number of features: the exponential of the entropy of an SAE's activation mass.

From "Superposition as Lossy Compression" (arXiv 2512.13568): with the budget shares
p_i = sum_s |z_si| / sum_js |z_sj| of a dictionary's latents over samples, F = exp(-sum p_i ln p_i)
counts effective features and psi = F / N relates them to the width N of the layer. F is the Hill
number of order 1; orders 0 (latents alive at all) and 2 (participation ratio) stand beside it.

Deviations from the authors' code: no epsilon is added before the logarithm (0 ln 0 = 0 exactly),
all sums are in float64, and a dictionary that never fired gives NaN and a flag, not 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import BadCodesError

CAVEAT = (
    "psi is not calibrated: dictionaries read 1.1 to 4.3 on toy models without any superposition, so "
    "psi > 1 proves nothing. Compare only runs with an identical SAE configuration and similar FVU."
)
"""What every output of this measure says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectiveFeatures:
    """What a dictionary's activation mass says about one layer."""

    features: float
    """F: effective features, Hill number of order 1; NaN where nothing fired."""
    alive: float
    """Latents with any mass, Hill number of order 0; NaN where nothing fired."""
    participation: float
    """Participation ratio 1 / sum p^2, Hill number of order 2; NaN where nothing fired."""
    entropy_bits: float
    """Entropy of the shares in bits; NaN where nothing fired."""
    width: int
    """N: dimensions of the layer."""
    n_rows: int
    """Activations summed over."""
    empty: bool
    """Whether no latent ever fired; then every number is NaN."""

    @property
    def psi(self) -> float:
        """F / N; see `CAVEAT`."""
        return self.features / self.width


def budget_shares(mass: Float[Tensor, "*batch latents"]) -> Float[Tensor, "*batch latents"]:
    """Each latent's share of the activation mass, in float64; NaN where there is none.

    Args:
        mass: Sum of |code| over samples per latent, at least 0.

    Raises:
        BadCodesError: A mass is negative or not finite.
    """
    mass = mass.double()
    if not bool(torch.isfinite(mass).all()) or bool((mass < 0).any()):
        raise BadCodesError(
            "Activation mass must be finite and at least 0, got a negative, infinite or missing "
            "value; pass sums of |code|, not codes."
        )
    return mass / mass.sum(-1, keepdim=True)


def hill_number(
    mass: Float[Tensor, "*batch latents"], order: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Hill number (sum p^q)^(1/(1-q)) of the shares; the exponential of the entropy at q = 1.

    Args:
        mass: Sum of |code| over samples per latent.
        order: q, at least 0. 0 counts latents with mass, 1 is the paper's F, 2 the participation
            ratio, infinity the reciprocal of the largest share.

    Raises:
        BadCodesError: A mass is negative or not finite, or `order` is negative.

    Example:
        >>> hill_number(torch.tensor([1.0, 1.0, 1.0, 0.0])).item()
        3.0000000000000004
    """
    if not order >= 0:
        raise BadCodesError(f"order must be at least 0, got {order}; the paper's F has order 1.")
    shares = budget_shares(mass)
    if order == 0:
        alive = (shares > 0).sum(-1).double()
        return torch.where(shares.isnan().any(-1), torch.nan, alive)
    if order == 1:
        return torch.special.entr(shares).sum(-1).exp()
    if math.isinf(order):
        return 1 / shares.amax(-1)
    return shares.pow(order).sum(-1).pow(1 / (1 - order))


def effective_features(
    mass: Float[Tensor, " latents"], *, width: int, n_rows: int
) -> EffectiveFeatures:
    """All numbers of one layer from its dictionary's activation mass.

    Args:
        mass: Sum of |code| over samples per latent; see `UsageAccumulator`.
        width: N, dimensions of the layer the dictionary was trained on.
        n_rows: Samples summed over.

    Raises:
        BadCodesError: A mass is negative or not finite.

    References:
        arXiv 2512.13568, section 3.
    """
    features = hill_number(mass).item()
    return EffectiveFeatures(
        features=features,
        alive=hill_number(mass, 0).item(),
        participation=hill_number(mass, 2).item(),
        entropy_bits=math.log2(features) if features == features else math.nan,
        width=width,
        n_rows=n_rows,
        empty=not bool((mass > 0).any()),
    )
