"""Features of a dictionary: an index, and a card for each that was asked for; paths of a pursuit."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, bars, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label, token_text

N_LEVELS = 8
MAX_STEPS = 16


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
        figures=(_index(stored, context), *cards),
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


def _index(stored: Stored, context: Context) -> Figure:
    with_logits = bool((stored.listed_logit_ids >= 0).any())
    data: dict[str, list[Any]] = {
        "feature": stored.listed.tolist(),
        "fires on": stored.listed_density.tolist(),
        "largest": stored.listed_max.astype(float).tolist(),
        "mean where it fires": stored.listed_mean.tolist(),
        "strongest on": [context.token(t) if t >= 0 else "" for t in stored.listed_top_ids],
    }
    if with_logits:
        data["raises most"] = [context.token(t) if t >= 0 else "" for t in stored.listed_logit_ids]
        data["by"] = stored.listed_logit.tolist()
    data["nearest"] = stored.listed_neighbour.tolist()
    data["cosine"] = stored.listed_cosine.tolist()
    dense = int((stored.listed_density > 0.1).sum())
    return Figure(
        id=f"{stored.name}-index",
        question="Which features are there?",
        reading=f"Of {len(stored.listed)} listed, {dense} fire on more than a tenth of the rows.",
        data=data,
        n=f"{stored.n_rows:,} rows",
        source=f"{stored.source}/listed",
    )


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


def sae_paths(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_paths`."""
    name = label(str(stored.values["label"]), longest=40)
    final = stored.mean_energy[-1]
    n_steps = len(stored.mean_energy) - 1
    n = f"{stored.n_rows:,} rows"
    steps = np.arange(n_steps + 1)
    rows = as_rows(
        step=steps,
        **{"energy left": stored.mean_energy},
        low=stored.low_energy,
        high=stored.high_energy,
    )
    curve = Figure(
        id=f"{stored.name}-energy",
        question="How does the residual shrink?",
        reading=f"After {n_steps} steps {final:.1%} of the energy is left; "
        f"{stored.repeats:.1%} of the steps take an atom again.",
        chart=lines(rows, x="step", y="energy left", band=("low", "high")),
        data={
            "step": steps.tolist(),
            "energy left": stored.mean_energy.tolist(),
            "10 %": stored.low_energy.tolist(),
            "90 %": stored.high_energy.tolist(),
        },
        n=n,
        interval="band from the 10 % to the 90 % quantile of rows",
        source=f"{stored.source}/mean_energy",
    )
    counts = stored.steps_to_share
    labels = [*(str(i) for i in range(1, len(counts))), f"> {n_steps}"]
    lengths = Figure(
        id=f"{stored.name}-lengths",
        question="How many atoms does a token need?",
        reading=f"{counts[-1] / max(counts.sum(), 1):.0%} of the rows keep more than a tenth of "
        f"their energy after {n_steps} steps.",
        chart=bars(as_rows(**{"steps to nine tenths": labels, "rows": counts}),
                   x="steps to nine tenths", y="rows"),
        data={"steps": labels, "rows": counts.tolist()},
        n=n,
        source=f"{stored.source}/steps_to_share",
    )  # fmt: skip
    order = Figure(
        id=f"{stored.name}-order",
        question="Which atoms come first, which last?",
        reading=(
            f"Atom {int(stored.early[0])} is taken at step {stored.early_rank[0]:.1f} on average, atom "
            f"{int(stored.late[0])} at {stored.late_rank[0]:.1f}."
            if len(stored.early)
            else "No atom was taken."
        ),
        data={
            "early atom": stored.early.tolist(),
            "mean step": stored.early_rank.tolist(),
            "rows": stored.early_count.tolist(),
            "late atom": stored.late.tolist(),
            "its mean step": stored.late_rank.tolist(),
            "its rows": stored.late_count.tolist(),
        },
        n=f"{n}; atoms taken on at least ten",
        source=f"{stored.source}/early",
    )
    return Section(
        id=stored.name,
        title=f"Order of atoms in {name}",
        chapter="Features",
        intro=(
            "Matching pursuit takes atoms one after the other, each from what the ones before have "
            "left (arXiv 2506.03093): early atoms are coarse, late ones explain residuals."
        ),
        figures=(_grid(stored, context), curve, lengths, order),
        verdict=f"{name} takes {_half(stored.mean_energy)} to half of a row's energy; after {n_steps} "
        f"{final:.1%} is left.",
    )


def _half(energy: np.ndarray) -> str:
    """In how many steps half of the energy is gone, in words."""
    below = np.flatnonzero(energy <= 0.5)
    if not len(below):
        return f"more than {len(energy) - 1} atoms"
    return f"{int(below[0])} atom{'s' if below[0] != 1 else ''}"


def _grid(stored: Stored, context: Context) -> Figure:
    n_steps = min(stored.atoms.shape[1], MAX_STEPS)
    rows = []
    for at, token in enumerate(stored.text_ids):
        cells = []
        for step in range(n_steps):
            atom, taken = int(stored.atoms[at, step]), float(stored.values["values"][at, step])
            before, after = (float(stored.energy[at, step + i]) for i in (0, 1))
            gone = before - after
            tip = (
                f"{context.token(token)}, step {step + 1}: atom {atom} ({taken:.3g}), takes "
                f"{gone:.1%} of the energy, {after:.1%} left" if atom >= 0 else "stopped"
            )  # fmt: skip
            level = min(round(gone * 16), N_LEVELS) if atom >= 0 else 0
            cells.append({"text": str(atom) if atom >= 0 else "", "level": level, "tip": tip})
        left = float(stored.energy[at, -1])
        rows.append({
            "token": context.token(token), "cells": cells, "left": f"{left:.1%}",
            "tip": f"{left:.2%} of the energy left after all steps",
        })  # fmt: skip
    html = context.macros(
        "features.html.j2", "paths",
        {"id": stored.name, "steps": list(range(1, n_steps + 1)), "rows": rows},
    )  # fmt: skip
    first = stored.atoms[:, 0]
    common = np.bincount(first[first >= 0]).argmax() if (first >= 0).any() else -1
    cut = stored.atoms.shape[1] > n_steps
    return Figure(
        id=f"{stored.name}-path",
        question="Which atom was taken when?",
        reading=f"Atom {int(common)} comes first for {int((first == common).sum())} of {len(first)} "
        "tokens; darker cells took more of the energy.",
        html=html,
        data={
            "token": [context.token(t) for t in stored.text_ids],
            "first atom": first.tolist(),
            "its value": stored.values["values"][:, 0].astype(float).tolist(),
            "left after it": stored.energy[:, 1].tolist(),
            "left at the end": stored.energy[:, -1].tolist(),
        },
        n=f"{len(first)} tokens of one text",
        source=f"{stored.source}/atoms",
        notes=(f"The first {n_steps} steps of {stored.atoms.shape[1]}.",) if cut else (),
        wide=True,
    )
