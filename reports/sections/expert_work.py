"""Experts at work: who is busy, who is chosen for first tokens, who works with whom."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from ..charts import as_rows, bars, heat
from ..figure import Figure
from ..section import Stored

MAX_CELLS = 1600
N_PAIRS = 20
"""Pairs of experts listed."""
MAX_MATRIX = 40
"""Experts in the matrix of a layer, the busiest."""


def load(stored: Stored) -> Figure:
    """The busiest expert of each layer, over what it would get if all got the same."""
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


def usage(stored: Stored) -> Figure:
    """Heat map of the share of a layer's tokens that each expert gets; many experts are binned."""
    counts = stored.n_routed[:, : stored.n_experts].astype(float)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1) * stored.n_experts
    step = -(-counts.shape[1] // max(MAX_CELLS // len(counts), 1))
    starts = np.arange(0, counts.shape[1], step)
    cells = np.stack([share[:, s : s + step].max(1) for s in starts], axis=1)
    first = stored.n_routed_first[:, : stored.n_experts].astype(float)
    taken = first.max(1) / max(int(stored.n_texts), 1)
    alone = int((taken > 0.5).sum())
    top = np.unravel_index(share.argmax(), share.shape)
    title = "times its fair share"
    return Figure(
        id=f"{stored.name}-usage",
        question="Who gets the tokens, and who the first ones?",
        reading=(
            f"Most goes to expert {int(top[1])} of layer {int(stored.layers[top[0]])}, "
            f"{share.max():.1f} times its fair share; in {alone} of {len(taken)} layers one expert "
            "gets the first token of more than half of the texts."
        ),
        chart=heat(
            as_rows(
                layer=np.repeat(stored.layers, len(starts)),
                expert=np.tile(starts, len(counts)),
                **{title: cells.ravel()},
            ),
            x="expert", y="layer", value=title,
        ),
        data={
            "layer": stored.layers.tolist(),
            "busiest expert": counts.argmax(1).tolist(),
            "times its fair share": share.max(1).tolist(),
            "mean gate weight there": [
                float(row[e]) for row, e in zip(stored.gate_mean, counts.argmax(1), strict=True)
            ],
            "expert of most first tokens": first.argmax(1).tolist(),
            "share of first tokens": taken.tolist(),
        },
        n=f"{stored.n_tokens} tokens, {stored.n_texts} texts",
        source=f"{stored.source}/n_routed",
        notes=() if step == 1 else (f"Each cell is the largest of {step} experts.",),
    )  # fmt: skip


def matrix(stored: Stored) -> list[Figure]:
    """Who shares tokens with whom in the layer where pairs stand out most, experts in clusters."""
    lift = _lift(stored)
    seen = np.isfinite(lift)
    if not seen.any():
        return []
    layer = int(np.nanargmax(np.where(seen, lift, -1.0).reshape(len(lift), -1).max(1)))
    busiest = np.argsort(-stored.n_routed[layer, : stored.n_experts], kind="stable")[:MAX_MATRIX]
    table = lift[layer][np.ix_(busiest, busiest)]
    order = busiest[_clustered(np.nan_to_num(table, nan=1.0))]
    table = lift[layer][np.ix_(order, order)]
    names = [f"E{int(e)}" for e in order]
    rows = as_rows(
        expert=np.repeat(names, len(names)), **{"and expert": np.tile(names, len(names))},
        **{"times chance": table.ravel()},
    )  # fmt: skip
    number = int(stored.layers[layer])
    above = int((np.triu(np.nan_to_num(table), 1) > 2).sum())
    left_out = int(stored.n_experts) - len(names)
    return [
        Figure(
            id=f"{stored.name}-matrix",
            question=f"Do experts of layer {number} work in groups?",
            reading=f"{above} pairs share more than twice the tokens that chance would give them; the "
            f"most, {np.nanmax(table):.1f} times.",
            chart=heat(
                [row for row in rows if row["times chance"] is not None],
                x="expert", y="and expert", value="times chance",
            ),
            data={"expert": names}
            | {name: table[:, at].tolist() for at, name in enumerate(names)},
            n=f"{stored.n_tokens} tokens; pairs that chance gives at least one",
            source=f"{stored.source}/coactive",
            notes=(
                "Order: average linkage on the lift, so that groups stand together.",
                *((f"The {len(names)} busiest; {left_out} left out.",) if left_out else ()),
            ),
        )
    ]  # fmt: skip


def _lift(stored: Stored) -> Float[np.ndarray, "layers experts experts"]:
    """Tokens that two experts share over what their loads let expect; NaN where that is under one."""
    load = stored.n_routed[:, : stored.n_experts].astype(float)
    expected = load[:, :, None] * load[:, None, :] / max(int(stored.n_tokens), 1)
    other = ~np.eye(int(stored.n_experts), dtype=bool)
    lift = stored.coactive / np.maximum(expected, 1e-12)
    return np.where(other & (expected >= 1), lift, np.nan)


def _clustered(table: Float[np.ndarray, "experts experts"]) -> np.ndarray:
    """An order in which experts that work together stand together."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    if len(table) < 3:
        return np.arange(len(table))
    return leaves_list(linkage(table, method="average", optimal_ordering=True))


def together(stored: Stored) -> Figure:
    """Pairs of experts that share more tokens than their loads let expect."""
    load = stored.n_routed[:, : stored.n_experts].astype(float)
    expected = load[:, :, None] * load[:, None, :] / max(int(stored.n_tokens), 1)
    upper = np.triu(np.ones((int(stored.n_experts),) * 2, dtype=bool), 1)
    lift = np.where(upper & (expected >= 1), stored.coactive / np.maximum(expected, 1e-12), -1.0)
    order = np.argsort(-lift, axis=None, kind="stable")[:N_PAIRS]
    at = [
        place for place in zip(*np.unravel_index(order, lift.shape), strict=True) if lift[place] > 0
    ]
    names = [f"L{int(stored.layers[r])} E{int(a)} and E{int(b)}" for r, a, b in at]
    values = [float(lift[place]) for place in at]
    reading = "No two experts share a token."
    if at:
        reading = f"{names[0]} share {values[0]:.1f} times the tokens that chance would give them."
    return Figure(
        id=f"{stored.name}-together",
        question="Which experts work together?",
        reading=reading,
        chart=bars(as_rows(pair=names, **{"times chance": values}), x="pair", y="times chance")
        if at
        else None,
        data={
            "pair": names,
            "tokens": [int(stored.coactive[place]) for place in at],
            "expected": [float(expected[place]) for place in at],
            "times chance": values,
        },
        n=f"{stored.n_tokens} tokens; pairs that chance gives at least one",
        source=f"{stored.source}/coactive",
    )
