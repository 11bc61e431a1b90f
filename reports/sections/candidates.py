"""Super experts put to the test: what each costs, whatever the text, and at fewer bits."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def expert_confirmation(stored: Stored, context: Context) -> Section:
    """Section of the result kind `expert_confirmation`."""
    names = [_name(*pair) for pair in stored.experts]
    n_random = stored.random.shape[1]
    rows = as_rows(
        expert=names,
        **{"loss added (nats)": stored.alone},
        low=stored.random.min(1),
        high=stored.random.max(1),
    )
    confirmed = [name for name, sure in zip(names, stored.confirmed, strict=True) if sure]
    reading = (
        f"{len(confirmed)} of {len(names)} cost more than every random other of their layer; all "
        f"together cost {stored.together:.3f} nats, as many random others "
        f"{stored.random_together.mean():.3f}."
    )
    figure = Figure(
        id=f"{stored.name}-alone",
        question="What does each candidate cost?",
        reading=reading,
        chart=dots(rows, y="expert", x="loss added (nats)", low="low", high="high"),
        data={
            "expert": names,
            "loss added": stored.alone.tolist(),
            "most of a random other": stored.random.max(1).tolist(),
            "mean of random others": stored.random.mean(1).tolist(),
            "confirmed": ["yes" if sure else "no" for sure in stored.confirmed],
        },
        n=f"{stored.n_texts} texts, {stored.n_tokens} predictions per measurement",
        interval=f"lines: range of {n_random} random others of the same layer, not an interval",
        source=f"{stored.source}/alone",
    )
    return Section(
        id=stored.name,
        title="Candidates confirmed",
        chapter="Layers",
        intro=(
            "A large output alone proves nothing: each candidate is taken out (mode "
            f"{stored.mode!r}), alone and with the others. One that is no different from the others of "
            f"its layer passes by chance once in {n_random + 1}."
        ),
        figures=(figure,),
        verdict=reading,
    )


def expert_agnosticism(stored: Stored, context: Context) -> Section:
    """Section of the result kind `expert_agnosticism`."""
    corpora = [label(str(name), longest=60) for name in stored.corpora]
    names = [_name(*pair) for pair in stored.experts]
    everywhere = int(stored.found.all(0).sum()) if len(names) else 0
    n = len(corpora)
    least = stored.jaccard[~np.eye(n, dtype=bool)].min() if n > 1 else 1.0
    reading = (
        f"{everywhere} of {len(names)} are found on all {n} corpora; the least overlap of two lists "
        f"is {least:.2f}."
    )
    figure = Figure(
        id=f"{stored.name}-table",
        question="Does every text find the same experts?",
        reading=reading,
        data={"expert": names}
        | {
            name: [
                f"{value:,.4g}{'' if found else ' (not super)'}"
                for value, found in zip(maxima, which, strict=True)
            ]
            for name, maxima, which in zip(corpora, stored.maxima, stored.found, strict=True)
        },
        n="; ".join(f"{c}: {int(t)} tokens" for c, t in zip(corpora, stored.n_tokens, strict=True)),
        source=f"{stored.source}/found",
        notes=("Cells are the largest output on that text.",),
    )
    return Section(
        id=stored.name,
        title="Super experts, whatever the text",
        chapter="Layers",
        intro="The same criterion on several corpora (arXiv 2507.23279 finds the same experts).",
        figures=(figure,),
        verdict=reading,
    )


def expert_quantisation(stored: Stored, context: Context) -> Section:
    """Section of the result kind `expert_quantisation`."""
    names = ", ".join(_name(*pair) for pair in stored.experts[:4])
    random = (
        stored.random_loss.mean(1) if stored.random_loss.size else np.full(len(stored.bits), np.nan)
    )
    rows = as_rows(
        bits=np.tile(stored.bits, 2),
        **{"loss (nats)": np.concatenate([stored.loss, random])},
        rounded=np.repeat(["super experts", "random others"], len(stored.bits)),
    )
    decay, other = (
        [float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for row in table]
        for table in (stored.decay, stored.random_decay)
    )
    fewest = int(np.argmin(stored.bits))
    reading = (
        f"At {int(stored.bits[fewest])} bits the loss goes from {stored.baseline:.3f} to "
        f"{stored.loss[fewest]:.3f} with {names} rounded, to {random[fewest]:.3f} with random others."
    )
    figure = Figure(
        id=f"{stored.name}-loss",
        question="Do they bear fewer bits?",
        reading=reading,
        chart=lines(rows, x="bits", y="loss (nats)", series="rounded"),
        data={
            "bits": stored.bits.tolist(),
            "loss, super experts": stored.loss.tolist(),
            "low": stored.loss_low.tolist(),
            "high": stored.loss_high.tolist(),
            "loss, random others": random.tolist(),
            "sink decay, super experts": decay,
            "sink decay, random others": other,
            "largest activation": stored.largest.tolist(),
            "relative error of weights": stored.weight_error.tolist(),
        },
        n=f"{stored.n_texts} texts, {stored.n_tokens} predictions; "
        f"{stored.random_loss.shape[1]} draws of random others",
        interval="95 % bootstrap over texts (super experts)",
        source=f"{stored.source}/loss",
    )
    return Section(
        id=stored.name,
        title="Super experts at fewer bits",
        chapter="Layers",
        intro=(
            f"Weights of some experts rounded: {stored.method}. The paper (arXiv 2507.23279) has no "
            "such experiment."
        ),
        figures=(figure,),
        verdict=reading,
    )


def _name(layer: int | np.integer, expert: int | np.integer) -> str:
    return f"L{int(layer)} " + ("shared" if expert < 0 else f"E{int(expert)}")
