"""Information: what layers hold of the tokens to come, and why drafting works."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..theme import HEIGHT, SERIES, WIDTH
from ..tokens import label
from .estimates import CHAPTER, INTERVAL, bounded_columns, in_words


def flow(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_flow`."""
    best = int(np.nanargmax(stored.surplus[:, 0]))
    figures = (
        _futures(stored),
        _surplus(stored),
        _drafting(stored),
        _depths(stored),
        _others(stored),
    )
    return Section(
        id=stored.name,
        title="Information flow and drafting",
        chapter=CHAPTER,
        intro="Usable information of each layer about the tokens to come, on documents not trained on. "
        "It is that of a family of predictors, so it may grow with depth; Shannon information is the "
        "same at every layer of a real model. " + label(str(stored.family), longest=400) + ".",
        figures=figures,
        verdict=f"Beyond the next token, layer {int(stored.layers[best])} holds most: "
        f"{in_words(stored.surplus[best])} nats once W0 is known, and a draft head on it matches "
        f"{stored.acceptance[best, 0]:.0%} of the model's next choices.",
        warnings=tuple(label(str(line), longest=400) for line in stored.refusals),
    )


def _futures(stored: Stored) -> Figure:
    n_futures = min(stored.futures.shape[1], len(SERIES))
    rows = [
        row
        for k in range(n_futures)
        for row in as_rows(
            layer=stored.layers, nats=stored.futures[:, k, 0], low=stored.futures[:, k, 1],
            high=stored.futures[:, k, 2], about=[f"W{k}"] * len(stored.layers),
        )
    ]  # fmt: skip
    data: dict[str, Any] = {"layer": stored.layers.tolist()}
    for k in range(stored.futures.shape[1]):
        data |= bounded_columns(f"W{k}", stored.futures[:, k])
    last = stored.futures[-1, :, 0]
    return Figure(
        id=f"{stored.name}-futures",
        question="What does each layer say of the tokens to come?",
        reading=f"Layer {int(stored.layers[-1])}: {last[0]:.2f} nats about W0, {last[1]:.2f} about W1, "
        f"at layer {int(stored.layers[0])} {stored.futures[0, 0, 0]:.2f} and "
        f"{stored.futures[0, 1, 0]:.2f}.",
        chart=lines(rows, x="layer", y="nats", series="about", band=("low", "high")),
        data=data,
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/futures",
        notes=(f"tokens merged into {int(stored.n_classes):,} classes",),
    )


def _surplus(stored: Stored) -> Figure:
    curves = {"draft head": stored.surplus, "additive probe": stored.additive}
    rows = [
        row
        for name, curve in curves.items()
        for row in as_rows(layer=stored.layers, nats=curve[:, 0], low=curve[:, 1],
                           high=curve[:, 2], family=[name] * len(curve))
    ]  # fmt: skip
    data: dict[str, Any] = {"layer": stored.layers.tolist()}
    for name, curve in curves.items():
        data |= bounded_columns(name, curve)
    return Figure(
        id=f"{stored.name}-surplus",
        question="What does a state add once the next token is known?",
        reading=f"At the last layer {in_words(stored.surplus[-1])} nats for a draft head, "
        f"{in_words(stored.additive[-1])} for an additive probe, which cannot see synergy.",
        chart=lines(rows, x="layer", y="nats", series="family", band=("low", "high")),
        data=data,
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/surplus",
        notes=tuple(label(str(line), longest=400) for line in stored.verdicts),
    )


def _drafting(stored: Stored) -> Figure:
    """Surplus across, acceptance up, an interval each way, layers named."""
    rows = as_rows(
        layer=[f"layer {layer}" for layer in stored.layers],
        **{"surplus (nats)": stored.surplus[:, 0], "accepted": stored.acceptance[:, 0]},
        left=stored.surplus[:, 1], right=stored.surplus[:, 2],
        low=stored.acceptance[:, 1], high=stored.acceptance[:, 2],
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=rows), width=WIDTH, height=HEIGHT)
    scale = alt.Scale(zero=False)
    few = alt.Axis(tickCount=6)
    across = alt.X(
        field="surplus (nats)", type="quantitative", title="surplus (nats)", scale=scale, axis=few
    )
    up = alt.Y(field="accepted", type="quantitative", title="share accepted", scale=scale)
    wide = base.mark_rule(color=SERIES[0], opacity=0.6).encode(
        alt.X(field="left", type="quantitative", title="surplus (nats)", scale=scale, axis=few),
        alt.X2(field="right"), up,
    )  # fmt: skip
    tall = base.mark_rule(color=SERIES[0], opacity=0.6).encode(
        across, alt.Y(field="low", type="quantitative", title="share accepted", scale=scale),
        alt.Y2(field="high"),
    )  # fmt: skip
    dot = base.mark_point(filled=True, size=60, color=SERIES[0], opacity=1).encode(across, up)
    name = base.mark_text(align="left", dx=7, dy=-6, color="currentColor").encode(
        across, up, alt.Text(field="layer", type="nominal")
    )
    blind = stored.depth_blind[0]
    return Figure(
        id=f"{stored.name}-drafting",
        question="Why does drafting work here?",
        reading=f"Over layers, surplus and acceptance rank alike by {stored.rank_correlation:.2f} "
        f"(Spearman); without a state a head matches {blind[0]:.0%}, with the last layer's "
        f"{stored.acceptance[-1, 0]:.0%}, and {stored.coverage:.0%} could be named at all.",
        chart=alt.layer(wide, tall, dot, name),
        data={"layer": stored.layers.tolist()}
        | bounded_columns("surplus", stored.surplus)
        | bounded_columns("accepted", stored.acceptance),
        n=_counted(stored),
        interval=INTERVAL,
        alt="Surplus of each layer against the acceptance of a draft head trained on it",
        source=f"{stored.source}/acceptance",
        notes=("accepted: the head's first choice for W1, W0 known, is the model's greedy choice",),
    )


def _depths(stored: Stored) -> Figure:
    depths = [f"W{k}" for k in stored.depth]
    rows = as_rows(token=depths, nats=stored.depth_surplus[:, 0], low=stored.depth_surplus[:, 1],
                   high=stored.depth_surplus[:, 2])  # fmt: skip
    return Figure(
        id=f"{stored.name}-depths",
        question="How far ahead does the last layer see?",
        reading="Surplus by depth, tokens before it known: "
        + ", ".join(
            f"{name} {row[0]:.2f} nats"
            for name, row in zip(depths, stored.depth_surplus, strict=True)
        )
        + ".",
        chart=dots(rows, y="token", x="nats", low="low", high="high"),
        data={"token": depths}
        | bounded_columns("surplus", stored.depth_surplus)
        | bounded_columns("accepted", stored.depth_acceptance)
        | bounded_columns("accepted without state", stored.depth_blind),
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/depth_surplus",
    )


def _others(stored: Stored) -> Figure:
    rows = [
        ("E3c cluster table, W0", stored.cluster_next[-1], "coarse classes"),
        ("E3c cluster table, surplus", stored.cluster_surplus[-1], "coarse classes"),
        ("E4 matrix Rényi, W0", stored.renyi_next[-1], "trend only; groups"),
        ("E5 InfoNCE, W0", stored.contrastive, f"at most {stored.contrastive_cap:.2f}; groups"),
        (
            "E3a model's world, surplus", stored.model_surplus,
            (f"{int(stored.model_surplus_classes)} classes, W0 read covers "
            f"{stored.model_surplus_covered:.0%}, at most {stored.model_surplus_cap:.2f}"),
        ),
        ("control: W0, states of other rows", stored.control_next, "should not exceed 0"),
        ("control: surplus, states of other rows", stored.control_surplus, "should not exceed 0"),
    ]  # fmt: skip
    return Figure(
        id=f"{stored.name}-estimators",
        question="What do other estimators and the controls say?",
        reading=f"At the last layer; with states of other rows information about W0 is "
        f"{in_words(stored.control_next)} nats.",
        data={
            "estimator": [name for name, _, _ in rows],
            "nats": [float(value[0]) for _, value, _ in rows],
            "low": [float(value[1]) for _, value, _ in rows],
            "high": [float(value[2]) for _, value, _ in rows],
            "note": [note for _, _, note in rows],
        },
        n=_counted(stored),
        interval=f"{INTERVAL}, or over groups of rows where the note says so",
        source=stored.source,
    )


def _counted(stored: Stored) -> str:
    return (
        f"{int(stored.n_train):,} tokens trained on, {int(stored.n_test):,} tested on in "
        f"{int(stored.n_test_documents)} documents"
    )
