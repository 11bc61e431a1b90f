"""What every experiment returns: a table of readings under conditions, and the claims they test."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...probes.results import Result, described
from .claims import Claim
from .entropy import CAVEAT


@dataclass(frozen=True, kw_only=True)
class Experiment(Result):
    """One experiment on superposition; a row is one network read through one dictionary."""

    kind: ClassVar[str] = "superposition_experiment"
    experiment: str = described("which experiment")
    question: str = described("what it asks")
    x_name: str = described("what the horizontal axis is")
    score_name: str = described("what the score is; empty where there is none")
    x: np.ndarray = described("position on the horizontal axis", axes=("rows",))
    group: np.ndarray = described("which curve the row belongs to", axes=("rows",))
    seed: np.ndarray = described("seed of the network", axes=("rows",))
    score: np.ndarray = described("how well the network does its task", axes=("rows",))
    features: np.ndarray = described(
        "effective features F = exp(entropy of activation mass); NaN where nothing fired",
        axes=("rows",),
        unit="features",
    )
    alive: np.ndarray = described("latents that fired at all (Hill order 0)", axes=("rows",))
    participation: np.ndarray = described("participation ratio (Hill order 2)", axes=("rows",))
    psi: np.ndarray = described("F over the layer's width; not calibrated", axes=("rows",))
    fvu: np.ndarray = described("variance the dictionary leaves unexplained", axes=("rows",))
    l0: np.ndarray = described("latents active per row", axes=("rows",))
    width: np.ndarray = described("dimensions of the layer", axes=("rows",))
    extra_names: np.ndarray = described("what else was measured", axes=("extras",))
    extras: np.ndarray = described("values of what else was measured", axes=("extras", "rows"))
    claim: np.ndarray = described("statements tested", axes=("claims",))
    claim_paper: np.ndarray = described("what the paper reports", axes=("claims",))
    claim_estimate: np.ndarray = described("what was measured", axes=("claims",))
    claim_low: np.ndarray = described("lower bound, 95 %", axes=("claims",))
    claim_high: np.ndarray = described("upper bound, 95 %", axes=("claims",))
    claim_verdict: np.ndarray = described(
        "confirmed, not confirmed or undecided, by the interval", axes=("claims",)
    )
    interval: str = described("what the intervals of the claims are over")
    notes: np.ndarray = described("what to know before reading the numbers", axes=("notes",))
    options: str = described("options of the experiment, as JSON")

    def rows_where(self, **wanted: Any) -> np.ndarray:
        """Numbers of the rows with these values, such as `group="width 16"`."""
        keep = np.ones(len(self.x), dtype=bool)
        for name, value in wanted.items():
            keep &= getattr(self, name) == value
        return np.flatnonzero(keep)


COLUMNS = ("features", "alive", "participation", "psi", "fvu", "l0", "width")


def experiment(
    name: str,
    *,
    question: str,
    x_name: str,
    rows: Sequence[Mapping[str, Any]],
    claims: Sequence[Claim],
    interval: str,
    options: Any,
    score_name: str = "",
    notes: Sequence[str] = (),
    extras: Sequence[str] = (),
) -> Experiment:
    """Put rows and claims in the stored form.

    Args:
        name: The experiment.
        question: What it asks.
        x_name: What `x` of the rows is.
        rows: Each has `x`, `group`, `seed`, the fields of `Reading`, and `score` if there is one.
        claims: What was tested.
        interval: What the claims' intervals are over.
        options: Its options, a dataclass.
        score_name: What `score` is.
        extras: Names of further numbers of every row to keep.
        notes: Deviations and conditions; the caveat of the measure is put first.
    """
    numbers = {c: np.array([float(row[c]) for row in rows]) for c in COLUMNS}
    return Experiment(
        experiment=name,
        question=question,
        x_name=x_name,
        score_name=score_name,
        x=np.array([float(row["x"]) for row in rows]),
        group=np.array([str(row["group"]) for row in rows], dtype=str),
        seed=np.array([int(row["seed"]) for row in rows]),
        score=np.array([float(row.get("score", np.nan)) for row in rows]),
        extra_names=np.array(list(extras), dtype=str),
        extras=np.array(
            [[float(row[name]) for row in rows] for name in extras], dtype=float
        ).reshape(len(extras), len(rows)),
        claim=np.array([c.text for c in claims], dtype=str),
        claim_paper=np.array([c.paper for c in claims], dtype=str),
        claim_estimate=np.array([c.estimate for c in claims], dtype=float),
        claim_low=np.array([c.low for c in claims], dtype=float),
        claim_high=np.array([c.high for c in claims], dtype=float),
        claim_verdict=np.array([c.verdict for c in claims], dtype=str),
        interval=interval,
        notes=np.array([CAVEAT, *notes], dtype=str),
        options=json.dumps(dataclasses.asdict(options), sort_keys=True, default=str),
        **numbers,
    )
