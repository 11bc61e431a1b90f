"""Many small multilayer perceptrons in one tensor: conditions and seeds side by side.

Networks of the experiments have up to a few hundred units, so a step of one is all overhead;
stacked, dozens cost little more than one. Every network sees its own rows, dropout rate and attack
budget.

Axis legend: m models, b rows of a batch, i inputs, u units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...probes.errors import OptionError

Progress = Callable[[int, int, str], None]
Loss = Callable[[Tensor, Tensor], Tensor]
"""(logits (m, b, out), labels (m, b)) -> loss per model and row (m, b)."""
Perturb = Callable[["StackedMLP", Tensor, Tensor, float], Tensor]
"""(networks, inputs, labels, share of training done) -> other inputs: adversarial training."""


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy per model and row, in nats."""
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none"
    ).view(labels.shape)


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of one logit against labels 0 and 1, per model and row, in nats."""
    return nn.functional.binary_cross_entropy_with_logits(
        logits[..., 0], labels.to(logits.dtype), reduction="none"
    )


class StackedMLP(nn.Module):
    """Perceptrons of equal shape with ReLU between layers; parameters begin with the model axis.

    Args:
        n_models: How many.
        sizes: Inputs, units of each hidden layer, outputs.
        generator: Draws the initial weights, uniform within 1/sqrt(inputs) as torch's Linear does.
    """

    def __init__(self, n_models: int, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        weights, biases = [], []
        for n_in, n_out in pairwise(sizes):
            bound = n_in**-0.5
            weights.append(
                torch.empty(n_models, n_in, n_out).uniform_(-bound, bound, generator=generator)
            )
            biases.append(
                torch.empty(n_models, 1, n_out).uniform_(-bound, bound, generator=generator)
            )
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)
        self.n_models, self.sizes = n_models, tuple(sizes)

    def forward(
        self,
        x: Float[Tensor, "models rows inputs"],
        *,
        dropout: Float[Tensor, " models"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "models rows outputs"]:
        """Logits.

        Args:
            x: Inputs of each model.
            dropout: Probability of dropping a hidden unit, by model; the others are scaled up.
            generator: Draws the units.
        """
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if layer < last:
                # Dropout before or after the ReLU is the same: both leave zero at zero.
                x = x.relu() if dropout is None else _dropped(x.relu(), dropout, generator)
        return x

    @torch.no_grad()
    def hidden(
        self, x: Float[Tensor, "models rows inputs"], layer: int = 0
    ) -> Float[Tensor, "models rows units"]:
        """Activations after the ReLU of one hidden layer, without dropout."""
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[: layer + 1]:
            x = torch.baddbmm(bias, x, weight).relu()
        return x


@dataclass(frozen=True, slots=True, kw_only=True)
class FitOptions:
    """How stacked networks are trained."""

    n_epochs: int
    """Passes over each model's training rows."""
    batch_rows: int = 64
    """Rows per step and model."""
    learning_rate: float = 1e-3
    """Of the optimiser."""
    weight_decay: float = 0.0
    """Decoupled weight decay (AdamW's)."""
    seed: int = 0
    """Fixes the order of rows and dropped units."""

    def __post_init__(self) -> None:
        if self.n_epochs < 1 or self.batch_rows < 1 or self.learning_rate <= 0:
            raise OptionError(
                "n_epochs and batch_rows must be at least 1 and learning_rate above 0, got "
                + repr(self)
            )


def fit(
    networks: StackedMLP,
    x: Float[Tensor, "rows inputs"],
    labels: Int[Tensor, " rows"],
    train_rows: Int[Tensor, "models train"],
    loss: Loss,
    options: FitOptions,
    *,
    dropout: Float[Tensor, " models"] | None = None,
    perturb: Perturb | None = None,
    after_epoch: Callable[[int], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Train all networks with Adam, each on its own rows of one table.

    Args:
        networks: Changed in place.
        x: Table of inputs.
        labels: Label of each row of the table.
        train_rows: Rows of the table that each model may see.
        loss: Per model and row.
        options: Recipe.
        dropout: Probability of dropping a hidden unit, by model.
        perturb: Makes attacked inputs; the loss is then half on clean and half on attacked rows.
        after_epoch: Called with the number of epochs done.
        progress: Called after each epoch.
    """
    optimiser = torch.optim.AdamW(
        networks.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay
    )
    generator = torch.Generator().manual_seed(options.seed)
    n_models, n_train = train_rows.shape
    for epoch in range(options.n_epochs):
        order = torch.rand(n_models, n_train, generator=generator).argsort(1)
        for columns in order.split(options.batch_rows, dim=1):
            chosen = train_rows.gather(1, columns)
            rows, wanted = x[chosen], labels[chosen]
            found = loss(networks(rows, dropout=dropout, generator=generator), wanted).mean(1)
            if perturb is not None:
                attacked = perturb(networks, rows, wanted, epoch / options.n_epochs)
                found = (found + loss(networks(attacked), wanted).mean(1)) / 2
            optimiser.zero_grad(set_to_none=True)
            found.sum().backward()
            optimiser.step()
        if after_epoch is not None:
            after_epoch(epoch + 1)
        if progress is not None:
            progress(epoch + 1, options.n_epochs, "epochs")


@torch.no_grad()
def accuracy(
    networks: StackedMLP,
    x: Float[Tensor, "rows inputs"],
    labels: Int[Tensor, " rows"],
    rows: Int[Tensor, "models chosen"],
) -> Float[Tensor, " models"]:
    """Share of rows each network gets right; one logit is read by its sign."""
    logits = networks(x[rows])
    guess = (logits[..., 0] > 0).long() if logits.shape[-1] == 1 else logits.argmax(-1)
    return (guess == labels[rows]).float().mean(1)


def _dropped(x: Tensor, rates: Tensor, generator: torch.Generator | None) -> Tensor:
    kept = torch.rand(x.shape, generator=generator) >= rates[:, None, None]
    return x * kept / (1 - rates)[:, None, None]
