"""Norms by layer, next-token loss, and the sites' self-check."""

from __future__ import annotations

import re

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label


def layer_stats(stored: Stored, context: Context) -> Section:
    """Section of the result kind `layer_stats`."""
    names = ("stream after the layer", "what attention adds", "what the MLP adds")
    columns = (stored.resid, stored.attention, stored.mlp)
    held = [(n, c) for n, c in zip(names, columns, strict=True) if np.isfinite(c).any()]
    rows = as_rows(
        layer=np.tile(stored.layers, len(held)),
        **{"L2 norm": np.concatenate([column for _, column in held])},
        which=np.repeat([name for name, _ in held], len(stored.layers)),
    )
    figure = Figure(
        id=f"{stored.name}-norms",
        question="How does the residual stream grow?",
        reading=f"From {stored.resid[0]:,.0f} after the first layer to {stored.resid[-1]:,.0f} after "
        f"the last (mean norm, first tokens left out).",
        chart=lines([r for r in rows if r["L2 norm"] is not None], x="layer", y="L2 norm",
                    series="which", log=True),
        data={"layer": stored.layers.tolist()} | {name: column.tolist() for name, column in held},
        n=f"{stored.n_documents} documents, {stored.n_tokens} tokens",
        source=stored.source,
    )  # fmt: skip
    return Section(id=stored.name, title="Norms", chapter="Layers", figures=(figure,))


def next_token(stored: Stored, context: Context) -> Section:
    """Section of the result kind `next_token`."""
    keep = stored.n_by_position >= 3
    positions = stored.position[keep]
    curves = {"loss": stored.loss_by_position[keep], "entropy": stored.entropy_by_position[keep]}
    step = max(len(positions) // 64, 1)
    binned = {name: _binned(values, step) for name, values in curves.items()}
    centres = _binned(positions.astype(float), step)
    rows = as_rows(
        position=np.tile(centres, 2),
        nats=np.concatenate(list(binned.values())),
        which=np.repeat(list(binned), len(centres)),
    )
    figure = Figure(
        id=f"{stored.name}-positions",
        question="Does more context help?",
        reading=f"Loss {stored.loss:.2f} nats ({stored.loss_low:.2f} to {stored.loss_high:.2f}), "
        f"entropy {stored.entropy:.2f} nats: the model is "
        f"{'over' if stored.loss > stored.entropy else 'under'}confident by "
        f"{abs(stored.loss - stored.entropy):.2f} nats on this text.",
        chart=lines(rows, x="position", y="nats", series="which"),
        data={
            "position": positions.tolist(),
            "loss (nats)": curves["loss"].tolist(),
            "entropy (nats)": curves["entropy"].tolist(),
            "n": stored.n_by_position[keep].tolist(),
        },
        n=f"{stored.n_tokens} predictions in {stored.n_documents} documents",
        interval="95 % bootstrap over documents (of the mean)",
        source=stored.source,
        notes=(f"means over {step} positions are drawn; the table has every position",)
        if step > 1
        else (),
    )
    return Section(
        id=stored.name,
        title="Next-token loss",
        chapter="Text and tokens",
        figures=(figure,),
        tiles=(
            Tile(
                label="next-token loss",
                value=f"{stored.loss:.2f} nats",
                meaning="Mean negative log-probability of the token that came.",
                href=f"#{stored.name}-positions",
            ),
            Tile(
                label="first choice right",
                value=f"{stored.top1:.0%}",
                meaning="Share of tokens that were the model's likeliest next token.",
                href=f"#{stored.name}-positions",
            ),
        ),
    )


def self_check(stored: Stored, context: Context) -> Section:
    """Section of the result kind `self_check`."""
    worst = int(np.argmax(stored.errors))
    kinds = [_kind(str(check)) for check in stored.checks]
    names = list(dict.fromkeys(kinds))
    rows = {name: [i for i, kind in enumerate(kinds) if kind == name] for name in names}
    worsts = [max(rows[name], key=lambda i: stored.errors[i]) for name in names]
    figure = Figure(
        id=f"{stored.name}-checks",
        question="Do the sites hold what their names say?",
        reading=f"{_holding(stored)} comparisons hold; the largest relative error is "
        f"{stored.errors[worst]:.1e} at {label(str(stored.checks[worst]), longest=60)} "
        f"(allowed: {stored.tolerance:.0e}).",
        data={
            "compared": [label(name, longest=60) for name in names],
            "comparisons": [len(rows[name]) for name in names],
            "largest relative error": [float(stored.errors[i]) for i in worsts],
            "at": [label(str(stored.checks[i]), longest=60) for i in worsts],
        },
        n=f"{len(stored.sites)} sites",
        source=stored.source,
        notes=("one row per kind of site; the run file has every comparison",),
    )
    return Section(id=stored.name, title="Self-check", chapter="Provenance", figures=(figure,))


def _holding(stored: Stored) -> str:
    """How many comparisons stay within the tolerance."""
    n, held = len(stored.checks), int((stored.errors <= stored.tolerance).sum())
    return f"All {n}" if held == n else f"{held} of {n}"


def _kind(check: str) -> str:
    """A comparison without its layer: layers.3.attn.out becomes layers.*.attn.out."""
    return re.sub(r"\d+", "*", check)


def _binned(values: np.ndarray, step: int) -> np.ndarray:
    return np.array([values[i : i + step].mean() for i in range(0, len(values), step)])
