"""What a forward pass gives, what its loss needs to know, and terms that several losses share."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .codes import Codes, at_least_float32


class SaeOutput(NamedTuple):
    """What a forward pass gives."""

    reconstruction: Tensor
    """Rebuilt rows, as the target is shaped and scaled."""
    codes: Codes
    """Active latents: sparse where the architecture selects them, else a full matrix."""
    loss: Tensor
    """Sum of `losses`, a scalar to be minimised."""
    losses: dict[str, Tensor]
    """Each term of the loss with its coefficient: 'reconstruction' is the squared error summed over
    the row and averaged over rows; others are named by the architecture and stand in training only."""
    means: Mapping[str, Tensor] = MappingProxyType({})
    """Means over rows that `SparseAutoencoder.losses_of_means` makes terms of; all other terms of
    dense codes are means over rows themselves."""


class TrainingState(NamedTuple):
    """What the loss needs to know of the training it is part of."""

    dead: Bool[Tensor, " latents"] | None = None
    """Latents that have not fired for long; None where nobody counts."""
    sparsity: float = 1.0
    """Factor of the sparsity penalty, below 1 while it warms up."""


def squared_error(
    reconstruction: Float[Tensor, "rows d_out"], target: Float[Tensor, "rows d_out"]
) -> Float[Tensor, ""]:
    """Squared error summed over the row, averaged over rows."""
    return (reconstruction - target).square().sum() / max(len(target), 1)


def total(losses: Mapping[str, Tensor]) -> Tensor:
    """Sum of all terms."""
    return torch.stack([at_least_float32(term) for term in losses.values()]).sum()
