"""The index of a dictionary's features: a table that sorts and filters; how often, how strongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, points
from ..figure import Figure, cell
from ..section import Context, Stored

DENSE = 0.1
"""Share of rows above which a feature counts as dense."""
KEYS = {
    "feature": "id", "fires on": "density", "largest": "max", "mean where it fires": "mean",
    "by": "logit", "cosine": "cosine", "nearest": "nearest",
}  # fmt: skip
"""What columns are called in the filter."""


def index(stored: Stored, context: Context) -> Figure:
    """All listed features, each with a link to its card where it has one."""
    data = _columns(stored, context)
    dense = int((stored.listed_density > DENSE).sum())
    busiest = int(np.argmax(stored.listed_density))
    carded = {int(feature) for feature in stored.features}
    columns = [
        {"title": title, "key": KEYS.get(title, ""), "numeric": title in KEYS} for title in data
    ]
    rows = [
        [
            {
                "text": cell(value),
                "value": repr(value) if title in KEYS else None,
                "href": f"{stored.name}-{value}-contexts"
                if title == "feature" and value in carded
                else "",
            }
            for title, value in zip(data, row, strict=True)
        ]
        for row in zip(*data.values(), strict=True)
    ]
    return Figure(
        id=f"{stored.name}-index",
        question="Which features are there?",
        reading=f"Of {len(stored.listed)} listed, {dense} fire on more than a tenth of the rows; "
        f"feature {int(stored.listed[busiest])} fires most often, on "
        f"{stored.listed_density[busiest]:.2%}.",
        html=context.macros("features.html.j2", "index", {"columns": columns, "rows": rows}),
        data=data,
        n=f"{stored.n_rows:,} rows; {len(stored.listed)} of {stored.d_sae} features",
        source=f"{stored.source}/listed",
        notes=(
            "Headers sort. The filter takes words, and comparisons by "
            + ", ".join(KEYS[title] for title in data if title in KEYS)
            + " (density>0.01).",
        ),
        wide=True,
    )


def _columns(stored: Stored, context: Context) -> dict[str, list[Any]]:
    """The table's columns; those on logits only where logits were read."""
    named = [context.token(t) if t >= 0 else "" for t in stored.listed_top_ids]
    data: dict[str, list[Any]] = {
        "feature": stored.listed.tolist(),
        "fires on": stored.listed_density.tolist(),
        "largest": stored.listed_max.astype(float).tolist(),
        "mean where it fires": stored.listed_mean.tolist(),
        "strongest on": named,
    }
    if (stored.listed_logit_ids >= 0).any():
        data["raises most"] = [context.token(t) if t >= 0 else "" for t in stored.listed_logit_ids]
        data["by"] = stored.listed_logit.tolist()
    data["nearest"] = stored.listed_neighbour.tolist()
    data["cosine"] = stored.listed_cosine.tolist()
    data["is"] = [_flag(float(density)) for density in stored.listed_density]
    return data


def _flag(density: float) -> str:
    if density == 0:
        return "dead"
    return "dense" if density > DENSE else ""


def frequencies(stored: Stored) -> list[Figure]:
    """How often against how strongly the listed features fire; nothing where none fires."""
    fires = stored.listed_density > 0
    if not fires.any():
        return []
    often, strong = stored.listed_density[fires], stored.listed_max[fires].astype(float)
    across, up = "log10 of the share of rows it fires on", "largest activation"
    rows = as_rows(**{across: np.log10(often), up: strong})
    varied = len(often) > 2 and np.ptp(often) > 0 and np.ptp(strong) > 0
    ranks = np.array([np.argsort(np.argsort(column)) for column in (often, strong)])
    alike = (
        f"rank correlation {np.asarray(np.corrcoef(ranks))[0, 1]:.2f}"
        if varied
        else "too few for a rank correlation"
    )
    return [
        Figure(
            id=f"{stored.name}-frequencies",
            question="Do features that fire often fire strongly?",
            reading=f"{len(often)} listed features fire, on {often.min():.2g} to "
            f"{often.max():.2g} of the rows; how often and how strongly: {alike}.",
            chart=points(rows, x=across, y=up),
            data={
                "feature": stored.listed[fires].tolist(),
                "fires on": often.tolist(),
                "largest": strong.tolist(),
            },
            n=f"{stored.n_rows:,} rows; listed features",
            source=f"{stored.source}/listed_max",
        )
    ]
