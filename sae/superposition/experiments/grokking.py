"""Does F fall when a network groks (arXiv 2512.13568, modular addition)?

A perceptron with one hidden layer adds two numbers mod 53, given as one-hot vectors, so that the
two halves of its first matrix are the two paths. With weight decay it first memorises the training
pairs and much later generalises. At checkpoints the hidden activations of all pairs are read
through dictionaries of one configuration, and the local learning coefficient of the training loss
is estimated (`llc.py`). The paper: F drops sharply when the network generalises and follows the
coefficient (r = 0.908). Its hyperparameters are not public; those here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ....probes.errors import OptionError
from ..claims import Claim
from ..journal import Progress, Rows
from ..llc import LLC_CAVEAT, SgldOptions, learning_coefficients
from ..mlp import FitOptions, StackedMLP, accuracy, cross_entropy, fit
from ..reading import read_tied
from ..study import Study, over_seeds
from ..tasks import modular_addition
from ..tied import TiedOptions, train_tied

GENERALISES = 0.9
"""Test accuracy from which on a network has grokked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrokkingOptions:
    """Size of the experiment."""

    modulus: int = 53
    """Numbers are added modulo this (paper: 53)."""
    width: int = 128
    """Hidden units."""
    train_share: float = 0.6
    """Share of all pairs that is trained on."""
    n_seeds: int = 3
    """Networks."""
    n_epochs: int = 1200
    """Steps on all training pairs at once."""
    learning_rate: float = 1e-2
    """Of AdamW."""
    weight_decay: float = 2.0
    """Of AdamW; what makes the network grok."""
    n_checkpoints: int = 16
    """Epochs at which the network is read, evenly from 0."""
    n_latents: int = 512
    """Latents of every dictionary (4 times the width, paper)."""
    l1: float = 0.1
    """Penalty of the dictionaries (paper)."""
    sae_epochs: int = 15
    """Of the dictionaries."""
    sgld_steps: int = 150
    """Steps of each chain that count, after half as many; 0 leaves the coefficient out."""

    def __post_init__(self) -> None:
        if not 0 < self.train_share < 1 or self.n_checkpoints < 3 or self.n_seeds < 1:
            raise OptionError(
                "train_share must lie between 0 and 1, n_checkpoints be at least 3 and n_seeds at "
                f"least 1, got {self.train_share}, {self.n_checkpoints}, {self.n_seeds}."
            )


def _network(options: GrokkingOptions, unit: str, progress: Progress) -> Rows:
    seed = int(unit.removeprefix("network "))
    task = modular_addition(options.modulus)
    train, test = task.split(torch.tensor([seed]), train_share=options.train_share)
    generator = torch.Generator().manual_seed(seed)
    sizes = (task.x.shape[1], options.width, task.n_outputs)
    network = StackedMLP(1, sizes, generator)
    epochs = sorted({round(e) for e in np.linspace(0, options.n_epochs, options.n_checkpoints)})
    hidden: list[Tensor] = []
    weights: list[list[Tensor]] = []
    scores: list[tuple[float, float]] = []

    def look(epoch: int) -> None:
        if epoch in epochs:
            hidden.append(network.hidden(task.x[None])[0])
            weights.append([p.detach().clone() for p in network.parameters()])
            right = [accuracy(network, task.x, task.labels, r).item() for r in (train, test)]
            scores.append((right[0], right[1]))

    look(0)
    recipe = FitOptions(
        n_epochs=options.n_epochs,
        batch_rows=train.shape[1],
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        seed=seed,
    )
    parts = 3
    fit(
        network, task.x, task.labels, train, cross_entropy, recipe, after_epoch=look,
        progress=lambda done, total, note: progress(done, parts * total, note),
    )  # fmt: skip
    states = torch.stack(hidden)
    saes = train_tied(
        states,
        TiedOptions(
            n_latents=options.n_latents,
            l1=options.l1,
            max_epochs=options.sae_epochs,
            batch_rows=256,
        ),
        progress=lambda done, total, note: progress(total + done, parts * total, note),
    )
    llc = _coefficients(
        options, [torch.cat(p) for p in zip(*weights, strict=True)], task.x[train[0]],
        task.labels[train[0]],
        lambda done, total, note: progress(2 * total + done, parts * total, note),
    )  # fmt: skip
    return [
        reading.as_dict()
        | {"x": epochs[i], "group": f"network {seed}", "seed": seed}
        | {"score": scores[i][1], "train": scores[i][0], "llc": llc[i]}
        for i, reading in enumerate(read_tied(saes, states))
    ]


def _coefficients(
    options: GrokkingOptions, stacked: list[Tensor], x: Tensor, labels: Tensor, progress: Progress
) -> list[float]:
    """Learning coefficient at every checkpoint; NaN where it is left out."""
    n_models = len(stacked[0])
    if options.sgld_steps == 0:
        return [float("nan")] * n_models
    n_layers = len(stacked) // 2
    batch = min(256, len(x))

    def objective(parameters: Sequence[Tensor], generator: torch.Generator | None) -> Tensor:
        rows = torch.arange(len(x))
        if generator is not None:
            rows = torch.randint(len(x), (batch,), generator=generator)
        h = x[rows].expand(n_models, -1, -1)
        for layer in range(n_layers):
            h = torch.baddbmm(parameters[n_layers + layer], h, parameters[layer])
            h = h.relu() if layer < n_layers - 1 else h
        return cross_entropy(h, labels[rows].expand(n_models, -1)).mean(1)

    chain = SgldOptions(n_burn_in=options.sgld_steps // 2, n_steps=options.sgld_steps)
    return learning_coefficients(stacked, objective, len(x), chain, progress=progress).tolist()


def _claims(rows: Rows, options: GrokkingOptions) -> list[Claim]:
    falls, correlations, grokked = [], [], 0
    for seed in range(options.n_seeds):
        mine = sorted((r for r in rows if r["seed"] == seed), key=lambda r: r["x"])
        test, f, train, llc = (
            np.array([r[key] for r in mine]) for key in ("score", "features", "train", "llc")
        )
        if test[-1] >= GENERALISES:
            grokked += 1
            # Memorised (all training pairs right, test not yet) against generalised.
            before = (train >= 0.99) & (test < 0.5)
            after = test >= GENERALISES
            if before.any():
                falls.append(f[after].mean() / f[before].mean())
        # The coefficient means something at a minimum only: where training pairs are all right.
        fitted = (train >= 0.99) & np.isfinite(llc)
        if fitted.sum() > 2:
            correlations.append(np.corrcoef(f[fitted], llc[fitted])[0, 1])
    claims = [
        Claim.over_seeds(
            falls,
            text=f"F falls when the network generalises: F after over F while memorised below 1 "
            f"({grokked} of {options.n_seeds} networks grokked)",
            paper="drops sharply at the generalisation epoch",
            side="below",
            bound=1.0,
        )
    ]
    if correlations:
        claims.append(
            Claim.over_seeds(
                correlations,
                text="F follows the local learning coefficient (SGLD estimate) over checkpoints "
                "that fit their training pairs: correlation above 0",
                paper="r = 0.908",
                side="above",
            )
        )
    return claims


grokking = Study(
    name="grokking",
    Options=GrokkingOptions,
    question="Does F fall when a network generalises?",
    x_name="epoch",
    score_name="test accuracy",
    units=lambda options: [f"network {seed}" for seed in range(options.n_seeds)],
    measure=lambda options: partial(_network, options),
    claims=_claims,
    interval=over_seeds("networks"),
    notes=lambda _: (
        "The paper's hyperparameters are not public; width, rates and weight decay are ours.",
        LLC_CAVEAT,
    ),
    extras=("llc", "train"),
)
"""Follow F and the learning coefficient through grokking."""
