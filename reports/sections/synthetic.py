"""The synthetic benchmark: which architecture finds known features."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

MAX_SERIES = 5

_MEASURES = {
    "absorption": ("absorption", "Do children swallow their parents?", "none"),
    "matched_cosine": ("matched cosine", "Are the true features found?", "all"),
    "hierarchical_mse": ("cross-level error", "Are levels kept apart?", "kept"),
    "l0": ("latents a row (L0)", "At which sparsity?", ""),
}
"""Axis title and question per measure."""


def sae_synthetic(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_synthetic`."""
    by_rho = stored.protocol == "tree"
    axis = "cosine within a level" if by_rho else "mean value of children"
    at = stored.rho if by_rho else stored.child_mean
    names = list(dict.fromkeys(str(name) for name in stored.architecture))
    seeds = len(np.unique(stored.seed))
    means = {name: float(stored.absorption[stored.architecture == name].mean()) for name in names}
    order = sorted(names, key=means.__getitem__)
    figures = []
    for key in _MEASURES:
        figures.append(_figure(stored, key, axis, at, order[:MAX_SERIES], 1))
        if len(order) > MAX_SERIES:
            figures.append(_figure(stored, key, axis, at, order[MAX_SERIES:], 2))
    figures.append(_table(stored, axis, at))
    least, most = order[0], order[-1]
    where = "On known hierarchical features" if by_rho else "Where children are weak"
    return Section(
        id=stored.name,
        title="Known features" if by_rho else "Absorption of weak children",
        chapter="Features",
        intro=(
            "Twenty known features, parents and children; atoms of one level may correlate, levels are "
            "orthogonal (arXiv 2506.03093). A dictionary that absorbs writes a parent's direction into "
            "its children; absorption is the mean cosine of a learned child with its true parent."
        ),
        figures=tuple(figures),
        verdict=(
            f"{where} {label(least)} absorbs least (mean {means[least]:.2f}), "
            f"{label(most)} most ({means[most]:.2f}); {seeds} seeds each."
        ),
    )


def absorption_figure(stored: Stored) -> Figure:
    """Absorption of the five architectures that absorb least, as a picture of its own."""
    means = _means(stored)
    order = sorted(means, key=means.__getitem__)
    return _figure(stored, "absorption", *_axis(stored), order[:MAX_SERIES], 1)


def _axis(stored: Stored) -> tuple[str, np.ndarray]:
    """What the study varies: its title and each cell's value."""
    if stored.protocol == "tree":
        return "cosine within a level", stored.rho
    return "mean value of children", stored.child_mean


def _means(stored: Stored) -> dict[str, float]:
    """Mean absorption of each architecture."""
    names = dict.fromkeys(str(name) for name in stored.architecture)
    return {name: float(stored.absorption[stored.architecture == name].mean()) for name in names}


def _figure(
    stored: Stored, key: str, axis: str, at: np.ndarray, names: list[str], part: int
) -> Figure:
    title, question, _ = _MEASURES[key]
    values = stored.values[key]
    rows, table = [], {"architecture": [], axis: [], title: [], "lowest": [], "highest": []}
    for name in names:
        for where in np.unique(at):
            here = values[(stored.architecture == name) & (at == where)]
            if not len(here):
                continue
            cells = (
                label(name),
                float(where),
                float(here.mean()),
                float(here.min()),
                float(here.max()),
            )
            for column, value in zip(table, cells, strict=True):
                table[column].append(value)
            rows += as_rows(
                **dict(
                    zip(
                        ("architecture", axis, title, "low", "high"),
                        ([v] for v in cells),
                        strict=True,
                    )
                )
            )
    seeds = len(np.unique(stored.seed))
    more = "" if part == 1 else " (the other architectures)"
    return Figure(
        id=f"{stored.name}-{key.replace('_', '-')}-{part}",
        question=question + more,
        reading="; ".join(
            f"{label(name)}: {values[stored.architecture == name].mean():.2f}" for name in names
        )
        + " on average.",
        chart=lines(rows, x=axis, y=title, series="architecture", band=("low", "high")),
        data=table,
        n=f"{seeds} seeds, {int(stored.n_steps.max())} steps each",
        interval="band from the lowest to the highest seed",
        source=f"{stored.source}/{key}",
    )


def _table(stored: Stored, axis: str, at: np.ndarray) -> Figure:
    return Figure(
        id=f"{stored.name}-cells",
        question="What did every training come to?",
        reading=f"{len(stored.seed)} trainings, {stored.seconds.sum() / 60:.1f} minutes in all; "
        f"matched cosine {stored.matched_cosine.min():.3f} to {stored.matched_cosine.max():.3f}.",
        data={
            "architecture": [label(str(name)) for name in stored.architecture],
            axis: at.tolist(),
            "seed": stored.seed.tolist(),
            "matched cosine": stored.matched_cosine.tolist(),
            "flat error": stored.flat_mse.tolist(),
            "cross-level error": stored.hierarchical_mse.tolist(),
            "absorption": stored.absorption.tolist(),
            "children found": stored.children_found.tolist(),
            "L0": stored.l0.tolist(),
            "FVU": stored.fvu.tolist(),
            "F1": stored.f1.tolist(),
            "time (s)": stored.seconds.tolist(),
        },
        n="one row per training",
        source=stored.source,
    )
