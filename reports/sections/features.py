"""Features of a dictionary: an index, and a card for each that was asked for."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, bars, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label, token_text
from .feature_index import frequencies, index

N_LEVELS = 8
SPARKS = "▁▂▃▄▅▆▇█"


def sae_features(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_features`."""
    cards = [figure for at in range(len(stored.features)) for figure in _card(stored, context, at)]
    name = label(str(stored.values["label"]), longest=40)
    dead = stored.d_sae - int((stored.listed_density > 0).sum())
    listed = (
        f"{len(stored.listed)} of {stored.d_sae} are listed, {len(stored.features)} have a card"
    )
    return Section(
        id=stored.name,
        title=f"Features of {name}",
        chapter="Features",
        intro=(
            f"What single latents of {name} at {label(str(stored.site))} fire on. {listed} (rule: "
            f"{label(str(stored.rule), longest=120)}). A name is the reader's to give: the strongest "
            "contexts show a feature at its clearest, the fifths below what it does most of the time. "
            "Logit effects are the direct ones of the decoder direction through final norm and "
            "unembedding, centred over the vocabulary."
        ),
        figures=(index(stored, context), *frequencies(stored), *cards),
        verdict=(
            f"{name} has {stored.d_sae} features at {label(str(stored.site))}; feature "
            f"{int(stored.features[0])} fires on {stored.density[0]:.2%} of the rows, most strongly on "
            f"{_token(context, stored.context_ids[0, 0, stored.before])}."
            if len(stored.features) and dead < stored.d_sae
            else ""
        ),
    )


def _token(context: Context, token: int | np.integer) -> str:
    """A token as running text: its spaces stay spaces."""
    if int(token) < 0:
        return ""
    return token_text(context.vocabulary, int(token)).replace("·", " ")


def _card(stored: Stored, context: Context, at: int) -> list[Figure]:
    feature = int(stored.features[at])
    prefix = f"{stored.name}-{feature}"
    n = f"{stored.n_rows:,} rows"
    figures = [_contexts(stored, context, at, prefix, n), _histogram(stored, at, prefix, n)]
    if (stored.up_ids[at] >= 0).any():
        figures.append(_logits(stored, context, at, prefix))
    return figures


def _contexts(stored: Stored, context: Context, at: int, prefix: str, n: str) -> Figure:
    feature, top = int(stored.features[at]), float(stored.maximum[at]) or 1.0
    groups = []
    for number in (-1, 0, 1, 2, 3, 4):
        members = np.flatnonzero(stored.context_group[at] == number)
        if not len(members):
            continue
        title = "Strongest" if number < 0 else f"Fifth {number + 1} of 5 by activation"
        windows = [_window(stored, context, at, int(i), top) for i in members]
        groups.append({"title": title, "contexts": windows})
    up, down = (
        [
            {"text": _token(context, t), "tip": f"{context.token(t)}: {v:+.2f} per unit"}
            for t, v in zip(ids, values, strict=True)
            if t >= 0
        ]
        for ids, values in (
            (stored.up_ids[at], stored.up_values[at]),
            (stored.down_ids[at], stored.down_values[at]),
        )
    )
    facts = [
        ("fires on", f"{stored.density[at]:.3%} of rows"),
        ("largest", f"{top:.3g}"),
        ("mean where it fires", f"{stored.mean_active[at]:.3g}"),
        ("share of all firings", f"{stored.share_of_l0[at]:.2%}"),
        ("decoder length", f"{stored.decoder_norm[at]:.3g}"),
        ("by eighth of the document", spark(stored.position_density[at])),
    ]
    neighbours = _pairs(stored.neighbours[at], stored.neighbour_cosines[at], "{:.2f}")
    companions = _pairs(stored.companions[at], stored.companion_shares[at], "{:.0%}")
    html = context.macros(
        "features.html.j2", "card",
        {"facts": facts, "groups": groups, "up": up, "down": down, "neighbours": neighbours,
         "companions": companions},
    )  # fmt: skip
    shown = np.flatnonzero(stored.context_group[at] > -2)
    peaks = stored.context_values[at, shown, stored.before]
    return Figure(
        id=f"{prefix}-contexts",
        question=f"Feature {feature}: what does it fire on?",
        reading=(
            f"Most strongly on {_token(context, stored.context_ids[at, 0, stored.before])!s}"
            f" ({peaks[0]:.3g})." if len(shown) else "It fires on no row."
        ),
        html=html,
        data={
            "row": stored.context_rows[at, shown].tolist(),
            "group": [_group(int(g)) for g in stored.context_group[at, shown]],
            "activation": peaks.astype(float).tolist(),
            "text": [
                "".join(_token(context, t) for t in stored.context_ids[at, i]) for i in shown
            ],
        },
        n=n,
        source=f"{stored.source}/context_values",
        notes=("Windows of alike last eight tokens are shown once.",),
        wide=True,
    )  # fmt: skip


def spark(values: np.ndarray) -> str:
    """Numbers from zero up as a row of blocks, the largest full; no larger than zero, no block."""
    top = float(np.nanmax(values, initial=0.0))
    if top <= 0:
        return "–"
    return "".join(SPARKS[round(max(float(v), 0.0) / top * (len(SPARKS) - 1))] for v in values)


def _group(number: int) -> str:
    return "strongest" if number < 0 else f"fifth {number + 1}"


def _pairs(ids: np.ndarray, values: np.ndarray, form: str) -> list[tuple[str, str]]:
    return [
        (str(int(i)), form.format(v)) for i, v in zip(ids, values, strict=True) if i >= 0 and v > 0
    ]


def _window(stored: Stored, context: Context, at: int, number: int, top: float) -> dict[str, Any]:
    ids, values = stored.context_ids[at, number], stored.context_values[at, number]
    tokens = []
    for place, (token, value) in enumerate(zip(ids, values, strict=True)):
        if token < 0:
            continue
        fires = value != 0
        level = max(round(min(abs(float(value)) / top, 1.0) * N_LEVELS), 1) if fires else None
        tokens.append({
            "text": _token(context, token),
            "level": level,
            "peak": place == stored.before,
            "tip": f"{context.token(token)}: {value:.3g}",
        })
    peak = float(values[stored.before])
    where = f"row {int(stored.context_rows[at, number])} of the run"
    return {"tokens": tokens, "peak": f"{peak:.3g}", "where": where}


def _histogram(stored: Stored, at: int, prefix: str, n: str) -> Figure:
    counts, edges = stored.histogram[at], stored.edges[at]
    centres = (edges[:-1] + edges[1:]) / 2
    seen = counts > 0
    rows = as_rows(**{
        "activation": centres[seen],
        "log10 of rows": np.log10(counts[seen].astype(float)),
    })
    early, late = stored.position_density[at, 0], stored.position_density[at, -1]
    return Figure(
        id=f"{prefix}-histogram",
        question=f"Feature {int(stored.features[at])}: how strongly?",
        reading=(
            f"{int(counts.sum()):,} firings. In the first eighth of documents it fires on "
            f"{early:.2%} of the rows, in the last on {late:.2%}."
        ),
        chart=lines(rows, x="activation", y="log10 of rows"),
        data={
            "from": edges[:-1].tolist(),
            "to": edges[1:].tolist(),
            "rows": counts.tolist(),
        },
        n=f"{n}; rows without the feature left out",
        source=f"{stored.source}/histogram",
    )


def _logits(stored: Stored, context: Context, at: int, prefix: str) -> Figure:
    up, down = stored.up_ids[at], stored.down_ids[at]
    ids = [*up, *down[::-1]]
    values = [*stored.up_values[at], *stored.down_values[at][::-1]]
    named = [f"{context.token(t)}" for t in ids]
    rows = [
        {"rank": place + 1, "logit effect": float(f"{value:.5g}")}
        for place, value in enumerate(values)
    ]
    return Figure(
        id=f"{prefix}-logits",
        question=f"Feature {int(stored.features[at])}: what does it say next?",
        reading=(
            f"It raises {label(named[0])} by {values[0]:.2f} per unit and lowers "
            f"{label(named[-1])} by {-values[-1]:.2f}."
        ),
        chart=bars(rows, x="rank", y="logit effect"),
        data={"token": named, "logit effect": [float(v) for v in values]},
        n=f"the {len(up)} most raised, then the {len(down)} most lowered of the vocabulary",
        source=f"{stored.source}/up_values",
        notes=("Direct effect of a unit of the feature where the final norm divides by 1.",),
    )
