"""Does the measure find the number of features a toy model represents (arXiv 2512.13568, section 4)?

Toy models, whose weights say what they represent, are read through dictionaries trained on their
hidden activations only. Both loss reductions are run (see `tied.py`). Reported beside the
correlation over all models: the correlation within the models without superposition (reference psi
up to 1.05), since a high overall correlation is carried by the sparse half and says nothing about
psi = 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ....probes.errors import OptionError
from ..claims import Claim, correlation_interval
from ..journal import Progress, Rows
from ..reading import read_tied
from ..study import Study
from ..tied import TiedOptions, train_tied
from ..toy import ToyOptions, train_toys

NO_SUPERPOSITION = 1.05
"""Reference psi up to which a toy counts as free of superposition."""


RECIPES: tuple[tuple[Literal["sum", "mean"], Literal["sqrt_d", "none"]], ...] = (
    ("sum", "sqrt_d"),
    ("mean", "none"),
)
"""Reduction and scale of the dictionaries: the paper's formula, and its code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyExperimentOptions:
    """Size of the experiment."""

    n_models: int = 100
    """Toy models, one per sparsity (paper: 100)."""
    n_steps: int = 4000
    """Training steps of the toys."""
    n_rows: int = 10_000
    """Activations each dictionary is trained on and read on (paper)."""
    n_latents: int = 40
    """Latents of each dictionary (paper: 8 times the width of 5)."""
    l1: float = 0.1
    """L1 penalty (paper)."""
    epochs: int = 12
    """Passes of the dictionaries over their rows."""
    seed: int = 0
    """Fixes everything."""

    def __post_init__(self) -> None:
        if self.n_models < 4:
            raise OptionError(f"A correlation needs at least 4 models, got {self.n_models}.")


def _measure(options: ToyExperimentOptions, progress: Progress) -> Rows:
    toys = train_toys(
        ToyOptions(n_models=options.n_models, n_steps=options.n_steps, seed=options.seed),
        progress=lambda done, total, note: progress(done, 2 * total, note),
    )
    hidden = toys.hidden(options.n_rows, seed=options.seed + 1)
    reference, frobenius = toys.reference(), toys.frobenius()
    found: Rows = []
    for part, (reduction, scale) in enumerate(RECIPES):
        recipe = TiedOptions(
            n_latents=options.n_latents, l1=options.l1, reduction=reduction, scale=scale,
            max_epochs=options.epochs, seed=options.seed,
        )  # fmt: skip
        saes = train_tied(
            hidden,
            recipe,
            progress=lambda done, total, note, part=part: progress(
                (2 + part) * total + done, 4 * total, note
            ),
        )
        for i, reading in enumerate(read_tied(saes, hidden)):
            found.append(
                reading.as_dict()
                | {
                    "x": reference[i].item(),
                    "group": reduction,
                    "seed": options.seed,
                    "score": toys.losses[i].item(),
                    "sparsity": toys.sparsity[i].item(),
                    "frobenius": frobenius[i].item(),
                }
            )
    return found


def _claims(rows: Rows, reduction: str) -> list[Claim]:
    mine = [row for row in rows if row["group"] == reduction]
    x, psi = (np.array([row[name] for row in mine]) for name in ("x", "psi"))
    r, low, high = correlation_interval(x, psi)
    claims = [
        Claim(
            text=f"psi through a dictionary follows psi of the weights (reduction {reduction}): "
            "correlation above 0.85",
            paper="0.94 ± 0.02",
            estimate=r,
            low=low,
            high=high,
            side="above",
            bound=0.85,
        )
    ]
    dense = x <= NO_SUPERPOSITION
    if dense.sum() >= 4:
        r, low, high = correlation_interval(x[dense], psi[dense])
        above = float(psi[dense].min())
        claims += [
            Claim(
                text=f"the same within toys without superposition (reduction {reduction}, "
                f"{int(dense.sum())} toys): correlation above 0",
                paper="not reported",
                estimate=r,
                low=low,
                high=high,
                side="above",
            ),
            Claim(
                text=f"psi is calibrated: toys without superposition read at most "
                f"{NO_SUPERPOSITION:g} (reduction {reduction}; range over toys)",
                paper="psi = 1 is the interference limit",
                estimate=float(np.median(psi[dense])),
                low=above,
                high=float(psi[dense].max()),
                side="below",
                bound=NO_SUPERPOSITION,
            ),
        ]
    return claims


toy = Study(
    name="toy",
    Options=ToyExperimentOptions,
    question="Does the measure find how many features a toy model represents?",
    x_name="effective features of W over N",
    score_name="toy loss",
    # Weights are a second's work to read and a minute's to train: the toys are one unit of their own,
    # and the dictionaries of both reductions are trained on them in the same unit.
    units=lambda _: ["toys"],
    measure=lambda options: lambda _, progress: _measure(options, progress),
    claims=lambda rows, _: [claim for name in ("sum", "mean") for claim in _claims(rows, name)],
    interval=lambda _: "bootstrap over toy models",
    notes=lambda _: (
        "The reference takes p_i proportional to ||W_i||^2; the paper gives no formula.",
        "Reduction mean, activations as they are: the authors' code.",
        "Reduction sum, activations scaled to E||x||^2 = N: the paper's formula.",
    ),
    extras=("sparsity", "frobenius"),
)
"""Correlate F of dictionaries with F of weights over toy models of all sparsities."""
