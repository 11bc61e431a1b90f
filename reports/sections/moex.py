"""MoE-X beside its rivals: how interpretable, at what loss, how evenly loaded."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, dots
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label

SHOWN = {
    "chess": ("coverage", "reconstruction", "loss"),
    "text": ("detection", "loss"),
}
"""Metrics drawn with intervals; the table has all."""
BETTER_BELOW = ("loss", "loss_spliced", "dead", "busiest")
QUESTIONS = {
    "coverage": "Do single features stand for pieces on squares?",
    "reconstruction": "Can the board be read off precise features?",
    "detection": "Can it be told from the tokens where features fire?",
    "loss": "What does it cost in loss?",
}


def moex_comparison(stored: Stored, context: Context) -> Section:
    """Section of the result kind `moex_comparison`."""
    names = [label(str(name), longest=None) for name in stored.contestants]
    metrics = [str(name) for name in stored.metrics]
    shown = [name for name in SHOWN.get(stored.task, ("loss",)) if name in metrics]
    figures = [_intervals(stored, names, metrics, metric) for metric in shown]
    figures.append(_table(stored, names, metrics))
    if stored.champion >= 0 and len(names) > 1:
        figures.append(_ahead(stored, names, metrics, shown))
    if np.isfinite(stored.load).any():
        figures.append(_load(stored, names))
    main = shown[0]
    row = metrics.index(main)
    best = int(np.nanargmax(stored.mean[row]))
    tiles: tuple[Tile, ...] = ()
    if stored.champion >= 0:
        own = stored.mean[row, stored.champion]
        tiles = (
            Tile(
                label=f"MoE-X, {main}",
                value=f"{own:.3f}",
                meaning=f"{label(str(stored.meanings[row]), longest=None)}; mean over seeds.",
                href=f"#{stored.name}-{main}",
            ),
        )
    n_seeds = len(stored.seeds)
    return Section(
        id=stored.name,
        title=f"MoE-X and its rivals: {stored.task}",
        chapter="Layers",
        intro=(
            "Mixtures of ReLU experts, routed by how few of an expert's neurons are expected to fire "
            f"(arXiv 2503.07639), beside models of as many active parameters, on {stored.corpus}: "
            f"{stored.n_steps} steps, {stored.n_tokens:,} tokens, {n_seeds} "
            f"seed{'s' if n_seeds > 1 else ''}. Codes are those of layer {stored.layer}."
        ),
        figures=tuple(figures),
        tiles=tiles,
        verdict=f"Highest {main}: {names[best]}, {stored.mean[row, best]:.3f}."
        + _order(stored, names, metrics, main),
    )


def _order(stored: Stored, names: list[str], metrics: list[str], metric: str) -> str:
    """Whether the paper's order appears."""
    values = stored.mean[metrics.index(metric)]
    at = {name: values[number] for number, name in enumerate(names)}
    dense = [value for name, value in at.items() if name in ("dense, GELU", "dense, ReLU")]
    if not {"MoE-X", "Switch"} <= set(at) or not dense:
        return ""
    holds = at["MoE-X"] > at["Switch"] > max(dense)
    return (
        f" The paper's order (MoE-X, Switch, dense) {'appears' if holds else 'does not appear'} in "
        f"the means: {at['MoE-X']:.3f}, {at['Switch']:.3f}, {max(dense):.3f}."
    )


def _intervals(stored: Stored, names: list[str], metrics: list[str], metric: str) -> Figure:
    row = metrics.index(metric)
    mean, low, high = stored.mean[row], stored.low[row], stored.high[row]
    there = np.flatnonzero(np.isfinite(mean))
    kept = [names[i] for i in there]
    rows = as_rows(
        model=kept,
        **{_titled(metric): mean[there]},
        low=np.where(np.isnan(low), mean, low)[there],
        high=np.where(np.isnan(high), mean, high)[there],
    )
    order = there[np.argsort(mean[there])]
    best, last = (order[0], order[-1]) if metric in BETTER_BELOW else (order[-1], order[0])
    columns = {
        f"seed {int(seed)}": stored.values["values"][row, there, number].tolist()
        for number, seed in enumerate(stored.seeds)
    }
    return Figure(
        id=f"{stored.name}-{metric}",
        question=QUESTIONS.get(metric, f"How do they compare in {metric}?"),
        reading=f"Best is {names[best]} with {mean[best]:.3f}, last {names[last]} with "
        f"{mean[last]:.3f}.",
        chart=dots(rows, y="model", x=_titled(metric), low="low", high="high"),
        data={"model": kept, "mean": mean[there].tolist(), "low": low[there].tolist(),
              "high": high[there].tolist()} | columns,
        n=f"{len(stored.seeds)} seeds",
        interval="95 %, Student's t over seeds" if len(stored.seeds) > 1 else "no interval: one seed",
        source=f"{stored.source}/mean",
        notes=(label(str(stored.meanings[row]), longest=None) + ".",),
    )  # fmt: skip


def _titled(metric: str) -> str:
    """A metric with its unit."""
    return f"{metric} (nats)" if metric.startswith("loss") else metric


def _table(stored: Stored, names: list[str], metrics: list[str]) -> Figure:
    columns = {
        metric: stored.mean[number].tolist()
        for number, metric in enumerate(metrics)
        if np.isfinite(stored.mean[number]).any()
    }
    perplexity = np.exp(stored.mean[metrics.index("loss")]).tolist()
    return Figure(
        id=f"{stored.name}-table",
        question="What is each like in all?",
        reading="; ".join(
            f"{name}: perplexity {value:.3f}" for name, value in zip(names, perplexity, strict=True)
        )
        + ".",
        data={"model": names, "perplexity": perplexity} | columns,
        n=f"means over {len(stored.seeds)} seeds",
        source=f"{stored.source}/values",
        wide=True,
        notes=tuple(
            f"{metric}: {label(str(meaning), longest=None)}"
            for metric, meaning in zip(metrics, stored.meanings, strict=True)
        ),
    )


def _ahead(stored: Stored, names: list[str], metrics: list[str], shown: list[str]) -> Figure:
    others = [i for i in range(len(names)) if i != stored.champion]
    table: dict[str, list] = {"MoE-X minus": [names[i] for i in others]}
    sure = []
    for metric in shown:
        row = metrics.index(metric)
        for part in ("ahead", "ahead_low", "ahead_high"):
            column = stored.values[part][row, others]
            table[metric + {"ahead": "", "ahead_low": ", low", "ahead_high": ", high"}[part]] = (
                column.tolist()
            )
        low, high = stored.ahead_low[row, others], stored.ahead_high[row, others]
        sure.append(f"{metric} {int(((low > 0) | (high < 0)).sum())} of {len(others)}")
    return Figure(
        id=f"{stored.name}-ahead",
        question="How far is MoE-X ahead of each?",
        reading=f"Differences whose interval leaves out 0: {', '.join(sure)}.",
        data=table,
        n=f"{len(stored.seeds)} seeds, paired: models of one seed see the same batches",
        interval="95 %, Student's t over seeds, not corrected for several comparisons",
        source=f"{stored.source}/ahead",
    )


def _load(stored: Stored, names: list[str]) -> Figure:
    mixed = [i for i in range(len(names)) if np.isfinite(stored.load[i]).any()]
    n_experts = stored.load.shape[1]
    busiest = [float(np.nanmax(row) * np.isfinite(row).sum()) for row in stored.load[mixed]]
    rows = as_rows(
        model=[names[i] for i in mixed], **{"busiest expert, times its fair share": busiest}
    )
    return Figure(
        id=f"{stored.name}-load",
        question="Is the load balanced?",
        reading="; ".join(
            f"{names[i]}: {value:.2f}" for i, value in zip(mixed, busiest, strict=True)
        )
        + ".",
        chart=bars(rows, x="model", y="busiest expert, times its fair share"),
        data={"model": [names[i] for i in mixed]}
        | {f"expert {e}": stored.load[mixed, e].tolist() for e in range(n_experts)},
        n=f"layer {stored.layer}, first seed, held-out texts",
        source=f"{stored.source}/load",
    )
