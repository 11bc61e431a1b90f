"""Lenses: what each layer would predict."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

N_LEVELS = 9


def lens(stored: Stored, context: Context) -> Section:
    """Section of the result kinds `logit_lens` and `tuned_lens`."""
    title = "Tuned lens" if stored.kind == "tuned_lens" else "Logit lens"
    known = np.flatnonzero(stored.agreement[:-1] >= 0.5)
    knows = f"from layer {known[0]} on" if len(known) else "nowhere"
    verdict = (
        f"Through the {title.lower()} half of the final choices stand {knows}."
        if len(known)
        else f"Through the {title.lower()} no layer before the last shares half of the final choices."
    )
    return Section(
        id=stored.name,
        title=title,
        chapter="Text and tokens",
        intro="What the model would predict were this layer its last: the residual stream through the "
        "final norm and the unembedding"
        + (", after a trained affine map (arXiv 2303.08112)." if title[0] == "T" else "."),
        figures=(_grid(stored, context), _curve(stored, "kl"), _curve(stored, "agreement")),
        verdict=verdict,
    )


_CURVES = {
    "kl": (
        "KL to the final prediction (nats)",
        "How far from the final prediction?",
        "{:.2f} nats",
    ),
    "agreement": ("share with the final choice", "When does the model know?", "{:.0%}"),
}
"""Axis title, question, and how a value reads in a sentence."""


def _curve(stored: Stored, key: str) -> Figure:
    label, question, form = _CURVES[key]
    mid, low, high = (getattr(stored, f"{key}{end}") for end in ("", "_low", "_high"))
    rows = as_rows(layer=stored.layers, **{label: mid}, low=low, high=high)
    middle = len(mid) // 2
    return Figure(
        id=f"{stored.name}-{key}",
        question=question,
        reading=f"{form.format(mid[0])} after the first layer, {form.format(mid[middle])} after layer "
        f"{middle}, {form.format(mid[-2])} before the last.",
        chart=lines(rows, x="layer", y=label, band=("low", "high")),
        data={
            "layer": stored.layers.tolist(),
            label: mid.tolist(),
            "low": low.tolist(),
            "high": high.tolist(),
            "loss (nats)": stored.loss.tolist(),
            "entropy (nats)": stored.entropy.tolist(),
            "mean rank": stored.rank.tolist(),
        },
        n=f"{stored.n_tokens} predictions in {stored.n_documents} documents",
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/{key}",
    )


def _grid(stored: Stored, context: Context) -> Figure:
    top, probs = stored.example_top_ids[..., 0], stored.example_top_probs[..., 0]
    n_layers, n_positions = top.shape
    input_tokens = [context.token(token) for token in stored.example_ids]
    rows = [
        {
            "layer": int(layer),
            "cells": [
                {
                    "text": context.token(top[layer, p]),
                    "levels": _levels(stored, int(layer), p),
                    "tip": _tip(stored, context, int(layer), p),
                }
                for p in range(n_positions)
            ],
        }
        for layer in reversed(range(n_layers))
    ]
    html = context.macros(
        "grid.html.j2", "grid", {"id": stored.name, "input": input_tokens, "rows": rows}
    )
    settled = [int(np.argmax(top[:, p] == top[-1, p])) for p in range(n_positions)]
    return Figure(
        id=f"{stored.name}-grid",
        question="What would each layer say next?",
        reading=f"In {label(str(stored.example_name), longest=60)} the final choice first leads at "
        f"layer {int(np.median(settled))} (median over {n_positions} positions).",
        html=html,
        data={
            "position": list(range(n_positions)),
            "token": input_tokens,
            "final choice": [context.token(t) for t in top[-1]],
            "probability": probs[-1].tolist(),
            "entropy (nats)": stored.example_entropy[-1].tolist(),
        },
        n=f"one text, its first {n_positions} tokens",
        source=f"{stored.source}/example_top_ids",
        wide=True,
    )  # fmt: skip


def _levels(stored: Stored, layer: int, position: int) -> dict[str, int]:
    """Colour level (0 to 8, strong = sure or near) of a cell in each mode."""
    prob = float(stored.example_top_probs[layer, position, 0])
    entropy = float(stored.example_entropy[layer, position])
    kl = float(stored.example_kl[layer, position])
    top = N_LEVELS - 1
    return {
        "probability": round(prob * top),
        "entropy": round(max(0.0, 1 - entropy / 8) * top),
        "kl": round(max(0.0, 1 - kl / 12) * top),
    }


def _tip(stored: Stored, context: Context, layer: int, position: int) -> str:
    leading = ", ".join(
        f"{context.token(t)} {p:.0%}"
        for t, p in zip(
            stored.example_top_ids[layer, position],
            stored.example_top_probs[layer, position],
            strict=True,
        )
    )
    rank = int(stored.example_rank[layer, position])
    came = f"; the token that came ranks {rank}" if rank >= 0 else ""
    return (
        f"layer {layer}, after {context.token(stored.example_ids[position])} (position {position}): "
        f"{leading}; entropy {stored.example_entropy[layer, position]:.2f} nats; KL to final "
        f"{stored.example_kl[layer, position]:.2f} nats{came}"
    )
