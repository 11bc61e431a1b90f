"""One decoder for many subjects."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, dots, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

MOST_DOTS = 20
"""Dots with their names that a chart can show; more are a heat map."""


def subjects(stored: Stored, context: Context) -> Section:
    """Section of the result kind `subjects`."""
    proper = _proper(stored)
    names, shared = _short([label(str(name), longest=80) for name in stored.subjects], proper)
    n = f"{stored.n_test} test items, the same for all of {len(names)} subjects"
    means = stored.read[:, proper, 0, 0].mean(1)
    methods = [str(method) for method in stored.methods]
    return Section(
        id=stored.name,
        title="One decoder for many subjects",
        chapter="Other results",
        intro=(
            f"Subjects: {label(stored.what)}.{shared} A bridge (arXiv 2404.07850) gives each subject a "
            "port of its own and all of them one translator to meaning. Two-way identification is the "
            "share of other items that a reading resembles less than its own; chance is one half. "
            f"A probe tells the subject from the shared embedding {stored.subject_told:.0%} of the "
            f"time ({stored.subject_chance:.0%} by guessing)." + _controls(names, proper)
        ),
        figures=(
            _read(stored, methods, names, n),
            *_floors(stored, methods, names, n),
            _joined(stored, n),
            _synthesis(stored, names, n),
            *_patched(stored, names),
        ),
        verdict=(
            f"One decoder for {len(names)} subjects identifies {means[methods.index('bridge')]:.0%} "
            f"of item pairs, a decoder each {means[methods.index('alone')]:.0%}, ridge regressions "
            f"{means[methods.index('ridge')]:.0%}."
        ),
    )


def _proper(stored: Stored) -> np.ndarray:
    """Which subjects are no controls; results of older files do not tell."""
    control = stored.values.get("control")
    return np.ones(len(stored.subjects), bool) if control is None else ~np.asarray(control, bool)


def _short(names: list[str], proper: np.ndarray) -> tuple[list[str], str]:
    """Names without what all subjects that are no controls share, and that in words."""
    own = [name for name, is_own in zip(names, proper, strict=True) if is_own]
    models = {name.partition(" ")[0] for name in own if " " in name}
    if len(own) < 2 or len(models) != 1 or not all(" " in name for name in own):
        return names, ""
    model, kinds = models.pop(), {name.rpartition(".")[2] for name in own}
    kind = "." + kinds.pop() if len(kinds) == 1 else ""
    short = [
        name.removeprefix(model).removeprefix(",").strip().removesuffix(kind)
        if name.startswith(model)
        else name
        for name in names
    ]
    sites = f"{kind[1:]} of " if kind else "sites of "
    return short, f" Those that are no controls are {sites}{model}."


def _controls(names: list[str], proper: np.ndarray) -> str:
    controls = [name for name, own in zip(names, proper, strict=True) if not own]
    if not controls:
        return ""
    return f" Controls, which averages leave out: {', '.join(controls)}."


def _read(stored: Stored, methods: list[str], names: list[str], n: str) -> Figure:
    two_way, proper = stored.read[:, :, 0], _proper(stored)
    drawn = two_way[:, proper].transpose(1, 0, 2).reshape(-1, 3)
    own = [name for name, is_own in zip(names, proper, strict=True) if is_own]
    rows = as_rows(
        subject=[name for name in own for _ in methods],
        way=methods * len(own),
        both=[f"{method}, {name}" for name in own for method in methods],
        **{"two-way identification": drawn[:, 0]},
        low=drawn[:, 1],
        high=drawn[:, 2],
    )
    best = two_way[:, proper, 0].mean(1)[:-1].argmax()
    data: dict[str, list[Any]] = {
        "subject": [name for name in names for _ in methods],
        "way": methods * len(names),
    }
    for k, metric in enumerate(stored.metrics):
        data[str(metric)] = stored.read[:, :, k, 0].T.ravel().tolist()
    return Figure(
        id=f"{stored.name}-read",
        question="Does one decoder read as well as a decoder each?",
        reading=f"On average {methods[best]} reads best, with {two_way[best, proper, 0].mean():.1%}.",
        chart=(
            dots(rows, y="both", x="two-way identification", low="low", high="high")
            if len(drawn) <= MOST_DOTS
            else heat(rows, x="way", y="subject", value="two-way identification")
        ),
        data=data,
        n=n,
        interval="95 % bootstrap over items",
        source=f"{stored.source}/read",
        notes=() if proper.all() else ("controls are in the table",),
    )


def _floors(stored: Stored, methods: list[str], names: list[str], n: str) -> list[Figure]:
    """What the bridge reads more than where nothing was learnt."""
    above, floor = stored.values.get("above_floor"), stored.values.get("floor")
    if above is None or floor is None or (floor < 0).all():
        return []
    own = np.flatnonzero(floor >= 0)
    told = above[methods.index("bridge"), own, 0]
    beaten = [names[j] for j, bounds in zip(own, told, strict=True) if bounds[1] > 0]
    which = [f"{names[j]} above {names[int(floor[j])]}" for j in own]
    if len(beaten) == len(own):
        reading = f"The bridge reads each of {len(own)} subjects better than its floor"
    elif beaten:
        reading = f"The bridge reads {len(beaten)} of {len(own)} subjects better than their floor"
    else:
        reading = "The bridge reads no subject better than its floor"
    least = int(told[:, 0].argmin())
    data: dict[str, list[Any]] = {
        "subject": [names[j] for j in own],
        "floor": [names[int(floor[j])] for j in own],
    }
    for k, metric in enumerate(stored.metrics):
        data[f"{metric}, above the floor"] = above[methods.index("bridge"), own, k, 0].tolist()
    return [
        Figure(
            id=f"{stored.name}-floors",
            question="Does training of the subjects matter to what is read?",
            reading=f"{reading}; least by {told[least, 0]:+.1%} ({which[least]}).",
            chart=dots(
                as_rows(
                    subject=which,
                    **{"two-way identification above the floor": told[:, 0]},
                    low=told[:, 1],
                    high=told[:, 2],
                ),
                y="subject",
                x="two-way identification above the floor",
                low="low",
                high="high",
            ),
            data=data,
            n=n,
            interval="95 % bootstrap over documents of the items, of differences item by item",
            source=f"{stored.source}/above_floor",
            notes=("a floor is the same architecture with random weights, else a bag of words",),
        )
    ]


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
    proper = _proper(stored)
    off = ~np.eye(count, dtype=bool) & np.outer(proper, proper)
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


def _patched(stored: Stored, names: list[str]) -> list[Figure]:
    """What states built from other subjects are worth inside the model."""
    recovered = stored.values.get("recovered")
    summary, origins = stored.values.get("patch_summary"), stored.values.get("origins")
    if recovered is None or summary is None or origins is None:
        return []
    targets = np.flatnonzero(np.isfinite(stored.patch_floor[:, 0]))
    pairs = [(i, int(j)) for j in targets for i in range(len(names))]
    shares = np.array([recovered[0, i, j] for i, j in pairs])
    data: dict[str, list[Any]] = {
        "built from": [names[i] for i, _ in pairs],
        "put into": [names[j] for _, j in pairs],
    }
    for w, way in enumerate(stored.patched):
        for b, bound in enumerate(("", ", low", ", high")):
            data[f"recovered, {way}{bound}"] = [float(recovered[w, i, j, b]) for i, j in pairs]
        data[f"lost, {way} (nats)"] = [float(stored.patch_loss[w, i, j, 0]) for i, j in pairs]
    floors = ", ".join(f"{names[j]} {stored.patch_floor[j, 0]:.2f}" for j in targets)
    clipped = ", ".join(f"{names[j]} {stored.patch_clipped[j, 0]:.3f}" for j in targets)
    return [
        Figure(
            id=f"{stored.name}-patched",
            question="Do built states serve a model in place of its own?",
            reading=_worth(
                summary, [str(one) for one in origins], [str(w) for w in stored.patched]
            ),
            chart=dots(
                as_rows(
                    pair=[f"{names[j]} from {names[i]}" for i, j in pairs],
                    **{"cross-entropy recovered": shares[:, 0]},
                    low=shares[:, 1],
                    high=shares[:, 2],
                ),
                y="pair",
                x="cross-entropy recovered",
                low="low",
                high="high",
            ),
            data=data,
            n=f"{stored.n_patched} test items; own state 1, mean state 0",
            interval="95 % bootstrap over documents of the items",
            source=f"{stored.source}/recovered",
            notes=(
                f"nats per position that the mean state loses: {floors}",
                f"that clipping alone loses: {clipped}",
            ),
        )
    ]


def _worth(summary: np.ndarray, origins: list[str], ways: list[str]) -> str:
    """The averages in a sentence; what was not measured is not in it."""
    shares = {
        (way, origin): summary[w, o]
        for w, way in enumerate(ways)
        for o, origin in enumerate(origins)
    }
    others = shares["bridge", "other subjects"]
    if not np.isfinite(others[0]):
        return "There was no other subject to build states from."
    told = (
        f"The bridge's states from other subjects recover {_share(others)} of the cross-entropy that "
        f"mean states lose; a paired ridge's {_share(shares['paired ridge', 'other subjects'])}"
    )
    controls = shares["bridge", "controls"]
    if not np.isfinite(controls[0]):
        return f"{told}."
    if others[1] > controls[2]:
        return f"{told}. Built from controls they recover less, {_share(controls)}."
    if others[2] < controls[1]:
        return f"{told}. Built from controls they recover more, {_share(controls)}."
    return f"{told}. Built from controls they recover as much within the intervals, {_share(controls)}."


def _share(bounds: np.ndarray) -> str:
    if not np.isfinite(bounds[1]):
        return f"{bounds[0]:.0%}"
    return f"{bounds[0]:.0%} ({bounds[1]:.0%} to {bounds[2]:.0%})"
