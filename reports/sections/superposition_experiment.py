"""The experiments that test the measure of superposition: claims, curves, fits."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, lines, points
from ..figure import Figure
from ..section import Context, Section, Stored
from ..theme import SERIES
from ..tokens import label

F = "effective features F"
"""What the axes of F are called."""


def superposition_experiment(stored: Stored, context: Context) -> Section:
    """Section of the result kind `superposition_experiment`."""
    title = f"Superposition: {label(str(stored.experiment), longest=40)}"
    verdicts = [str(v) for v in stored.claim_verdict]
    kinds = ("confirmed", "not confirmed", "undecided")
    count = ", ".join(f"{verdicts.count(k)} {k}" for k in kinds if k in verdicts)
    figures = [_claims(stored, count)]
    for number, groups in enumerate(_families(stored)):
        figures.append(_curves(stored, groups, number))
    figures.append(_fits(stored))
    figures += [_extra(stored, i) for i in range(len(stored.extra_names)) if stored.x.size]
    return Section(
        id=stored.name,
        title=title,
        chapter="Features",
        intro=" ".join([str(stored.question), *(str(note) for note in stored.notes)]),
        figures=tuple(figures),
        verdict=f"{title}: {count} of {len(verdicts)} statements." if verdicts else "",
    )


def _claims(stored: Stored, count: str) -> Figure:
    return Figure(
        id=f"{stored.name}-claims",
        question="What does it say about the paper's statements?",
        reading=f"{count or 'Nothing was tested'}"
        + (
            f"; the first, {label(str(stored.claim[0]), longest=None)}: {stored.claim_estimate[0]:.3g} "
            f"({stored.claim_low[0]:.3g} to {stored.claim_high[0]:.3g})."
            if len(stored.claim)
            else "."
        ),
        data={
            "statement": [label(str(text), longest=None) for text in stored.claim],
            "paper": [label(str(text), longest=None) for text in stored.claim_paper],
            "measured": stored.claim_estimate.tolist(),
            "low": stored.claim_low.tolist(),
            "high": stored.claim_high.tolist(),
            "verdict": [label(str(text)) for text in stored.claim_verdict],
        },
        n=f"{len(stored.claim)} statements; {len(stored.x)} dictionaries",
        interval=f"95 %, {label(str(stored.interval), longest=None)}",
        source=f"{stored.source}/claim_estimate",
        wide=True,
    )


def _families(stored: Stored) -> list[list[str]]:
    """Groups by figure: all in one, or one figure per first part of their names."""
    groups = list(dict.fromkeys(str(g) for g in stored.group))
    if len(groups) <= len(SERIES):
        return [groups]
    families: dict[str, list[str]] = {}
    for group in groups:
        families.setdefault(group.partition(",")[0], []).append(group)
    return [family[: len(SERIES)] for family in families.values()]


def _curves(stored: Stored, groups: list[str], number: int) -> Figure:
    """F over the axis, mean and range over seeds; many rows per place are drawn as points."""
    x_name = label(str(stored.x_name), longest=60)
    chosen = np.isin(stored.group.astype(str), groups) & np.isfinite(stored.features)
    means: dict[str, list[float | str]] = {x_name: [], F: [], "low": [], "high": [], "group": []}
    for group in groups:
        mine = chosen & (stored.group.astype(str) == group)
        for x in np.unique(stored.x[mine]):
            values = stored.features[mine & (stored.x == x)]
            row = (x, values.mean(), values.min(), values.max(), label(group, longest=40))
            for column, value in zip(means.values(), row, strict=True):
                column.append(value)
    scattered = stored.experiment == "toy"
    rows = as_rows(**means)
    chart = (
        points(rows, x=x_name, y=F, series="group")
        if scattered
        else lines(rows, x=x_name, y=F, series="group", band=("low", "high"))
    )
    lowest = min(range(len(rows)), key=lambda i: rows[i][F]) if rows else 0
    highest = max(range(len(rows)), key=lambda i: rows[i][F]) if rows else 0
    reading = "No dictionary fired."
    if rows:
        low, high = rows[lowest], rows[highest]
        reading = (
            f"F from {low[F]:.3g} ({low['group']}, {low[x_name]:.3g}) to {high[F]:.3g} "
            f"({high['group']}, {high[x_name]:.3g})."
        )
    return Figure(
        id=f"{stored.name}-features-{number}",
        question=str(stored.question),
        reading=reading,
        chart=chart if rows else None,
        data={name: list(column) for name, column in means.items()},
        n=f"{int(chosen.sum())} dictionaries",
        interval="no interval" if scattered else "band: range over seeds",
        source=f"{stored.source}/features",
    )


def _fits(stored: Stored) -> Figure:
    """Every row with the fit beside which F must be read."""
    fvu = stored.fvu[np.isfinite(stored.fvu)]
    reading = f"FVU from {fvu.min():.3g} to {fvu.max():.3g}." if fvu.size else "No FVU is known."
    return Figure(
        id=f"{stored.name}-fits",
        question="How well do the dictionaries fit?",
        reading=f"{reading} Rows of unlike FVU do not compare.",
        data={
            "group": [label(str(g), longest=40) for g in stored.group],
            label(str(stored.x_name), longest=60): stored.x.tolist(),
            "seed": stored.seed.tolist(),
            label(str(stored.score_name) or "score", longest=60): stored.score.tolist(),
            F: stored.features.tolist(),
            "psi (not calibrated)": stored.psi.tolist(),
            "FVU": stored.fvu.tolist(),
            "L0": stored.l0.tolist(),
            "alive (F_0)": stored.alive.tolist(),
            "participation (F_2)": stored.participation.tolist(),
        }
        | {
            label(str(name), longest=60): values.tolist()
            for name, values in zip(stored.extra_names, stored.extras, strict=True)
        },
        n=f"{len(stored.x)} dictionaries",
        source=stored.source,
    )


def _extra(stored: Stored, number: int) -> Figure:
    """Another measured number beside F."""
    name = label(str(stored.extra_names[number]), longest=60)
    values = stored.extras[number]
    finite = np.isfinite(values) & np.isfinite(stored.features)
    rows = as_rows(**{name: values[finite], F: stored.features[finite]})
    varied = finite.sum() > 2 and np.ptp(values[finite]) > 0 and np.ptp(stored.features[finite]) > 0
    r = np.corrcoef(values[finite], stored.features[finite])[0, 1] if varied else np.nan
    return Figure(
        id=f"{stored.name}-extra-{number}",
        question=f"How does F go with {name}?",
        reading=f"Correlation over all rows: {r:.2f}."
        if np.isfinite(r)
        else "Too little varies for a correlation.",
        chart=points(rows, x=name, y=F) if rows else None,
        data={name: values[finite].tolist(), F: stored.features[finite].tolist()},
        n=f"{int(finite.sum())} dictionaries",
        source=f"{stored.source}/extras",
    )
