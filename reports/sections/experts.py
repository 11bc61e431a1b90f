"""Experts: whose output dwarfs all others', who is busy, who works together."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from .expert_work import load, matrix, together, usage

MAX_CELLS = 1600
TAIL = 20
"""Largest maxima that the tail's power is fitted to."""


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
            _maxima(stored), _ranked(stored, context), _tail(stored), *_formation(stored),
            load(stored), usage(stored), *matrix(stored), together(stored),
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
            "share of texts whose first token comes here": _first_share(stored),
            "neurons": [", ".join(str(int(n)) for n in row if n >= 0) for row in stored.ranked_neurons],
            "adds": [", ".join(f"{v:.4g}" for v in row) for row in stored.ranked_contributions],
            "super weight": stored.ranked_weights[:, 0].tolist() if len(names) else [],
        },
        n=f"the {len(names)} largest of {stored.n_population}; {stored.n_texts} texts",
        source=f"{stored.source}/ranked_value",
    )  # fmt: skip


def _formation(stored: Stored) -> list[Figure]:
    """How the residual stream grows, and in which layers it jumps."""
    layers = np.arange(len(stored.resid_largest))
    if not len(layers):
        return []
    ratio = stored.resid_largest / np.maximum(stored.resid_median, 1e-12)
    formed = ", ".join(str(int(layer)) for layer in stored.formation) or "none"
    rows = as_rows(layer=layers, **{"largest / median |h|": ratio})
    top = int(np.argmax(ratio))
    return [
        Figure(
            id=f"{stored.name}-formation",
            question="Where do massive activations form?",
            reading=f"Layers of formation: {formed}; the largest is {ratio[top]:,.0f} times the median "
            f"size after layer {top}.",
            chart=lines(rows, x="layer", y="largest / median |h|", log=True),
            data={
                "layer": layers.tolist(),
                "largest |h|": stored.resid_largest.tolist(),
                "median |h|": stored.resid_median.tolist(),
                "ratio": ratio.tolist(),
            },
            n=f"{stored.n_texts} texts, {stored.n_tokens} tokens",
            source=f"{stored.source}/resid_largest",
        )
    ]


def _first_share(stored: Stored) -> list[float]:
    """Share of texts whose first token is sent to each ranked expert."""
    rows = {int(layer): row for row, layer in enumerate(stored.layers)}
    return [
        float(stored.n_routed_first[rows[int(layer)], int(expert)] / max(stored.n_texts, 1))
        for layer, expert in zip(stored.ranked_layer, stored.ranked_expert, strict=True)
    ]


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
            f"The largest is {sizes[0] / sizes[10]:,.1f} times the eleventh; above "
            f"{sizes[TAIL - 1]:,.3g} the tail falls like a power of {_exponent(sizes):.2f}."
            if len(sizes) > TAIL
            else "Too few experts for a tail."
        ),
        chart=lines(rows, x="log10 of the largest output", y="share of experts", log=True),
        data={"largest output": sizes.tolist(), "share at least as large": share.tolist()},
        n=f"{len(sizes)} experts that got a token",
        source=f"{stored.source}/maxima",
        notes=(f"Power of the share, by maximum likelihood (Hill) over the {TAIL} largest.",),
    )


def _exponent(sizes: np.ndarray) -> float:
    """Hill's estimate from the largest values, which come first."""
    return float(1 / np.maximum(np.log(sizes[:TAIL] / sizes[TAIL]).mean(), 1e-12))
