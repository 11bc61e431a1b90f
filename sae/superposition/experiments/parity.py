"""Does F level off as the dictionary grows (arXiv 2512.13568, multi-task sparse parity)?

A perceptron 15-h-1 learns three tasks of four-bit parity; its hidden activations are read through
dictionaries of p = 0.5 to 16 times h latents under penalties from 0.01 to 10. The paper: F levels
off for penalties of 0.1 and more, grows without bound at 0.01 and collapses at 10.

Activations are taken after the ReLU from shuffled rows, as the paper's text implies; its code takes
them before the ReLU from an unshuffled loader.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ....probes.errors import OptionError
from ..claims import Claim
from ..journal import Progress, Rows
from ..mlp import FitOptions, StackedMLP, accuracy, binary_cross_entropy, fit
from ..reading import read_tied
from ..study import Measure, Study, over_seeds
from ..tasks import Task, sparse_parity
from ..tied import TiedOptions, train_tied

TRAIN_SHARE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityOptions:
    """Size of the experiment."""

    width: int = 64
    """Hidden units h (paper: 64)."""
    expansions: tuple[float, ...] = (0.5, 1, 2, 4, 8, 16)
    """Dictionary sizes over h (paper)."""
    penalties: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    """L1 penalties (paper: 0.01 to 10)."""
    reduction: str = "sum"
    """Loss of the dictionaries, "sum" or "mean"; see `tied.py`."""
    n_seeds: int = 3
    """Networks (paper: 5)."""
    n_epochs: int = 60
    """Of the networks (paper: 300 with batches of 64)."""
    batch_rows: int = 256
    """Rows per step of the networks (paper: 64)."""
    learning_rate: float = 3e-3
    """Of the networks (paper: 1e-3)."""
    sae_epochs: int = 30
    """Of the dictionaries."""
    sae_learning_rate: float = 3e-3
    """Of the dictionaries (the code's: 1e-3, over more passes)."""
    sae_batch_rows: int = 128
    """Rows per step of the dictionaries."""
    n_rows: int = 4096
    """Hidden activations per network a dictionary is trained and read on."""

    def __post_init__(self) -> None:
        if self.reduction not in ("sum", "mean") or self.n_seeds < 1 or self.width < 1:
            raise OptionError(
                f"reduction must be sum or mean, n_seeds and width at least 1, got {self}."
            )


def _measure(options: ParityOptions) -> Measure:
    networks: list[tuple[Tensor, list[float]]] = []

    def measure(unit: str, progress: Progress) -> Rows:
        if not networks:
            # Trained anew (seconds, and the same by seed) when a resumed run needs them.
            networks.append(_networks(options, progress))
        hidden, scores = networks[0]
        return _dictionaries(options, float(unit.removeprefix("p/h ")), hidden, scores, progress)

    return measure


def trained_on(
    task: Task,
    sizes: tuple[int, ...],
    seeds: Tensor,
    options: FitOptions,
    *,
    dropout: Float[Tensor, " models"] | None = None,
    progress: Progress | None = None,
) -> tuple[StackedMLP, Tensor]:
    """Networks trained on a split by seed, and the accuracy of each on its test rows.

    Args:
        task: A yes-or-no task.
        sizes: Units of the hidden layers.
        seeds: Of each model: its split. Initial weights differ between models anyway.
        options: Recipe.
        dropout: Rate of each model.
        progress: Called after each epoch.
    """
    generator = torch.Generator().manual_seed(options.seed)
    shape = (task.x.shape[1], *sizes, task.n_outputs)
    networks = StackedMLP(len(seeds), shape, generator)
    train, test = task.split(seeds, train_share=TRAIN_SHARE)
    fit(
        networks, task.x, task.labels, train, binary_cross_entropy, options,
        dropout=dropout, progress=progress,
    )  # fmt: skip
    return networks, accuracy(networks, task.x, task.labels, test)


def some_hidden(networks: StackedMLP, task: Task, n_rows: int, *, seed: int = 0) -> Tensor:
    """Hidden activations of a random sample of all inputs, models by rows by units."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(task.x), generator=generator)[:n_rows]
    return networks.hidden(task.x[rows].expand(networks.n_models, -1, -1))


def _networks(options: ParityOptions, progress: Progress) -> tuple[Tensor, list[float]]:
    task = sparse_parity()
    recipe = FitOptions(
        n_epochs=options.n_epochs,
        batch_rows=options.batch_rows,
        learning_rate=options.learning_rate,
    )
    seeds = torch.arange(options.n_seeds)
    networks, scores = trained_on(task, (options.width,), seeds, recipe, progress=progress)
    return some_hidden(networks, task, options.n_rows), scores.tolist()


def _dictionaries(
    options: ParityOptions,
    expansion: float,
    hidden: Tensor,
    scores: list[float],
    progress: Progress,
) -> Rows:
    """One dictionary per network and penalty, all of one size in one tensor."""
    n_seeds, n_penalties = len(hidden), len(options.penalties)
    recipe = TiedOptions(
        n_latents=max(round(expansion * options.width), 1),
        reduction="mean" if options.reduction == "mean" else "sum",
        max_epochs=options.sae_epochs,
        learning_rate=options.sae_learning_rate,
        batch_rows=options.sae_batch_rows,
    )
    stacked = hidden.repeat(n_penalties, 1, 1)
    l1 = torch.tensor(options.penalties).repeat_interleave(n_seeds)
    saes = train_tied(stacked, recipe, l1=l1, progress=progress)
    seeds = [i % n_seeds for i in range(len(stacked))]
    return [
        reading.as_dict()
        | {"x": expansion, "group": f"penalty {l1[i]:g}"}
        | {"seed": seeds[i], "score": scores[seeds[i]]}
        for i, reading in enumerate(read_tied(saes, stacked))
    ]  # fmt: skip


def _claims(rows: Rows, options: ParityOptions) -> list[Claim]:
    """The growth of F over the last doubling of the dictionary, by penalty."""
    before, last = sorted(options.expansions)[-2:]
    claims = []
    for penalty in options.penalties:
        group = f"penalty {penalty:g}"
        small, large = (_by_seed(rows, group, x) for x in (before, last))
        growth = np.log2(large / small) / np.log2(last / before)
        least = penalty <= 0.01
        claims.append(
            Claim.over_seeds(
                growth,
                text=f"penalty {penalty:g}: F per doubling of the dictionary "
                + (
                    "keeps growing, exponent above 0.1"
                    if least
                    else "has levelled off, exponent below 0.1"
                )
                + f" (from {before:g} to {last:g} times h)",
                paper="grows without bound" if least else "plateau",
                side="above" if least else "below",
                bound=0.1,
            )
        )
    return [*claims, _collapse(rows, options, last)]


def _collapse(rows: Rows, options: ParityOptions, x: float) -> Claim:
    strongest = max(options.penalties)
    middle = min(options.penalties, key=lambda p: abs(np.log10(p) + 1))
    small, large = (_by_seed(rows, f"penalty {p:g}", x) for p in (strongest, middle))
    # A dictionary that never fires has collapsed to no feature at all.
    return Claim.over_seeds(
        np.nan_to_num(small, nan=0.0) / large,
        text=f"F collapses at penalty {strongest:g}: below half of F at penalty {middle:g}",
        paper="collapses at 10",
        side="below",
        bound=0.5,
    )


def _by_seed(rows: Rows, group: str, x: float) -> np.ndarray:
    mine = [row for row in rows if row["group"] == group and row["x"] == x]
    return np.array([row["features"] for row in sorted(mine, key=lambda row: row["seed"])])


parity = Study(
    name="parity",
    Options=ParityOptions,
    question="Does F level off as the dictionary grows?",
    x_name="dictionary size over h",
    score_name="test accuracy",
    units=lambda options: [f"p/h {e:g}" for e in options.expansions],
    measure=_measure,
    claims=_claims,
    interval=over_seeds("networks"),
    notes=lambda options: (
        f"Loss reduction of the dictionaries: {options.reduction}.",
        "Networks are trained with larger batches and fewer epochs than the paper's 300 of 64.",
    ),
)
"""Scale the dictionary on networks of multi-task sparse parity."""
