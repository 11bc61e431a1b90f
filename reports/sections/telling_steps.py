"""The steps of a trace that tell most, as text: what paper and pages without script show."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import h5py
import numpy as np

from ...probes.runfile.h5 import array, members
from ..section import Context

MAX_LINES = 40
"""Drafted tokens written per step."""


def telling_steps(group: h5py.Group, prompt: int, context: Context) -> list[dict[str, Any]]:
    """Of one prompt: the step with most refused, the one with most doubt, and the slowest.

    A step that is told for two reasons stands once. Prompts of one step have it whole.
    """
    steps = {key: array(group, f"steps/{key}") for key in members(group, "steps")}
    mine = np.flatnonzero(steps["prompt"] == prompt)
    if not len(mine):
        return []
    tokens = {key: array(group, f"tokens/{key}") for key in ("step", "entropy", "id")}
    first = np.minimum(np.searchsorted(tokens["step"], mine), max(len(tokens["step"]) - 1, 0))
    refused = (steps["n_drafted"] - steps["n_accepted"])[mine]
    scores = {
        "most refused": refused,
        "most doubt": np.nan_to_num(tokens["entropy"][first]) if len(tokens["step"]) else refused,
        "slowest": steps["seconds"][mine],
    }
    reasons: dict[int, list[str]] = defaultdict(list)
    for reason, values in scores.items():
        if values.max() > 0:
            reasons[int(mine[int(np.argmax(values))])].append(reason)
    nodes = {name: array(group, f"nodes/{name}") for name in members(group, "nodes")}
    sources = json.loads(str(group["nodes"].attrs.get("sources", "[]")))
    return [
        {
            "number": step - int(mine[0]) + 1,
            "reasons": ", ".join(why),
            "n_drafted": int(steps["n_drafted"][step]),
            "n_accepted": int(steps["n_accepted"][step]),
            "milliseconds": f"{float(steps['seconds'][step]) * 1e3:.3g}",
            "emitted": [context.token(t) for t in tokens["id"][tokens["step"] == step]],
            "text": _tree(nodes, np.flatnonzero(nodes["step"] == step), sources, context),
        }
        for step, why in sorted(reasons.items())
    ]


def start_step(group: h5py.Group, prompt: int) -> int:
    """The step a prompt is opened at, counted in the prompt: the one that accepted most."""
    mine = np.flatnonzero(array(group, "steps/prompt") == prompt)
    accepted = array(group, "steps/n_accepted")[mine]
    return int(np.argmax(accepted)) if len(mine) else 0


def _tree(
    nodes: dict[str, np.ndarray], rows: np.ndarray, sources: list[str], context: Context
) -> str:
    """One line per drafted token, indented below the token it follows, accepted ones first."""
    children: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows.tolist()):
        children[int(nodes["parent"][row])].append(place)
    lines: list[str] = []
    waiting = [(place, 0) for place in reversed(_ordered(children[-1], nodes, rows))]
    while waiting:
        place, indent = waiting.pop()
        row = rows[place]
        mark = "✓" if nodes["accepted"][row] else "·"
        source = sources[int(nodes["source"][row])] if sources else ""
        lines.append(
            f"{mark} {'│ ' * indent}{context.token(int(nodes['token'][row]))}  "
            f"draft {float(nodes['draft_prob'][row]):.0%}, target "
            f"{float(nodes['target_prob'][row]):.1%}{', ' if source else ''}{source}"
        )
        follow = _ordered(children[place], nodes, rows)
        waiting.extend((child, indent + 1) for child in reversed(follow))
    more = len(lines) - MAX_LINES
    return "\n".join([*lines[:MAX_LINES], *([f"… and {more} more"] if more > 0 else [])])


def _ordered(places: list[int], nodes: dict[str, np.ndarray], rows: np.ndarray) -> list[int]:
    """Siblings: the accepted one first, then by the drafter's confidence."""
    return sorted(
        places,
        key=lambda place: (
            not nodes["accepted"][rows[place]],
            -float(nodes["draft_prob"][rows[place]]),
        ),
    )
