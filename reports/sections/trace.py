"""Traced generations: one viewer for all engines and prompts, and figures of what was drafted.

What reads without script stands in the page: every token stream and, per prompt, the steps that tell
most. The viewer's script (static/trace/, one concept a file) links stream, step strip, draft tree and
states with one cursor, and draws steps from columns when they are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from markupsafe import Markup

from ...probes.runfile.h5 import array, dataset, texts
from ..charts import as_rows, lines
from ..columns import inert
from ..figure import Figure
from ..section import Context, Section, Tile
from ..tokens import label
from .drafting import drafting_figures
from .stream import MARKS, MEANINGS, MOST_NATS, streams, used_kinds
from .telling_steps import start_step, telling_steps
from .trace_columns import MAX_NODES, Words, trace_columns
from .trace_states import missing_states, surplus_by_layer

ID = "trace"
MAX_POINTS = 1_000
"""Tokens drawn one by one; of more, the largest and smallest of each of so many stretches."""

QUANTITIES = {
    "none": "none",
    "entropy": "target's entropy",
    "surprise": "surprise (−log p)",
    "p": "p, the target's",
    "q": "q, the drafter's",
    "overlap": "overlap, min(p, q)",
    "rank": "rank",
    "seconds": "time per token",
    "settled": "layer where it settled",
}
"""What the stream's background can show."""
PACES = (1, 2, 5, 10, 50)
"""How many times faster than it was decoded a generation can be replayed."""
SCRIPTS = (
    "elements", "columns", "cursor", "stream", "backgrounds", "ghosts", "strip", "draft", "card",
    "states", "moves", "replay", "keys", "pointer", "begin",
)  # fmt: skip
"""The viewer's script, part by part; each may use what those before it define, and inside functions
what any defines."""


def traces(groups: Mapping[str, h5py.Group], context: Context) -> Section:
    """The section of all traced engines; the overview names an engine only where it stands alone."""
    words = Words.of(groups)
    best = max(groups, key=lambda name: _per_pass(groups[name]))
    generations = [
        made | {"telling": telling_steps(group, made["number"], context), "id": f"{ID}-{name}"}
        for name, group in groups.items()
        for made in streams(name, group, context)
    ]
    has_rows = any("rows" in group for group in groups.values())
    quantities = {k: v for k, v in QUANTITIES.items() if k != "settled" or has_rows}
    html = context.macros(
        "viewer.html.j2",
        "viewer",
        {
            "engines": {name: label(name, longest=40) for name in groups},
            "generations": generations,
            "n_prompts": max(len(texts(g, "prompts/text")) for g in groups.values()),
            "best": best,
            "kinds": used_kinds(dict(groups)),
            "marks": MARKS,
            "meanings": MEANINGS,
            "quantities": quantities,
            "paces": PACES,
            "shared": inert(_shared(groups, words, best, context)),
            "data": {name: inert(trace_columns(name, g, words)) for name, g in groups.items()},
        },
    )
    alone = len(groups) == 1
    n_tokens = {name: len(array(group, "tokens/id")) for name, group in groups.items()}
    told = [
        f"{label(best, longest=40)}: {label(str(groups[best].attrs.get('summary', '')), longest=200)}"
    ]
    return Section(
        id=ID,
        title=f"Generation: {label(best, longest=40)}" if alone else "Generation, step by step",
        chapter="Decode trace",
        intro=label(str(groups[best].attrs.get("summary", "")), longest=200)
        if alone
        else "What every engine drafted, what the target made of it, and what it cost. Open at "
        + " ".join(told),
        html=html,
        figures=(
            *([_doubt(groups[best], context)] if n_tokens[best] else []),
            *drafting_figures(groups),
            *(_steps(name, group) for name, group in groups.items() if n_tokens[name]),
        ),
        tiles=_tiles(groups[best]) if alone else (),
        verdict=_verdict(best, groups[best]) if alone else "",
        warnings=tuple(_warnings(groups)),
    )


def _shared(
    groups: Mapping[str, h5py.Group], words: Words, best: str, context: Context
) -> dict[str, Any]:
    """What all engines' columns have in common, for the script."""
    file = next(iter(groups.values())).file
    run = context.run.path.name
    return {
        **words.shown(context),
        "marks": MARKS,
        "nats": MOST_NATS,
        "start": {
            "engine": best,
            "steps": {
                name: [start_step(g, n) for n in range(len(texts(g, "prompts/text")))]
                for name, g in groups.items()
            },
        },
        "surplus": surplus_by_layer(file),
        "missing": {name: missing_states(name, group, run) for name, group in groups.items()},
    }


def _per_pass(group: h5py.Group) -> float:
    return len(array(group, "tokens/id")) / max(int(array(group, "generations/n_forward").sum()), 1)


def _tiles(group: h5py.Group) -> tuple[Tile, ...]:
    seconds = max(float(array(group, "generations/seconds").sum()), 1e-9)
    return (
        Tile(
            label="tokens per target pass",
            value=f"{_per_pass(group):.2f}",
            meaning="Emitted tokens per forward pass of the target, the prompt's included.",
            href=f"#{ID}",
        ),
        Tile(
            label="tokens per second",
            value=f"{len(array(group, 'tokens/id')) / seconds:.1f}",
            meaning="Emitted tokens per second of wall time, tracing included, on this machine.",
            href=f"#{ID}",
        ),
    )


def _verdict(name: str, group: h5py.Group) -> str:
    n_prompts, n_tokens = len(texts(group, "prompts/text")), len(array(group, "tokens/id"))
    return (
        f"{n_prompts} prompt{'s' if n_prompts != 1 else ''}, {n_tokens} tokens with engine "
        f"{label(name, longest=40)}, {_per_pass(group):.2f} tokens per target pass."
    )


def _doubt(group: h5py.Group, context: Context) -> Figure:
    """Entropy over the first prompt's tokens."""
    prompts = array(group, "tokens/prompt")
    first = prompts == prompts[0]
    columns = {
        key: array(group, f"tokens/{key}")[first]
        for key in ("id", "entropy", "prob", "rank", "seconds")
    }
    entropy, index = columns["entropy"], np.arange(int(first.sum()))
    tokens = [context.token(int(t)) for t in columns["id"]]
    known = np.isfinite(entropy)
    peak = int(np.argmax(np.where(known, entropy, -np.inf)))
    drawn = _extremes(entropy)
    return Figure(
        id=f"{ID}-entropy",
        question="Where was the model uncertain?",
        reading=f"Mean entropy {entropy[known].mean():.2f} nats; highest, {entropy[peak]:.2f}, before "
        f"{tokens[peak]} (token {peak})."
        if known.any()
        else "No entropy is finite.",
        chart=lines(
            as_rows(**{"token number": index[drawn], "entropy (nats)": entropy[drawn]}),
            x="token number",
            y="entropy (nats)",
        ),
        data={
            "token number": index.tolist(),
            "token": tokens,
            "probability": columns["prob"].astype(float).tolist(),
            "entropy (nats)": entropy.astype(float).tolist(),
            "rank": columns["rank"].tolist(),
            "time (ms)": (columns["seconds"] * 1e3).tolist(),
        },
        n=f"{len(index)} tokens of the first prompt",
        source=f"{group.name}/tokens/entropy",
        notes=()
        if len(drawn) == len(index)
        else (f"the extremes of {MAX_POINTS // 2} stretches are drawn; the table has all tokens",),
    )


def _extremes(values: np.ndarray) -> np.ndarray:
    """Where a long line is drawn: largest and smallest of equal stretches, so that no peak is lost."""
    if len(values) <= MAX_POINTS:
        return np.arange(len(values))
    stretches = np.array_split(np.arange(len(values)), MAX_POINTS // 2)
    ends = [
        part[[int(np.argmin(values[part])), int(np.argmax(values[part]))]] for part in stretches
    ]
    return np.unique(np.concatenate(ends))


def _steps(name: str, group: h5py.Group) -> Figure:
    """Every step as a row: what the step strip draws."""
    keys = ("prompt", "n_drafted", "n_accepted", "n_emitted", "seconds", "seconds_draft",
            "seconds_verify")  # fmt: skip
    steps = {key: array(group, f"steps/{key}") for key in keys}
    first = np.searchsorted(array(group, "tokens/step"), np.arange(len(steps["prompt"])))
    entropy = array(group, "tokens/entropy")
    root = entropy[np.minimum(first, len(entropy) - 1)]
    times = {
        "draft (ms)": steps["seconds_draft"],
        "target's pass (ms)": steps["seconds_verify"],
        "rest (ms)": steps["seconds"] - steps["seconds_draft"] - steps["seconds_verify"],
    }
    drafting = int((steps["n_drafted"] > 0).sum())
    slowest = int(np.argmax(steps["seconds"]))
    drafted, accepted = int(steps["n_drafted"].sum()), int(steps["n_accepted"].sum())
    share = f"{accepted} of {drafted} drafted tokens accepted; " if drafted else ""
    return Figure(
        id=f"{ID}-{name}-steps",
        question=f"What happened in each step of {label(name, longest=40)}?",
        reading=f"{len(root)} steps, {drafting} of them with a draft; {share}the slowest took "
        f"{float(steps['seconds'][slowest]) * 1e3:.0f} ms (step {slowest}).",
        data={
            "step": list(range(len(root))),
            "prompt": (steps["prompt"] + 1).tolist(),
            "drafted": steps["n_drafted"].tolist(),
            "accepted": steps["n_accepted"].tolist(),
            "emitted": steps["n_emitted"].tolist(),
            "entropy before it (nats)": root.astype(float).tolist(),
            **{key: (values * 1e3).tolist() for key, values in times.items()},
        },
        html=_facts(steps),
        n=f"{len(root)} steps",
        source=f"{group.name}/steps",
    )


def _facts(steps: dict[str, np.ndarray]) -> Markup:
    """How long steps took and how much they gave, at a glance."""
    milliseconds = steps["seconds"] * 1e3
    low, middle, high = np.quantile(milliseconds, (0.05, 0.5, 0.95))
    facts = (
        ("median", f"{middle:.3g} ms"),
        ("5 to 95 %", f"{low:.3g} to {high:.3g} ms"),
        ("most emitted", f"{int(steps['n_emitted'].max())} tokens"),
        ("mean emitted", f"{float(steps['n_emitted'].mean()):.2f} tokens"),
    )
    spans = Markup("").join(Markup("<span>{} <b>{}</b></span>").format(*fact) for fact in facts)
    return Markup('<p class="facts-line">{}</p>').format(spans)


def _warnings(groups: Mapping[str, h5py.Group]) -> list[str]:
    found = []
    for name, group in groups.items():
        if not np.isfinite(array(group, "tokens/entropy")).all():
            found.append(f"Engine {label(name, longest=40)}: some entropies are not finite.")
        if len(dataset(group, "nodes/token")) > MAX_NODES:
            found.append(
                f"Engine {label(name, longest=40)}: drafts of the later steps are left out, since the "
                f"page holds {MAX_NODES:,} drafted tokens an engine; the run file has all."
            )
    return found
