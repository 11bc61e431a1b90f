"""One decoder for many subjects."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, dots, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def subjects(stored: Stored, context: Context) -> Section:
    """Section of the result kind `subjects`."""
    names = [label(str(name)) for name in stored.subjects]
    n = f"{stored.n_test} test items, the same for all of {len(names)} subjects"
    means = stored.read[:, :, 0, 0].mean(1)
    methods = [str(method) for method in stored.methods]
    return Section(
        id=stored.name,
        title="One decoder for many subjects",
        chapter="Other results",
        intro=(
            f"Subjects: {label(stored.what)}. A bridge (arXiv 2404.07850) gives each subject a port "
            "of its own and all of them one translator to meaning. Two-way identification is the "
            "share of other items that a reading resembles less than its own; chance is one half. "
            f"A probe tells the subject from the shared embedding {stored.subject_told:.0%} of the "
            f"time ({stored.subject_chance:.0%} by guessing)."
        ),
        figures=(
            _read(stored, methods, names, n),
            _joined(stored, n),
            _synthesis(stored, names, n),
        ),
        verdict=(
            f"One decoder for {len(names)} subjects identifies {means[methods.index('bridge')]:.0%} "
            f"of item pairs, a decoder each {means[methods.index('alone')]:.0%}, ridge regressions "
            f"{means[methods.index('ridge')]:.0%}."
        ),
    )


def _read(stored: Stored, methods: list[str], names: list[str], n: str) -> Figure:
    two_way = stored.read[:, :, 0]
    rows = as_rows(
        way=[
            f"{method}, {name}" for name in names for method in methods
        ],
        **{"two-way identification": two_way[:, :, 0].T.ravel()},
        low=two_way[:, :, 1].T.ravel(),
        high=two_way[:, :, 2].T.ravel(),
    )  # fmt: skip
    best = two_way[:, :, 0].mean(1)[:-1].argmax()
    data: dict[str, list[Any]] = {
        "subject": [name for name in names for _ in methods],
        "way": methods * len(names),
    }
    for k, metric in enumerate(stored.metrics):
        data[str(metric)] = stored.read[:, :, k, 0].T.ravel().tolist()
    return Figure(
        id=f"{stored.name}-read",
        question="Does one decoder read as well as a decoder each?",
        reading=f"On average {methods[best]} reads best, with {two_way[best, :, 0].mean():.1%}.",
        chart=dots(rows, y="way", x="two-way identification", low="low", high="high"),
        data=data,
        n=n,
        interval="95 % bootstrap over items",
        source=f"{stored.source}/read",
    )


def _joined(stored: Stored, n: str) -> Figure:
    ways = [str(way) for way in stored.joining]
    two_way = stored.joined[:, :, 0]
    rows = as_rows(
        items=np.tile(stored.n_few, len(ways)),
        **{"two-way identification": two_way[:, :, 0].ravel()},
        low=two_way[:, :, 1].ravel(),
        high=two_way[:, :, 2].ravel(),
        way=np.repeat(ways, len(stored.n_few)),
    )
    fewest = two_way[:, 0, 0]
    return Figure(
        id=f"{stored.name}-joined",
        question="How few items does a new subject need?",
        reading=f"With {stored.n_few[0]} items {label(stored.newcomer)} reaches {fewest[0]:.1%} by "
        f"joining, {fewest[1]:.1%} from scratch, {fewest[2]:.1%} by ridge regression.",
        chart=lines(
            rows, x="items", y="two-way identification", series="way", band=("low", "high")
        ),
        data={"way": [way for way in ways for _ in stored.n_few]}
        | {"items": np.tile(stored.n_few, len(ways)).tolist()}
        | {
            str(metric): stored.joined[:, :, k, 0].ravel().tolist()
            for k, metric in enumerate(stored.metrics)
        },
        n=n,
        interval="95 % bootstrap over items",
        source=f"{stored.source}/joined",
    )


def _synthesis(stored: Stored, names: list[str], n: str) -> Figure:
    count, ways = len(names), [str(way) for way in stored.building]
    off = ~np.eye(count, dtype=bool)
    between = stored.synthesis[:, off]
    rows = as_rows(
        source=np.repeat(names, count),
        target=np.tile(names, count),
        **{"R²": stored.synthesis[0].ravel()},
    )
    data: dict[str, list[Any]] = {
        "source": np.repeat(names, count).tolist(),
        "target": names * count,
    }
    for way, table in zip(ways, stored.synthesis, strict=True):
        data[way] = table.ravel().tolist()
    others = "; ".join(
        f"{way} {value:.0%}" for way, value in zip(ways[1:], between.mean(1)[1:], strict=True)
    )
    return Figure(
        id=f"{stored.name}-synthesis",
        question="Can one subject's signals be built from another's?",
        reading=f"Between subjects the bridge explains {between[0].mean():.0%} of the variance "
        f"({others}).",
        chart=heat(rows, x="source", y="target", value="R²"),
        data=data,
        n=f"{n}; second half. Paired ways learn from the first half, the bridge from no shared item",
        source=f"{stored.source}/synthesis",
    )
