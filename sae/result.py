"""What training found, as it stands in a run file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..probes.results import Result, described


@dataclass(frozen=True, kw_only=True)
class SaeTraining(Result):
    """How one autoencoder learned, step by step, and what came out."""

    kind: ClassVar[str] = "sae_training"
    name: str = described("name of the autoencoder; its folder's")
    architecture: str = described("architecture")
    site: str = described("site read")
    target_site: str | None = described("site rebuilt, where it is another")
    options: dict[str, Any] = described("all options of the architecture")
    learning: dict[str, Any] = described("all options of the learning")
    source: dict[str, Any] = described("where the rows came from")
    scale: float = described("what rows were multiplied by in training; folded into the weights")
    norm_limit: float = described("raw rows longer than this were left out")
    seed: int = described("seed of the initial weights")
    n_steps: int = described("steps")
    n_rows: int = described("rows learned from, repeats included", unit="rows")
    rows_per_s: float = described(
        "speed, of all autoencoders of the training together", unit="rows/s"
    )
    step: np.ndarray = described("step of each report", axes=("reports",))
    loss: np.ndarray = described("sum of all terms of the loss", axes=("reports",))
    fvu: np.ndarray = described("fraction of the batch's variance unexplained", axes=("reports",))
    l0: np.ndarray = described("mean active latents per row", axes=("reports",))
    dead: np.ndarray = described("fraction of latents that are dead", axes=("reports",))
    learning_rate: np.ndarray = described("learning rate", axes=("reports",))
    final_fvu: float = described("mean fvu of the last tenth of the reports")
    final_l0: float = described("mean l0 of the last tenth of the reports", unit="latents")
    final_dead: float = described("dead fraction at the end")
