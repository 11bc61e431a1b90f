"""What an engine drafted: acceptance by depth, confidence and uncertainty, and every step's tree."""

from __future__ import annotations

import json
from collections import defaultdict

import h5py
import numpy as np

from ...probes.runfile.h5 import array, members
from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context

MAX_TREES = 60
N_BINS = 10


def drafting_figures(prefix: str, group: h5py.Group) -> list[Figure]:
    """Acceptance of drafted tokens; none where nothing was drafted."""
    nodes = {name: array(group, f"nodes/{name}") for name in members(group, "nodes")}
    if not len(nodes["token"]):
        return []
    tried, parent_entropy = _tried(nodes), _parent_entropy(group, nodes)
    source = f"{group.name}/nodes"
    depths = nodes["depth"][tried]
    confidence = nodes["draft_prob"][tried]
    accepted = nodes["accepted"][tried]
    by_depth = _rates(depths, accepted, np.unique(depths))
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    by_trust = _rates(bins, accepted, np.arange(N_BINS))
    nats = np.minimum(parent_entropy[tried].astype(int), 7)
    by_entropy = _rates(nats, accepted, np.arange(8))
    share = f"{accepted.mean():.0%} of {len(accepted)} tokens whose parent was accepted"
    return [
        _figure(
            f"{prefix}-depth", "How deep are drafts accepted?", "depth", by_depth,
            f"Accepted: {share}.", source,
        ),
        _figure(
            f"{prefix}-calibration", "Is the drafter's confidence honest?", "confidence",
            [((b + 0.5) / N_BINS, rate, n) for b, rate, n in by_trust],
            "A calibrated drafter lies on the diagonal.", source,
        ),
        _figure(
            f"{prefix}-uncertain", "Are drafts accepted where the target is sure?",
            "entropy before the token (nats)", by_entropy,
            "Acceptance against the target's entropy at the parent, in bins of one nat.", source,
        ),
        _times(prefix, group),
    ]  # fmt: skip


def drafted_trees(group: h5py.Group, prompt: int, context: Context) -> tuple[list[dict], int]:
    """The trees of a prompt's steps as text, and how many steps are left out.

    One line per node: what was drafted, how sure drafter and target were, and what became of it.
    """
    steps = {name: array(group, f"steps/{name}") for name in ("prompt", "n_drafted", "n_accepted")}
    nodes = {name: array(group, f"nodes/{name}") for name in members(group, "nodes")}
    sources = json.loads(str(group["nodes"].attrs.get("sources", "[]")))
    mine = np.flatnonzero((steps["prompt"] == prompt) & (steps["n_drafted"] > 0))
    found = []
    for number, step in enumerate(mine[:MAX_TREES].tolist()):
        rows = np.flatnonzero(nodes["step"] == step)
        found.append({
            "step": step,
            "number": number,
            "n_drafted": int(steps["n_drafted"][step]),
            "n_accepted": int(steps["n_accepted"][step]),
            "text": _tree_text(nodes, rows, sources, context),
        })
    return found, max(0, len(mine) - MAX_TREES)


def _tree_text(
    nodes: dict[str, np.ndarray], rows: np.ndarray, sources: list[str], context: Context
) -> str:
    children: dict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows.tolist()):
        children[int(nodes["parent"][row])].append(place)
    text: list[str] = []

    def write(place: int, indent: int) -> None:
        row = rows[place]
        mark = "✓" if nodes["accepted"][row] else "·"
        source = sources[int(nodes["source"][row])] if sources else ""
        text.append(
            f"{mark} {'│ ' * indent}{context.token(int(nodes['token'][row]))}  "
            f"draft {float(nodes['draft_prob'][row]):.0%}, target "
            f"{float(nodes['target_prob'][row]):.1%}{', ' if source else ''}{source}"
        )
        for child in children[place]:
            write(child, indent + 1)

    for place in children[-1]:
        write(place, 0)
    return "\n".join(text)


def _tried(nodes: dict[str, np.ndarray]) -> np.ndarray:
    """Nodes about which something was decided: their parent is text."""
    first = np.searchsorted(nodes["step"], nodes["step"])
    at = np.where(nodes["parent"] < 0, 0, first + nodes["parent"])
    return (nodes["parent"] < 0) | nodes["accepted"][at]


def _parent_entropy(group: h5py.Group, nodes: dict[str, np.ndarray]) -> np.ndarray:
    """The target's entropy before each node: its parent's, or that of the step's first token."""
    token_step, entropy = array(group, "tokens/step"), array(group, "tokens/entropy")
    at_root = entropy[np.minimum(np.searchsorted(token_step, nodes["step"]), len(entropy) - 1)]
    first = np.searchsorted(nodes["step"], nodes["step"])
    at = np.where(nodes["parent"] < 0, 0, first + nodes["parent"])
    return np.where(nodes["parent"] < 0, at_root, nodes["entropy"][at])


def _rates(
    bins: np.ndarray, accepted: np.ndarray, places: np.ndarray
) -> list[tuple[float, float, int]]:
    return [
        (float(place), float(accepted[bins == place].mean()), int((bins == place).sum()))
        for place in places
        if (bins == place).any()
    ]


def _figure(
    name: str,
    question: str,
    axis: str,
    rates: list[tuple[float, float, int]],
    reading: str,
    source: str,
) -> Figure:
    x, y, n = zip(*rates, strict=True)
    return Figure(
        id=name,
        question=question,
        reading=reading,
        chart=lines(as_rows(**{axis: x, "share accepted": y}), x=axis, y="share accepted"),
        data={axis: list(x), "share accepted": list(y), "drafted tokens": list(n)},
        n=f"{sum(n)} drafted tokens",
        source=source,
    )


def _times(prefix: str, group: h5py.Group) -> Figure:
    total = float(array(group, "steps/seconds").sum())
    draft = float(array(group, "steps/seconds_draft").sum())
    verify = float(array(group, "steps/seconds_verify").sum())
    parts = {"drafting": draft, "target's passes": verify, "rest": total - draft - verify}
    return Figure(
        id=f"{prefix}-phases",
        question="Where does the time go?",
        reading=", ".join(f"{name} {part / max(total, 1e-9):.0%}" for name, part in parts.items())
        + f" of {total:.1f} s. The rest is acceptance, learning and the trace.",
        data={"part": list(parts), "seconds": list(parts.values())},
        source=f"{group.name}/steps",
    )
