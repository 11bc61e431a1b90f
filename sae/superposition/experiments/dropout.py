"""Does dropout reduce superposition, most in narrow networks (arXiv 2512.13568, section on dropout)?

Perceptrons 15-h-1 learn multi-task sparse parity with dropout on their hidden units; their
activations, without dropout, are read through dictionaries of 4 h latents, so that rates compare
within one width only. The paper: F falls monotonically with the rate, by up to 50 %, most in narrow
networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch

from ....probes.errors import OptionError
from ..claims import Claim
from ..journal import Progress, Rows
from ..mlp import FitOptions
from ..reading import read_tied
from ..study import Study, over_seeds
from ..tasks import sparse_parity
from ..tied import TiedOptions, train_tied
from .parity import some_hidden, trained_on


@dataclass(frozen=True, slots=True, kw_only=True)
class DropoutOptions:
    """Size of the experiment."""

    widths: tuple[int, ...] = (16, 32, 64, 128)
    """Hidden units (paper)."""
    rates: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)
    """Dropout rates (paper: 0 to 0.9)."""
    n_seeds: int = 3
    """Networks per width and rate (paper: 5)."""
    n_epochs: int = 60
    """Of the networks (paper: 300 with batches of 64)."""
    batch_rows: int = 256
    """Rows per step of the networks (paper: 64)."""
    learning_rate: float = 3e-3
    """Of the networks (paper: 1e-3)."""
    expansion: int = 4
    """Latents over h (paper's networks: 4)."""
    l1: float = 0.1
    """Penalty of the dictionaries (paper)."""
    recipe: Literal["text", "code"] = "text"
    """Loss of the dictionaries: summed on scaled activations (the paper's text, scaled as in
    `tied.py`), or averaged on activations as they are (its code)."""
    sae_epochs: int = 20
    """Of the dictionaries."""
    sae_learning_rate: float = 3e-3
    """Of the dictionaries (the code's: 1e-3, over more passes)."""
    n_rows: int = 4096
    """Hidden activations a dictionary is trained and read on."""

    def __post_init__(self) -> None:
        if self.recipe not in ("text", "code"):
            raise OptionError(f"recipe must be text or code, got {self.recipe!r}.")
        if not self.widths or 0.0 not in self.rates or not all(0 <= r < 1 for r in self.rates):
            raise OptionError(
                "widths must not be empty and rates lie in 0 to below 1 and hold 0, which the others "
                f"are compared with; got {self.widths} and {self.rates}."
            )


def _width(options: DropoutOptions, unit: str, progress: Progress) -> Rows:
    width = int(unit.removeprefix("width "))
    rates = torch.tensor(options.rates).repeat_interleave(options.n_seeds)
    seeds = torch.arange(options.n_seeds).repeat(len(options.rates))
    recipe = FitOptions(
        n_epochs=options.n_epochs,
        batch_rows=options.batch_rows,
        learning_rate=options.learning_rate,
    )
    task = sparse_parity()
    networks, scores = trained_on(
        task, (width,), seeds, recipe, dropout=rates,
        progress=lambda done, total, note: progress(done, 2 * total, note),
    )  # fmt: skip
    hidden = some_hidden(networks, task, options.n_rows)
    saes = train_tied(
        hidden,
        TiedOptions(
            n_latents=options.expansion * width,
            l1=options.l1,
            reduction="sum" if options.recipe == "text" else "mean",
            scale="sqrt_d" if options.recipe == "text" else "none",
            max_epochs=options.sae_epochs,
            learning_rate=options.sae_learning_rate,
            batch_rows=256,
        ),
        progress=lambda done, total, note: progress(total + done, 2 * total, note),
    )
    return [
        reading.as_dict()
        | {
            "x": round(rates[i].item(), 6),
            "group": unit,
            "seed": int(seeds[i]),
            "score": scores[i].item(),
        }
        for i, reading in enumerate(read_tied(saes, hidden))
    ]


def _claims(rows: Rows, options: DropoutOptions) -> list[Claim]:
    claims, falls = [], {}
    for width in options.widths:
        table = _by_rate(rows, f"width {width}", options)
        slopes = [np.polyfit(sorted(options.rates), line, 1)[0] for line in table / table[:, :1]]
        falls[width] = np.asarray(slopes)
        claims.append(
            Claim.over_seeds(
                slopes,
                text=f"width {width}: F / F(no dropout) falls with the rate (slope per unit of rate)",
                paper="falls monotonically, up to -50 %",
                side="below",
            )
        )
    if len(options.widths) > 1:
        narrow, wide = min(options.widths), max(options.widths)
        claims.append(
            Claim.over_seeds(
                falls[narrow] - falls[wide],
                text=f"the fall is steeper at width {narrow} than at {wide} (difference of slopes)",
                paper="most in narrow networks",
                side="below",
            )
        )
    return claims


def _by_rate(rows: Rows, group: str, options: DropoutOptions) -> np.ndarray:
    """F, seeds by rates in the options' order, those without dropout first."""
    found = {(row["seed"], row["x"]): row["features"] for row in rows if row["group"] == group}
    order = sorted(options.rates)
    return np.array([[found[s, round(r, 6)] for r in order] for s in range(options.n_seeds)])


dropout = Study(
    name="dropout",
    Options=DropoutOptions,
    question="Does dropout reduce the number of effective features?",
    x_name="dropout rate",
    score_name="test accuracy",
    units=lambda options: [f"width {width}" for width in options.widths],
    measure=lambda options: partial(_width, options),
    claims=_claims,
    interval=over_seeds("networks"),
    notes=lambda _: (
        "Dictionaries have 4 times h latents: rates within one width compare, widths do not.",
        "Networks are trained with larger batches and fewer epochs than the paper's 300 of 64.",
    ),
)
"""Read networks trained with dropout of several rates."""
