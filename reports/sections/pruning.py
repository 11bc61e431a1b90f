"""What falls without some experts: loss, massive activations, attention sinks."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def expert_effects(stored: Stored, context: Context) -> Section:
    """Section of the result kind `expert_effects`."""
    names = [label(str(name), longest=None) for name in stored.conditions]
    rows = as_rows(
        condition=names,
        **{"loss (nats)": stored.loss},
        low=np.where(np.isnan(stored.loss_low), stored.loss, stored.loss_low),
        high=np.where(np.isnan(stored.loss_high), stored.loss, stored.loss_high),
    )
    n = f"{stored.n_texts} texts, {stored.n_tokens} predictions per condition"
    loss = Figure(
        id=f"{stored.name}-loss",
        question="What does the model lose without them?",
        reading="; ".join(f"{c}: {v:.2f} nats" for c, v in zip(names, stored.loss, strict=True))
        + ".",
        chart=dots(rows, y="condition", x="loss (nats)", low="low", high="high"),
        data={
            "taken out": names,
            "experts": stored.n_removed.tolist(),
            "loss (nats)": stored.loss.tolist(),
            "low": stored.loss_low.tolist(),
            "high": stored.loss_high.tolist(),
            "perplexity": np.exp(stored.loss).tolist(),
            "repetition": stored.repetition.tolist(),
        },
        n=n,
        interval="95 % bootstrap over texts",
        source=f"{stored.source}/loss",
    )
    figures = [loss, _curve(stored, names, n)]
    if len(stored.attention_layers):
        figures += [_decay(stored, names, n), _sinks(stored, names, n)]
    control = f" With {names[2]} taken out it is {stored.loss[2]:.2f}." if len(names) > 2 else ""
    return Section(
        id=stored.name,
        title="What the super experts hold up",
        chapter="Layers",
        intro=(
            f"Experts are taken out (mode {stored.mode!r}) and the same texts are read again. As many "
            f"random others of the same layers are the control, a mean of {stored.n_draws} draws."
        ),
        figures=tuple(figures),
        verdict=(
            f"Without {names[1]} the loss goes from {stored.loss[0]:.2f} to {stored.loss[1]:.2f} nats "
            f"and the largest activation from {stored.largest[0].max():,.0f} to "
            f"{stored.largest[1].max():,.0f}.{control}"
        ),
    )


def _curve(stored: Stored, names: list[str], n: str) -> Figure:
    ratio = stored.largest / np.maximum(stored.median, 1e-12)
    layers = np.arange(ratio.shape[1])
    rows = as_rows(
        layer=np.tile(layers, len(names)),
        **{"largest / median": ratio.ravel()},
        **{"taken out": np.repeat(names, len(layers))},
    )
    return Figure(
        id=f"{stored.name}-curve",
        question="Do the massive activations go with them?",
        reading="; ".join(f"{c}: at most {r.max():,.0f}" for c, r in zip(names, ratio, strict=True))
        + ".",
        chart=lines(rows, x="layer", y="largest / median", series="taken out", log=True),
        data={"layer": layers.tolist()}
        | {name: row.tolist() for name, row in zip(names, ratio, strict=True)},
        n=n,
        source=f"{stored.source}/largest",
    )


def _decay(stored: Stored, names: list[str], n: str) -> Figure:
    later = list(range(1, len(names)))
    rows = as_rows(
        layer=np.tile(stored.attention_layers, len(later)),
        **{"decay rate": stored.decay[later].ravel()},
        **{"taken out": np.repeat([names[i] for i in later], len(stored.attention_layers))},
    )
    means = [np.nanmean(row) if np.isfinite(row).any() else np.nan for row in stored.decay]
    return Figure(
        id=f"{stored.name}-decay",
        question="Do the attention sinks go with them?",
        reading="Mean decay over layers: "
        + "; ".join(f"{names[i]}: {means[i]:.2f}" for i in later)
        + ".",
        chart=lines(rows, x="layer", y="decay rate", series="taken out"),
        data={
            "layer": stored.attention_layers.tolist(),
            "heads left out": stored.n_ignored_heads.tolist(),
        }
        | {names[i]: stored.decay[i].tolist() for i in later},
        n=n + "; 0 is no change, 1 a vanished sink, negative a sink that grew",
        source=f"{stored.source}/decay",
    )


def _sinks(stored: Stored, names: list[str], n: str) -> Figure:
    n_layers, n_heads = stored.sink_map.shape[1:]
    per_layer = stored.sink_map.mean(2)
    rows = as_rows(
        layer=np.tile(np.repeat(stored.attention_layers, n_heads), 2),
        head=[
            f"{when}, head {h}"
            for when in ("before", "after")
            for _ in range(n_layers)
            for h in range(n_heads)
        ],
        **{"attention to first token": stored.sink_map[:2].ravel()},
    )
    return Figure(
        id=f"{stored.name}-sinks",
        question="Which heads lose their sink?",
        reading=f"Mean attention to the first token: {per_layer[0].mean():.2f} before, "
        f"{per_layer[1].mean():.2f} after.",
        chart=heat(rows, x="layer", y="head", value="attention to first token"),
        data={"layer": stored.attention_layers.tolist()}
        | {name: row.tolist() for name, row in zip(names, per_layer, strict=True)},
        n=n,
        source=f"{stored.source}/sink_map",
    )
