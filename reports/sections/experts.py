"""Experts: whose output dwarfs all others', and what falls without them."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, dots, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label

MAX_CELLS = 1600


def expert_profile(stored: Stored, context: Context) -> Section:
    """Section of the result kind `expert_profile`."""
    chosen = np.flatnonzero(stored.ranked_super)
    named = [_name(stored.ranked_layer[i], stored.ranked_expert[i]) for i in chosen]
    verdict = "No expert qualifies as super."
    if len(chosen):
        top = chosen[0]
        verdict = (
            f"{len(chosen)} of {stored.n_population} experts compared are super: "
            f"{', '.join(named[:6])}; the largest output is {abs(stored.ranked_value[top]):,.0f} in "
            f"dimension {int(stored.ranked_channel[top])} at position "
            f"{int(stored.ranked_position[top])}."
        )
    bounded = (
        f"The {stored.quantile:g} percentile of {stored.n_population} experts lets at most "
        f"{stored.n_selectable} qualify."
    )
    return Section(
        id=stored.name,
        title="Super experts",
        chapter="Layers",
        intro=(
            "A few experts may write outputs far beyond all others' and with them the model's massive "
            f"activations (arXiv 2507.23279). An expert qualifies whose largest output exceeds the "
            f"{stored.quantile:g} percentile ({stored.percentile:,.3g}) and a share of 1/"
            f"{stored.ratio:g} of the largest ({stored.fraction_of_max:,.3g}); population and layers "
            f"as in the variant {stored.variant!r}. Outputs are taken before the gate weight."
        ),
        figures=(
            _maxima(stored), _ranked(stored, context), _tail(stored), _load(stored),
        ),
        tiles=(
            Tile(
                label="super experts",
                value=str(len(chosen)),
                meaning="Experts whose largest output passes both bounds of the criterion.",
                href=f"#{stored.name}-ranked",
            ),
        ),
        verdict=verdict,
        warnings=(bounded,) if stored.n_selectable < 5 else (),
    )  # fmt: skip


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
        reading="; ".join(f"{c}: {v:.2f} nats" for c, v in zip(names, stored.loss, strict=True)),
        chart=dots(rows, y="condition", x="loss (nats)", low="low", high="high"),
        data={
            "taken out": names,
            "experts": stored.n_removed.tolist(),
            "loss (nats)": stored.loss.tolist(),
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


def _name(layer: int | np.integer, expert: int | np.integer) -> str:
    return f"L{int(layer)} " + ("shared" if expert < 0 else f"E{int(expert)}")


def _maxima(stored: Stored) -> Figure:
    """Heat map of maxima; many experts are binned, each cell the largest of its bin."""
    columns = np.arange(stored.maxima.shape[1] - (0 if stored.has_shared.any() else 1))
    values = stored.maxima[:, columns]
    width = max(MAX_CELLS // len(values), 1)
    step = -(-len(columns) // width)
    starts = columns[::step]
    cells = np.maximum(np.stack([values[:, s : s + step].max(1) for s in starts], axis=1), 1e-6)
    rows = as_rows(
        layer=np.repeat(stored.layers, len(starts)),
        expert=np.tile(starts, len(values)),
        **{"largest output": cells.ravel()},
    )
    top = np.unravel_index(values.argmax(), values.shape)
    notes = () if step == 1 else (f"Each cell is the largest of {step} experts.",)
    return Figure(
        id=f"{stored.name}-maxima",
        question="Which experts write large outputs?",
        reading=(
            f"The largest is {values.max():,.3g} (layer {stored.layers[top[0]]}); half of all experts "
            f"stay below {np.median(values):,.3g}."
        ),
        chart=heat(rows, x="expert", y="layer", value="largest output", log=True),
        data={"layer": stored.layers.tolist()}
        | {_column(stored, c): stored.maxima[:, c].tolist() for c in columns},
        n=f"{stored.n_texts} texts, {stored.n_tokens} tokens",
        source=f"{stored.source}/maxima",
        notes=notes,
    )


def _column(stored: Stored, column: int | np.integer) -> str:
    return "shared" if column == stored.n_experts else f"expert {int(column)}"


def _ranked(stored: Stored, context: Context) -> Figure:
    known = [context.token(t) if t >= 0 else "?" for t in stored.ranked_token]
    names = [_name(a, b) for a, b in zip(stored.ranked_layer, stored.ranked_expert, strict=True)]
    reading = "No expert wrote anything."
    if len(names):
        share = stored.ranked_contributions[0, 0] / (stored.ranked_value[0] or 1.0)
        reading = (
            f"{names[0]} writes {stored.ranked_value[0]:,.0f}; its neuron "
            f"{int(stored.ranked_neurons[0, 0])} adds {share:.0%} of that."
        )
    return Figure(
        id=f"{stored.name}-ranked",
        question="Who are they, and where do they write?",
        reading=reading,
        data={
            "expert": names,
            "super": ["yes" if s else "no" for s in stored.ranked_super],
            "output": stored.ranked_value.tolist(),
            "token": known,
            "position": stored.ranked_position.tolist(),
            "dimension": stored.ranked_channel.tolist(),
            "gate weight": stored.ranked_gate.tolist(),
            "neurons": [", ".join(str(int(n)) for n in row if n >= 0) for row in stored.ranked_neurons],
            "adds": [", ".join(f"{v:.4g}" for v in row) for row in stored.ranked_contributions],
            "super weight": stored.ranked_weights[:, 0].tolist() if len(names) else [],
        },
        n=f"the {len(names)} largest",
        source=f"{stored.source}/ranked_value",
    )  # fmt: skip


def _tail(stored: Stored) -> Figure:
    sizes = np.sort(stored.maxima[stored.maxima > 0])[::-1]
    share = np.arange(1, len(sizes) + 1) / max(len(sizes), 1)
    keep = np.unique(np.geomspace(1, max(len(sizes), 1), 120).astype(int) - 1) if len(sizes) else []
    rows = as_rows(**{
        "log10 of the largest output": np.log10(sizes[keep]),
        "share of experts": share[keep],
    })
    return Figure(
        id=f"{stored.name}-tail",
        question="Do they stand apart from the tail?",
        reading=(
            f"The largest is {sizes[0] / sizes[min(len(sizes) - 1, 10)]:,.1f} times the eleventh."
            if len(sizes) > 10
            else "Too few experts for a tail."
        ),
        chart=lines(rows, x="log10 of the largest output", y="share of experts", log=True),
        data={"largest output": sizes.tolist(), "share at least as large": share.tolist()},
        n=f"{len(sizes)} experts that got a token",
        source=f"{stored.source}/maxima",
    )


def _load(stored: Stored) -> Figure:
    load = stored.n_routed[:, : stored.n_experts].astype(float)
    share = load / np.maximum(load.sum(1, keepdims=True), 1)
    highest = share.max(1) * stored.n_experts
    idle = int((load == 0).sum())
    rows = as_rows(layer=stored.layers, **{"busiest expert, times its fair share": highest})
    return Figure(
        id=f"{stored.name}-load",
        question="Is the load balanced?",
        reading=f"The busiest gets {highest.max():.1f} times its fair share; {idle} get nothing.",
        chart=bars(rows, x="layer", y="busiest expert, times its fair share"),
        data={"layer": stored.layers.tolist()}
        | {f"expert {e}": stored.n_routed[:, e].tolist() for e in range(int(stored.n_experts))},
        n=f"{stored.n_tokens} tokens, {stored.n_active} experts each",
        source=f"{stored.source}/n_routed",
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
        reading="; ".join(
            f"{c}: at most {r.max():,.0f}" for c, r in zip(names, ratio, strict=True)
        ),
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
        + "; ".join(f"{names[i]}: {means[i]:.2f}" for i in later),
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
