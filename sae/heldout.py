"""Which rows of a run dictionaries are judged on, and how many.

Where dictionaries were trained on the run itself but for some documents, they are judged on these and
baselines fitted on the others. Else a quarter of the documents goes to the baselines, and the rest is
what everything is measured on: rows that a dictionary trained on without holding any out among them,
which is told (`SaeComparison.trained_here`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64

from ..probes.errors import OptionError
from ..probes.readings.labels import LABELS
from ..probes.runfile import Run
from ..probes.runfile.activations import Activations
from .documents import source_of_rows, unseen
from .features.build import kept_rows

CHUNK = 4096
FIT_SHARE = 0.25
"""Share of the source documents that baselines are fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOptions:
    """How much to measure."""

    n_rows: int = 32_768
    """Rows that reconstruction and activity are measured on, at most."""
    n_fit_rows: int = 8192
    """Rows that baselines are fitted on, at most."""
    n_loss_tokens: int = 2048
    """Tokens read with each dictionary spliced in; 0 leaves fidelity out."""
    n_geometry_rows: int = 2048
    """Rows of codes kept for co-active geometry and effective rank."""
    probe_label: str | None = None
    """Token labels for sparse probing (`python-class`, `line-start`); None leaves probing out."""
    max_norm_ratio: float | None = 10.0
    """Rows longer than this many medians are left out, as in training; None keeps all. A few massive
    activations hold most of the variance of many residual streams, and training leaves them out."""
    baselines: bool = True
    """Whether principal components and a random decoder of equal L0 are measured too."""
    seed: int = 0
    """Fixes splits and random directions."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if min(self.n_rows, self.n_fit_rows, self.n_geometry_rows) < 2 or self.n_loss_tokens < 0:
            raise OptionError("Numbers of rows must be at least 2, of loss tokens at least 0.")
        if self.max_norm_ratio is not None and self.max_norm_ratio <= 1:
            raise OptionError(f"max_norm_ratio must be above 1, got {self.max_norm_ratio:g}.")
        if self.probe_label is not None and self.probe_label not in LABELS:
            raise OptionError(
                f"probe_label must be one of {', '.join(LABELS)}, got {self.probe_label!r}."
            )


@dataclass(frozen=True)
class HeldOut:
    """Row numbers of a run: what baselines are fitted on, and what everything is measured on."""

    fit: Int64[np.ndarray, " fit"]
    test: Int64[np.ndarray, " test"]
    source: Int64[np.ndarray, " rows"]
    """Number of each row's source document, windows of one document counted as one."""
    kept: Bool[np.ndarray, " rows"]
    judged: frozenset[int]
    """Numbers of all source documents that may be measured on, `test` being cut at a number of rows."""
    n_long: int = 0
    """Rows left out because they are too long, of those that were to be measured."""

    def without_long(self, held: Activations, ratio: float | None) -> HeldOut:
        """The same without rows longer than so many medians of the rows fitted on.

        Args:
            held: The rows of a site.
            ratio: How many; None keeps all.
        """
        if ratio is None or not len(self.fit):
            return self
        fit = _norms(held, self.fit)
        limit = ratio * float(np.median(fit))
        kept = self.kept.copy()
        kept[self.test] &= _norms(held, self.test) <= limit
        n_long = int(self.kept[self.test].sum() - kept[self.test].sum())
        return replace(self, fit=self.fit[fit <= limit], kept=kept, n_long=n_long)


def held_out(
    run: Run, options: EvaluateOptions, trainings: Iterable[Mapping[str, Any]] = ()
) -> HeldOut:
    """Split a run's rows by source document; rows are contiguous within a document.

    Args:
        run: The run file.
        options: How many rows.
        trainings: What each dictionary says of its training (`metadata`).

    Raises:
        OptionError: There are fewer than two documents.
    """
    source = source_of_rows(run)
    n_sources = int(source.max(initial=-1)) + 1
    if n_sources < 2:
        raise OptionError(
            f"{run.path.name} must hold at least 2 documents to be split, it holds {n_sources}."
        )
    is_new = np.ones(len(source), dtype=bool)
    for metadata in trainings:
        is_new &= unseen(run, metadata)
    if is_new.any() and not is_new.all():
        is_fit = ~is_new
    else:
        drawn = np.random.default_rng(options.seed).permutation(n_sources)
        is_fit = np.isin(source, drawn[: max(round(n_sources * FIT_SHARE), 1)])
    kept = kept_rows(run)
    fit = _some(np.flatnonzero(is_fit & kept), options)
    test = np.flatnonzero(~is_fit)
    enough = np.flatnonzero(kept[test].cumsum() >= options.n_rows)
    judged = frozenset(np.unique(source[test]).tolist())
    return HeldOut(fit, test[: enough[0] + 1] if len(enough) else test, source, kept, judged)


def _norms(held: Activations, rows: Int64[np.ndarray, " rows"]) -> Float[np.ndarray, " rows"]:
    pieces = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    return np.concatenate([held.gather(piece).float().norm(dim=1).numpy() for piece in pieces])


def _some(rows: Int64[np.ndarray, " all"], options: EvaluateOptions) -> Int64[np.ndarray, " fit"]:
    """So many rows as baselines need, drawn evenly over the documents."""
    if len(rows) <= options.n_fit_rows:
        return rows
    return np.sort(
        np.random.default_rng(options.seed).choice(rows, options.n_fit_rows, replace=False)
    )
