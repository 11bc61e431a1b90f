"""One measurement: effective features of some activations, with the fit they must be read beside."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from .entropy import hill_number
from .tied import TiedSAEs


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Effective features of one layer through one dictionary, and how well that dictionary fits."""

    features: float
    """F, Hill number of order 1; NaN where no latent fired."""
    alive: float
    """Latents that fired at all, order 0."""
    participation: float
    """Participation ratio of the shares, order 2."""
    psi: float
    """F / N; not calibrated, see `CAVEAT`."""
    fvu: float
    """Fraction of variance unexplained by the dictionary, about the mean."""
    l0: float
    """Latents active per row."""
    width: int
    """N, dimensions of the layer."""

    def as_dict(self) -> dict[str, float]:
        """All fields."""
        return asdict(self)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in fields(cls))


@torch.no_grad()
def read_tied(saes: TiedSAEs, rows: Float[Tensor, "models rows d"]) -> list[Reading]:
    """Effective features of every model's activations through its dictionary.

    FVU is sum ||x - x'||^2 / sum ||x - mean||^2 in float64, the mean over the rows given; NaN where
    activations do not vary.
    """
    codes = saes.encode(rows)
    mass = codes.double().sum(1)
    error = (rows - saes.decode(codes)).double().square().sum((1, 2))
    wide = rows.double()
    variation = (wide - wide.mean(1, keepdim=True)).square().sum((1, 2))
    l0 = (codes > 0).double().sum(2).mean(1)
    orders = [hill_number(mass, q).tolist() for q in (1, 0, 2)]
    width = rows.shape[2]
    return [
        Reading(
            features=features,
            alive=alive,
            participation=participation,
            psi=features / width,
            fvu=error[i].item() / variation[i].item() if variation[i] > 0 else math.nan,
            l0=l0[i].item(),
            width=width,
        )
        for i, (features, alive, participation) in enumerate(zip(*orders, strict=True))
    ]
