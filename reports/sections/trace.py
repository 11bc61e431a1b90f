"""A traced generation: the token stream with what the model believed at every token."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np
from markupsafe import Markup

from ...probes.runfile.h5 import array, members, texts
from ..charts import as_rows, bars, lines
from ..figure import Figure
from ..section import Context, Section, Tile
from ..tokens import label, plain, visible
from .drafting import drafted_trees, drafting_figures

MARKS = {
    "plain": "n",
    "accepted": "a",
    "bonus": "b",
    "correction": "c",
    "rejected": "r",
    "forced": "f",
    "steered": "s",
    "backtracked": "k",
    "unmasked": "u",
}
"""One letter per kind, so that no kind is told by colour alone."""

N_LEVELS = 8
MAX_TOKENS = 20_000


def trace(name: str, group: h5py.Group, context: Context, *, alone: bool = True) -> Section:
    """Section of one engine's trace; the overview names it only where no other engine was traced."""
    columns = {key: array(group, f"tokens/{key}") for key in members(group, "tokens")}
    kinds = json.loads(str(group.attrs["kinds"]))
    reasons = texts(group, "generations/stop_reason")
    seconds, n_forward = array(group, "generations/seconds"), array(group, "generations/n_forward")
    n_tokens = len(columns["id"])
    streams = [
        _stream(name, number, group, columns, kinds, context, reason=reasons[number])
        for number in range(len(reasons))
    ]
    html = Markup("").join(streams)
    per_pass = n_tokens / max(int(n_forward.sum()), 1)
    speed = n_tokens / max(float(seconds.sum()), 1e-9)
    prefix = f"trace-{name}"
    return Section(
        id=prefix,
        title=f"Generation: {label(name, longest=40)}",
        chapter="Decode trace",
        intro=label(str(group.attrs.get("summary", "")), longest=200),
        html=html,
        figures=(
            *(_figures(prefix, group.name or "", columns, context) if n_tokens else ()),
            *drafting_figures(prefix, group),
        ),
        tiles=(
            Tile(
                label="tokens per target pass",
                value=f"{per_pass:.2f}",
                meaning="Emitted tokens per forward pass of the target, the prompt's included.",
                href=f"#{prefix}",
            ),
            Tile(
                label="tokens per second",
                value=f"{speed:.1f}",
                meaning="Emitted tokens per second of wall time, tracing included, on this machine.",
                href=f"#{prefix}",
            ),
        )
        if alone
        else (),
        verdict=f"{len(reasons)} prompt{'s' if len(reasons) != 1 else ''}, {n_tokens} tokens with "
        f"engine {label(name, longest=40)}, {per_pass:.2f} tokens per target pass."
        if alone
        else "",
    )


def _stream(
    name: str,
    number: int,
    group: h5py.Group,
    columns: dict[str, np.ndarray],
    kinds: list[str],
    context: Context,
    *,
    reason: str,
) -> Markup:
    offsets = array(group, "prompts/offsets")
    prompt_ids = array(group, "prompts/ids")[offsets[number] : offsets[number + 1]]
    mine = np.flatnonzero(columns["prompt"] == number)
    shown = mine[:MAX_TOKENS]
    seconds = columns["seconds"]
    slowest = float(np.quantile(seconds[mine], 0.98)) if len(mine) else 1.0
    tokens = [
        {
            "text": _stream_text(context, int(columns["id"][row])),
            "breaks": _breaks(context, int(columns["id"][row])),
            "kind": kinds[int(columns["kind"][row])],
            "step": int(columns["step"][row]),
            "mark": MARKS.get(kinds[int(columns["kind"][row])], "?"),
            "levels": _levels(columns, int(row), slowest),
            "tip": _tip(columns, int(row), kinds, context),
        }
        for row in shown
    ]
    trees, trees_cut = drafted_trees(group, number, context)
    return context.macros(
        "stream.html.j2",
        "stream",
        {
            "id": f"trace-{name}-prompt-{number}",
            "number": number + 1,
            "trees": trees,
            "trees_cut": trees_cut,
            "prompt": [
                {"text": _stream_text(context, int(t)), "breaks": _breaks(context, int(t))}
                for t in prompt_ids
            ],
            "tokens": tokens,
            "kinds": sorted({token["kind"] for token in tokens}),
            "marks": MARKS,
            "stop": reason.replace("_", " "),
            "cut": len(mine) - len(shown),
        },
    )


def _stream_text(context: Context, token: int) -> str:
    vocabulary = context.vocabulary
    if vocabulary is None or token >= len(vocabulary):
        return f"#{token}"
    data = vocabulary.token_bytes[token]
    if token in vocabulary.special:
        return visible(data)
    return plain(data.decode("utf-8", errors="backslashreplace")).replace("\n", "↵") or "∅"


def _breaks(context: Context, token: int) -> int:
    vocabulary = context.vocabulary
    if vocabulary is None or token >= len(vocabulary) or token in vocabulary.special:
        return 0
    return min(vocabulary.token_bytes[token].count(b"\n"), 2)


def _levels(columns: dict[str, np.ndarray], row: int, slowest: float) -> dict[str, int]:
    """Background level, 0 to 8, of a token for each quantity."""
    return {
        "entropy": round(min(float(columns["entropy"][row]) / 6, 1.0) * N_LEVELS),
        "surprise": round(min(-np.log(max(float(columns["prob"][row]), 1e-6)) / 6, 1) * N_LEVELS),
        "rank": min(int(np.log2(int(columns["rank"][row]) + 1) * 2), N_LEVELS),
        "seconds": round(min(float(columns["seconds"][row]) / max(slowest, 1e-9), 1.0) * N_LEVELS),
    }


def _tip(columns: dict[str, np.ndarray], row: int, kinds: list[str], context: Context) -> str:
    token = int(columns["id"][row])
    leading = ", ".join(
        f"{context.token(t)} {p:.1%}"
        for t, p in zip(columns["top_ids"][row], columns["top_probs"][row], strict=True)
    )
    return (
        f"{context.token(token)} (id {token}, position {int(columns['position'][row])}, "
        f"{kinds[int(columns['kind'][row])]}): probability {float(columns['prob'][row]):.1%}, rank "
        f"{int(columns['rank'][row])}, entropy {float(columns['entropy'][row]):.2f} nats, "
        f"{float(columns['seconds'][row]) * 1e3:.0f} ms. Leading: {leading}"
    )


def _figures(
    prefix: str, source: str, columns: dict[str, np.ndarray], context: Context
) -> list[Figure]:
    first = columns["prompt"] == columns["prompt"][0]
    index = np.arange(int(first.sum()))
    tokens = [context.token(int(t)) for t in columns["id"][first]]
    entropy, prob = columns["entropy"][first], columns["prob"][first]
    seconds = columns["seconds"][first] * 1e3
    n = f"{len(index)} tokens of the first prompt"
    table: dict[str, list[Any]] = {
        "token number": index.tolist(),
        "token": tokens,
        "probability": prob.astype(float).tolist(),
        "entropy (nats)": entropy.astype(float).tolist(),
        "rank": columns["rank"][first].tolist(),
        "time (ms)": seconds.tolist(),
    }
    peak = int(np.argmax(entropy))
    rows = as_rows(**{"token number": index, "entropy (nats)": entropy})
    cost = as_rows(**{"token number": index, "time (ms)": seconds})
    return [
        Figure(
            id=f"{prefix}-entropy",
            question="Where was the model uncertain?",
            reading=f"Mean entropy {entropy.mean():.2f} nats; highest, {entropy[peak]:.2f}, before "
            f"{tokens[peak]} (token {peak}).",
            chart=lines(rows, x="token number", y="entropy (nats)"),
            data=table,
            n=n,
            source=f"{source}/tokens/entropy",
        ),
        Figure(
            id=f"{prefix}-seconds",
            question="What did each token cost?",
            reading=f"Median {np.median(seconds):.0f} ms, slowest {seconds.max():.0f} ms.",
            chart=bars(cost, x="token number", y="time (ms)"),
            data=table,
            n=n,
            source=f"{source}/tokens/seconds",
        ),
    ]
