"""Does F grow with the network's width and with the number of tasks (arXiv 2512.13568)?

Perceptrons of growing width learn one, two or three tasks of four-bit parity. All are read through
dictionaries of one and the same size on activations scaled alike, so that widths compare as well as
a measure without calibration allows. The paper finds F to grow with the logarithm of the width
(ResNet-18 on CIFAR-10: 31.0 ± 2.0 per unit of log width).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ....probes.errors import OptionError
from ..claims import Claim
from ..crossed import count_and_width, crossed_units
from ..journal import Progress, Rows
from ..mlp import FitOptions
from ..reading import read_tied
from ..study import Study, over_seeds
from ..tasks import sparse_parity
from ..tied import TiedOptions, train_tied
from .parity import some_hidden, trained_on


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityOptions:
    """Size of the experiment."""

    widths: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Hidden units."""
    n_tasks: tuple[int, ...] = (1, 2, 3)
    """Tasks of four bits each, up to 3."""
    n_seeds: int = 3
    """Networks per width and number of tasks."""
    n_steps: int = 2400
    """Training steps of each network, whatever its number of rows."""
    batch_rows: int = 256
    """Rows per step."""
    learning_rate: float = 3e-3
    """Of the networks."""
    n_latents: int = 256
    """Latents of every dictionary."""
    l1: float = 0.1
    """Penalty of the dictionaries (paper)."""
    sae_epochs: int = 15
    """Of the dictionaries."""
    n_rows: int = 4096
    """Hidden activations a dictionary is trained and read on; rows of a small task repeat."""

    def __post_init__(self) -> None:
        if len(self.widths) < 2 or not self.n_tasks or max(self.n_tasks) > 3:
            raise OptionError(
                f"At least two widths and 1 to 3 tasks are needed, got {self.widths}, {self.n_tasks}."
            )


def _unit(options: CapacityOptions, unit: str, progress: Progress) -> Rows:
    n_tasks, width = count_and_width(unit)
    # A network of few tasks still has control bits and inputs of its own tasks only.
    task = sparse_parity(n_tasks)
    steps_per_epoch = max(-(-int(len(task.x) * 0.8) // options.batch_rows), 1)
    recipe = FitOptions(
        n_epochs=max(options.n_steps // steps_per_epoch, 1),
        batch_rows=options.batch_rows,
        learning_rate=options.learning_rate,
    )
    seeds = torch.arange(options.n_seeds)
    networks, scores = trained_on(
        task, (width,), seeds, recipe,
        progress=lambda done, total, note: progress(done, 2 * total, note),
    )  # fmt: skip
    hidden = some_hidden(networks, task, options.n_rows)
    repeats = -(-options.n_rows // hidden.shape[1])
    hidden = hidden.repeat(1, repeats, 1)[:, : options.n_rows]
    saes = train_tied(
        hidden,
        TiedOptions(
            n_latents=options.n_latents,
            l1=options.l1,
            max_epochs=options.sae_epochs,
            batch_rows=256,
        ),
        progress=lambda done, total, note: progress(total + done, 2 * total, note),
    )
    group = f"{n_tasks} task" + ("s" if n_tasks > 1 else "")
    return [
        reading.as_dict()
        | {"x": float(np.log2(width)), "group": group, "seed": i, "score": scores[i].item()}
        for i, reading in enumerate(read_tied(saes, hidden))
    ]


def _claims(rows: Rows, options: CapacityOptions) -> list[Claim]:
    claims, means = [], {}
    for n_tasks in options.n_tasks:
        group = f"{n_tasks} task" + ("s" if n_tasks > 1 else "")
        mine = [row for row in rows if row["group"] == group]
        slopes, levels = [], []
        for seed in range(options.n_seeds):
            x, y = zip(*[(r["x"], r["features"]) for r in mine if r["seed"] == seed], strict=True)
            slopes.append(np.polyfit(x, y, 1)[0])
            levels.append(np.mean(y))
        means[n_tasks] = np.array(levels)
        claims.append(
            Claim.over_seeds(
                slopes,
                text=f"{group}: F grows with the width (features per doubling)",
                paper="grows with log width",
                side="above",
            )
        )
    if len(options.n_tasks) > 1:
        few, many = min(options.n_tasks), max(options.n_tasks)
        claims.append(
            Claim.over_seeds(
                means[many] / means[few],
                text=f"{many} tasks need more features than {few}: ratio of F above 1",
                paper="not reported in this form",
                side="above",
                bound=1.0,
            )
        )
    return claims


capacity = Study(
    name="capacity",
    Options=CapacityOptions,
    question="Does F grow with width and with the number of tasks?",
    x_name="log2 of the width",
    score_name="test accuracy",
    units=lambda options: crossed_units(options.n_tasks, "tasks", options.widths),
    measure=lambda options: partial(_unit, options),
    claims=_claims,
    interval=over_seeds("networks"),
    notes=lambda options: (
        f"Every dictionary has {options.n_latents} latents.",
        "Scaling to E||x||^2 = N makes the same penalty somewhat weaker in wider layers.",
    ),
)
"""Read networks of several widths on one to three tasks."""
