"""Toy models of superposition, whose number of represented features is known.

The protocol of "Toy Models of Superposition" (arXiv 2209.10652) as arXiv 2512.13568 uses it: sparse
features f_i ~ U[0, 1], zero with probability S; x = W f, f' = relu(W^T x + b); importance-weighted
squared error with importance 0.7^i. All models, one per sparsity, are trained in one tensor.

The reference: the paper applies its entropy "to W" without a formula. p_i proportional to
||W_:,i||^2 gives the near-identity with the Frobenius measure ||W||_F^2 / N that it reports, and is
used here.

Axis legend: m models, b samples, f features, d hidden dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from .entropy import hill_number

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyOptions:
    """Protocol of the toy models."""

    n_models: int = 100
    """One per sparsity, evenly from 0.001 to 0.999 (paper: 100)."""
    n_features: int = 20
    """Features each model is to represent (paper)."""
    width: int = 5
    """Hidden dimensions (paper)."""
    importance: float = 0.7
    """Feature i counts importance^i (paper)."""
    n_steps: int = 4000
    """Adam steps (paper: to convergence; 4,000 our choice)."""
    batch_rows: int = 128
    """Fresh samples per step and model."""
    learning_rate: float = 3e-3
    """Of Adam, falling to a tenth over the last half along a cosine."""
    seed: int = 0
    """Fixes weights and samples."""

    def __post_init__(self) -> None:
        least = min(self.n_models, self.n_features, self.width, self.n_steps, self.batch_rows)
        if least < 1 or not 0 < self.importance <= 1:
            raise OptionError(
                "Counts must be at least 1 and importance above 0 and up to 1, got " + repr(self)
            )


@dataclass(frozen=True)
class Toys:
    """Trained toy models."""

    weight: Float[Tensor, "models width features"]
    bias: Float[Tensor, "models features"]
    sparsity: Float[Tensor, " models"]
    """Probability that a feature is zero."""
    losses: Float[Tensor, " models"]
    """Loss on fresh samples after training."""

    def hidden(self, n_rows: int, *, seed: int = 0) -> Float[Tensor, "models rows width"]:
        """Activations of fresh samples."""
        generator = torch.Generator().manual_seed(seed)
        features = sample_features(self.sparsity, n_rows, self.weight.shape[2], generator)
        return features @ self.weight.transpose(1, 2)

    def reference(self) -> Float[Tensor, " models"]:
        """Psi of the weights: effective number of columns of W, by squared norm, over the width."""
        norms = self.weight.double().square().sum(1)
        return hill_number(norms) / self.weight.shape[1]

    def frobenius(self) -> Float[Tensor, " models"]:
        """||W||_F^2 / N, the older measure; not invariant to scale."""
        return self.weight.double().square().sum((1, 2)) / self.weight.shape[1]


def sample_features(
    sparsity: Float[Tensor, " models"], n_rows: int, n_features: int, generator: torch.Generator
) -> Float[Tensor, "models rows features"]:
    """Sparse features: uniform in [0, 1], zero with each model's probability."""
    drawn = torch.rand(len(sparsity), n_rows, n_features, generator=generator)
    absent = sparsity[:, None, None]
    # What lies above the probability of zero is uniform again: one draw gives presence and value.
    return ((drawn - absent) / (1 - absent)).relu()


def sparsities(n_models: int) -> Float[Tensor, " models"]:
    """Sparsities of the models, evenly spaced."""
    return torch.linspace(0.001, 0.999, n_models)


def train_toys(
    options: ToyOptions,
    *,
    sparsity: Float[Tensor, " models"] | None = None,
    progress: Progress | None = None,
) -> Toys:
    """Train toy models, all in one tensor.

    Args:
        options: Protocol.
        sparsity: Sparsities to train at instead of the protocol's even spacing.
        progress: Called now and then with (done, total, note).
    """
    chosen = sparsities(options.n_models) if sparsity is None else sparsity.float()
    n_models, generator = len(chosen), torch.Generator().manual_seed(options.seed)
    weight = torch.randn(n_models, options.width, options.n_features, generator=generator)
    weight = (weight / options.n_features**0.5).requires_grad_()
    bias = torch.zeros(n_models, options.n_features, requires_grad=True)
    importance = options.importance ** torch.arange(options.n_features)
    optimiser = torch.optim.Adam([weight, bias], lr=options.learning_rate)
    for step in range(options.n_steps):
        features = sample_features(chosen, options.batch_rows, options.n_features, generator)
        loss = _loss(features, weight, bias, importance)
        optimiser.param_groups[0]["lr"] = options.learning_rate * _decay(step / options.n_steps)
        optimiser.zero_grad(set_to_none=True)
        # Sparser models have smaller losses; Adam's steps do not depend on a model's scale.
        loss.sum().backward()
        optimiser.step()
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, options.n_steps, "toy models")
    with torch.no_grad():
        fresh = sample_features(chosen, 2048, options.n_features, generator)
        final = _loss(fresh, weight, bias, importance)
    return Toys(weight.detach(), bias.detach(), chosen, final)


def _loss(features: Tensor, weight: Tensor, bias: Tensor, importance: Tensor) -> Tensor:
    hidden = features @ weight.transpose(1, 2)
    restored = torch.baddbmm(bias[:, None], hidden, weight).relu()
    return ((features - restored).square() @ importance).mean(1)


def _decay(share: float) -> float:
    """1 for the first half, then along a cosine to a tenth."""
    if share < 0.5:
        return 1.0
    angle = torch.tensor((share - 0.5) * 2 * torch.pi)
    return 0.1 + 0.45 * (1 + torch.cos(angle).item())
