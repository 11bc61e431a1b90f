"""The paper's sparse autoencoder, many at once in one tensor.

z = relu(W x + b), x' = z W: tied weights, an encoder bias and no decoder bias (arXiv 2512.13568,
section 3). Tied weights fix the gauge, so codes are weighed as they are. The room's own trainer is
for one large dictionary; here hundreds of small ones, over conditions, seeds and penalties, are one
batched product.

Deviations, where paper and code disagree:

- The paper's loss sums over dimensions, ||x - x'||^2 + l1 ||z||_1; its code takes means over both,
  which is ||e||^2 + l1 (N / p) ||z||_1: the same number is a weaker penalty the larger the
  dictionary. Both are here, as `reduction`; "sum" is the default, since it compares across
  dictionaries.
- Activations are scaled to E||x||^2 = N first (factor kept), without which one penalty means
  another sparsity in every layer; `scale="none"` is the code's way.
- The best epoch's weights are kept as a copy (the code keeps a reference, that is, the last ones).

Axis legend: m models, b rows of a batch, d dimensions of the layer, l latents.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TiedOptions:
    """Recipe of the paper's SAE."""

    n_latents: int
    """Size of each dictionary; the paper takes 8 times the width for toys, 4 times for networks."""
    l1: float = 0.1
    """Weight of the L1 penalty (paper: 0.1)."""
    reduction: Literal["sum", "mean"] = "sum"
    """Loss summed over dimensions and latents (paper's text), or averaged over both (its code)."""
    scale: Literal["sqrt_d", "none"] = "sqrt_d"
    """Scale activations to a mean square norm of N, or leave them as they are (the code)."""
    learning_rate: float = 1e-3
    """Of Adam (the code's)."""
    batch_rows: int = 128
    """Rows per step (the code's)."""
    max_epochs: int = 40
    """Passes over the rows at most (the code: up to 800)."""
    patience: int = 10
    """Stop when no model's epoch loss has improved for so many epochs (the code's)."""
    seed: int = 0
    """Fixes initial weights and the order of rows."""

    def __post_init__(self) -> None:
        least = min(self.n_latents, self.batch_rows, self.max_epochs, self.patience)
        if least < 1 or self.l1 < 0 or self.learning_rate <= 0:
            raise OptionError(
                "n_latents, batch_rows, max_epochs and patience must be at least 1, l1 at least 0 and "
                f"learning_rate above 0, got {self}."
            )


@dataclass(frozen=True)
class TiedSAEs:
    """Trained dictionaries; each belongs to one model."""

    weight: Float[Tensor, "models latents d"]
    """Atoms, both encoder and decoder."""
    bias: Float[Tensor, "models latents"]
    """Encoder bias."""
    scale: Float[Tensor, " models"]
    """Factor on each model's activations before encoding."""
    losses: Float[Tensor, "epochs models"]
    """Mean loss of each epoch."""

    def encode(self, rows: Float[Tensor, "models rows d"]) -> Float[Tensor, "models rows latents"]:
        """Codes of each model's activations (in scaled units)."""
        return _encode(rows * self.scale[:, None, None], self.weight, self.bias)

    def decode(self, codes: Float[Tensor, "models rows latents"]) -> Float[Tensor, "models rows d"]:
        """Reconstructions in the activations' own units."""
        return codes @ self.weight / self.scale[:, None, None]


def train_tied(
    rows: Float[Tensor, "models rows d"],
    options: TiedOptions,
    *,
    l1: Float[Tensor, " models"] | None = None,
    progress: Progress | None = None,
) -> TiedSAEs:
    """Train one dictionary per model on its activations, all in one tensor.

    Args:
        rows: Activations; every model has as many.
        options: Recipe.
        l1: A penalty per model instead of the options' one.
        progress: Called after each epoch with (done, total, note).

    Raises:
        OptionError: Activations are not finite.
    """
    if not bool(torch.isfinite(rows).all()):
        raise OptionError(
            "Activations must be finite to train a dictionary on; leave those rows out."
        )
    n_models, n_rows, d = rows.shape
    generator = torch.Generator().manual_seed(options.seed)
    scale = _scale(rows, options.scale)
    weight = torch.empty(n_models, options.n_latents, d)
    bound = (6 / (options.n_latents + d)) ** 0.5  # Xavier's uniform
    weight.uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.zeros(n_models, options.n_latents, requires_grad=True)
    optimiser = torch.optim.Adam([weight, bias], lr=options.learning_rate)
    penalty = torch.full((n_models,), options.l1) if l1 is None else l1.float()
    best = torch.full((n_models,), torch.inf)
    best_weight, best_bias = weight.detach().clone(), bias.detach().clone()
    since, losses = 0, []
    for epoch in range(options.max_epochs):
        total = torch.zeros(n_models)
        for chosen in torch.randperm(n_rows, generator=generator).split(options.batch_rows):
            x = rows[:, chosen] * scale[:, None, None]
            loss = _loss(x, weight, bias, penalty, options.reduction)
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimiser.step()
            total += loss.detach() * (len(chosen) / n_rows)
        losses.append(total)
        better = total < best
        best = torch.where(better, total, best)
        with torch.no_grad():
            best_weight[better], best_bias[better] = weight[better], bias[better]
        since = 0 if bool(better.any()) else since + 1
        if progress is not None:
            progress(epoch + 1, options.max_epochs, "dictionaries")
        if since >= options.patience:
            break
    return TiedSAEs(best_weight, best_bias, scale, torch.stack(losses))


def _encode(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2)).relu()


def _loss(x: Tensor, weight: Tensor, bias: Tensor, l1: Tensor, reduction: str) -> Tensor:
    """Loss per model; models do not share parameters, so their sum trains each by itself."""
    codes = _encode(x, weight, bias)
    error = (x - codes @ weight).square()
    if reduction == "mean":
        return error.mean((1, 2)) + l1 * codes.mean((1, 2))
    return error.sum(2).mean(1) + l1 * codes.sum(2).mean(1)


def _scale(rows: Tensor, rule: str) -> Tensor:
    if rule == "none":
        return torch.ones(len(rows))
    mean_square = rows.square().sum(2).mean(1)
    # A model whose units are all silent stays silent.
    safe = torch.where(mean_square > 0, mean_square, torch.ones_like(mean_square))
    return (rows.shape[2] / safe).sqrt()
