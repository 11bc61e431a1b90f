"""What engines drafted: acceptance by depth, confidence, doubt and sibling, and the time it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import h5py
import numpy as np

from ...probes.runfile.h5 import array, dataset, members
from ..charts import as_rows, lines
from ..figure import Figure
from ..tokens import label

ID = "drafting"
N_BINS = 10
MAX_SERIES = 5
"""Engines drawn in one chart; the table has all."""
Z95 = 1.959964
"""Two-sided 95 % point of the normal distribution."""


@dataclass(frozen=True)
class Drafted:
    """Drafted tokens about which something was decided: their parent is text."""

    engine: str
    depth: np.ndarray
    """1 right after the text."""
    confidence: np.ndarray
    """The drafter's, q."""
    entropy: np.ndarray
    """The target's before the token, nats."""
    sibling: np.ndarray
    """Rank among its siblings by confidence, from 1."""
    accepted: np.ndarray


def drafting_figures(groups: Mapping[str, h5py.Group]) -> list[Figure]:
    """Acceptance of drafted tokens, engine by engine; none where nothing was drafted."""
    found = [
        _drafted(name, group)
        for name, group in groups.items()
        if len(dataset(group, "nodes/token"))
    ]
    if not found:
        return [_times(groups)]
    shares = "; ".join(
        f"{one.engine} {one.accepted.mean():.0%} of {len(one.accepted)}" for one in found
    )
    errors = "; ".join(f"{one.engine} {_calibration_error(one):.2f}" for one in found)
    figures = [
        _figure("depth", "How deep are drafts accepted?", "depth (tokens)", found,
                {one.engine: one.depth for one in found},
                f"Accepted of the tokens whose parent was text: {shares}."),
        _figure("calibration", "Is the drafter's confidence honest?", "confidence q", found,
                {one.engine: _centre(one.confidence) for one in found},
                f"A calibrated drafter lies on the diagonal; mean distance from it (ECE): {errors}."),
        _figure("uncertain", "Are drafts accepted where the target is sure?",
                "entropy before the token (nats)", found,
                {one.engine: np.minimum(np.floor(one.entropy), 7) for one in found},
                "Acceptance against the target's entropy before the token, in bins of one nat."),
    ]  # fmt: skip
    branching = [one for one in found if one.sibling.max() > 1]
    if branching:
        firsts = "; ".join(
            f"{one.engine} {one.accepted[one.sibling > 1].sum() / max(one.accepted.sum(), 1):.0%}"
            for one in branching
        )
        figures.append(_figure(
            "sibling", "Which sibling wins?", "rank among its siblings by q", branching,
            {one.engine: np.minimum(one.sibling, 8) for one in branching},
            f"Share of accepted tokens that were not the drafter's first choice: {firsts}.",
        ))  # fmt: skip
    return [*figures, _times(groups)]


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z2 = successes / n, Z95**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, float(middle - half)), min(1.0, float(middle + half))


def _drafted(name: str, group: h5py.Group) -> Drafted:
    nodes = {key: array(group, f"nodes/{key}") for key in members(group, "nodes")}
    first = np.searchsorted(nodes["step"], nodes["step"])
    at = np.where(nodes["parent"] < 0, 0, first + nodes["parent"])
    tried = (nodes["parent"] < 0) | nodes["accepted"][at]
    token_step, entropy = array(group, "tokens/step"), array(group, "tokens/entropy")
    at_root = entropy[np.minimum(np.searchsorted(token_step, nodes["step"]), len(entropy) - 1)]
    before = np.where(nodes["parent"] < 0, at_root, nodes["entropy"][at])
    return Drafted(
        label(name, longest=40),
        nodes["depth"][tried],
        nodes["draft_prob"][tried],
        before[tried],
        _sibling_rank(nodes)[tried],
        nodes["accepted"][tried],
    )


def _sibling_rank(nodes: dict[str, np.ndarray]) -> np.ndarray:
    """Place of each node among those of the same parent, the most trusted first."""
    order = np.lexsort((-nodes["draft_prob"], nodes["parent"], nodes["step"]))
    step, parent = nodes["step"][order], nodes["parent"][order]
    fresh = np.r_[True, (step[1:] != step[:-1]) | (parent[1:] != parent[:-1])]
    start = np.maximum.accumulate(np.where(fresh, np.arange(len(order)), 0))
    rank = np.empty(len(order), dtype=int)
    rank[order] = np.arange(len(order)) - start + 1
    return rank


def _centre(confidence: np.ndarray) -> np.ndarray:
    """Middle of the bin of each confidence."""
    return (np.minimum(np.floor(confidence * N_BINS), N_BINS - 1) + 0.5) / N_BINS


def _calibration_error(one: Drafted) -> float:
    """Expected calibration error: distance of confidence and acceptance in equal bins, by size."""
    bins = _centre(one.confidence)
    parts = [
        abs(float(one.confidence[bins == b].mean() - one.accepted[bins == b].mean()))
        * float((bins == b).mean())
        for b in np.unique(bins)
    ]
    return sum(parts)


def _figure(
    name: str,
    question: str,
    axis: str,
    found: list[Drafted],
    bins: Mapping[str, np.ndarray],
    reading: str,
) -> Figure:
    """Share accepted by bin and engine, with Wilson's intervals in the table."""
    table: dict[str, list] = {
        "engine": [], axis: [], "share accepted": [], "low": [], "high": [], "drafted tokens": [],
    }  # fmt: skip
    for one in found:
        places = bins[one.engine]
        for place in np.unique(places[np.isfinite(places)]).tolist():
            accepted = one.accepted[places == place]
            low, high = wilson(int(accepted.sum()), len(accepted))
            at = int(place) if float(place).is_integer() else place
            row = (one.engine, at, float(accepted.mean()), low, high, len(accepted))
            for key, value in zip(table, row, strict=True):
                table[key].append(value)
    drawn = [one.engine for one in found[:MAX_SERIES]]
    rows = [row for row in as_rows(**table) if row["engine"] in drawn]
    alone = len(found) == 1
    band = ("low", "high") if alone else None
    return Figure(
        id=f"{ID}-{name}",
        question=question,
        reading=reading,
        chart=lines(
            rows, x=axis, y="share accepted", band=band, series=None if alone else "engine"
        ),
        data=table,
        n=f"{sum(table['drafted tokens'])} drafted tokens",
        interval="Wilson 95 %, as if tokens were independent" + ("" if alone else "; in the table"),
        source="/trace/*/nodes",
        notes=() if len(found) <= MAX_SERIES else (f"{MAX_SERIES} of {len(found)} engines drawn",),
    )


def _times(groups: Mapping[str, h5py.Group]) -> Figure:
    table: dict[str, list] = {
        "engine": [], "drafting (s)": [], "target's passes (s)": [], "rest (s)": [], "total (s)": [],
    }  # fmt: skip
    readings = []
    for name, group in groups.items():
        total, draft, verify = (
            float(array(group, f"steps/{key}").sum())
            for key in ("seconds", "seconds_draft", "seconds_verify")
        )
        row = (label(name, longest=40), draft, verify, total - draft - verify, total)
        for key, value in zip(table, row, strict=True):
            table[key].append(value)
        readings.append(f"{row[0]} {verify / max(total, 1e-9):.0%} of {total:.1f} s")
    return Figure(
        id=f"{ID}-phases",
        question="Where does the time go?",
        reading=f"Share of the target's passes: {'; '.join(readings)}. The rest is acceptance, "
        "learning and the trace.",
        data=table,
        source="/trace/*/steps",
    )
