"""Attention sinks."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile


def attention_sinks(stored: Stored, context: Context) -> Section:
    """Section of the result kind `attention_sinks`."""
    n = f"{stored.n_texts} texts of {stored.window} tokens; {stored.values['source']}"
    strongest = int(np.argmax(stored.mass))
    return Section(
        id=stored.name,
        title="Attention sinks",
        chapter="Layers",
        intro=(
            "Heads that look at one position whatever the text says. Sink_k is the share of heads "
            f"whose importance of key k exceeds {stored.epsilon:g} (arXiv 2410.10781); it is no mass. "
            f"Attention probabilities: {stored.values['source']}."
        ),
        figures=(
            _mass(stored, n),
            _map(stored, n),
            _rates(stored, n),
            _norms(stored, n),
            *_keys_and_values(stored, n),
        ),
        tiles=(
            Tile(
                label="heads that sink to the first token",
                value=f"{stored.sink_rate[0]:.0%}",
                meaning="Share of heads whose importance of the first token exceeds "
                f"{stored.epsilon:g}.",
                href=f"#{stored.name}-rates",
            ),
        ),
        verdict=(
            f"{stored.sink_rate[0]:.0%} of the heads sink to the first token; in layer {strongest} it "
            f"takes {stored.mass[strongest]:.0%} of all attention."
        ),
    )


def _mass(stored: Stored, n: str) -> Figure:
    layers = np.arange(len(stored.mass))
    rows = as_rows(
        layer=layers,
        **{"attention to first token": stored.mass},
        low=stored.mass_low,
        high=stored.mass_high,
    )
    half = np.flatnonzero(stored.mass > 0.3)
    where = f"{len(half)} of {len(layers)} layers" if len(half) else "no layer"
    return Figure(
        id=f"{stored.name}-mass",
        question="How much attention goes to the first token?",
        reading=f"More than 0.3 in {where}; highest {stored.mass.max():.2f}.",
        chart=lines(rows, x="layer", y="attention to first token", band=("low", "high")),
        data={
            "layer": layers.tolist(),
            "mass": stored.mass.tolist(),
            "low": stored.mass_low.tolist(),
            "high": stored.mass_high.tolist(),
            "to no token": stored.virtual.tolist(),
            "entropy (nats)": stored.entropy.tolist(),
        },
        n=n,
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/mass",
    )


def _map(stored: Stored, n: str) -> Figure:
    n_layers, n_heads = stored.first_token.shape
    rows = as_rows(
        layer=np.repeat(np.arange(n_layers), n_heads),
        head=np.tile(np.arange(n_heads), n_layers),
        importance=stored.first_token.ravel(),
    )
    sinking = int((stored.first_token > stored.epsilon).sum())
    return Figure(
        id=f"{stored.name}-heads",
        question="Which heads sink?",
        reading=f"{sinking} of {stored.first_token.size} heads have a mean importance above "
        f"{stored.epsilon:g}.",
        chart=heat(rows, x="layer", y="head", value="importance"),
        data={"layer": list(range(n_layers))}
        | {f"head {h}": stored.first_token[:, h].tolist() for h in range(n_heads)},
        n=n,
        source=f"{stored.source}/first_token",
    )


def _rates(stored: Stored, n: str) -> Figure:
    keys = np.arange(min(len(stored.sink_rate), 32))
    rates = stored.sink_rate[: len(keys)]
    second = int(np.argmax(stored.sink_rate[1:-8])) + 1
    rows = as_rows(position=keys, **{"share of heads": rates})
    return Figure(
        id=f"{stored.name}-rates",
        question="Are there other sinks?",
        reading=f"After the first token the most frequent is position {second}, with "
        f"{stored.sink_rate[second]:.1%} of the heads.",
        chart=bars(rows, x="position", y="share of heads"),
        data={"position": list(range(len(stored.sink_rate))), "rate": stored.sink_rate.tolist()},
        n=f"{n}; first {len(keys)} positions drawn",
        source=f"{stored.source}/sink_rate",
    )


def _norms(stored: Stored, n: str) -> Figure:
    layers = np.arange(len(stored.norm_first))
    rows = as_rows(
        layer=np.tile(layers, 2),
        **{"residual norm": np.concatenate([stored.norm_first, stored.norm_rest])},
        which=np.repeat(["first token", "other tokens"], len(layers)),
    )
    top = int(np.argmax(stored.norm_first))
    return Figure(
        id=f"{stored.name}-norms",
        question="Is the sink's state large?",
        reading=f"After layer {top} its norm is {stored.norm_first[top]:,.0f}, that of other tokens "
        f"{stored.norm_rest[top]:,.0f}.",
        chart=lines(rows, x="layer", y="residual norm", series="which", log=True),
        data={
            "layer": layers.tolist(),
            "first token": stored.norm_first.tolist(),
            "other tokens": stored.norm_rest.tolist(),
        },
        n=n,
        source=f"{stored.source}/norm_first",
    )


def _keys_and_values(stored: Stored, n: str) -> tuple[Figure, ...]:
    """Norms of keys and values; nothing for files from before they were measured."""
    if stored.values.get("key_norm") is None or stored.values.get("value_norm") is None:
        return ()
    sinks = np.asarray(stored.sinks, dtype=int)
    others = np.setdiff1d(np.arange(stored.key_norm.shape[1]), sinks)
    layers = np.arange(len(stored.key_norm))
    curves = {
        f"{what}, {where}": norms[:, positions].mean(1)
        for what, norms in (("keys", stored.key_norm), ("values", stored.value_norm))
        for where, positions in (("sinks", sinks), ("others", others))
    }
    rows = as_rows(
        layer=np.tile(layers, len(curves)),
        **{"mean norm": np.concatenate(list(curves.values()))},
        which=np.repeat(list(curves), len(layers)),
    )
    smaller = {
        what: int((curves[f"{what}, sinks"] < curves[f"{what}, others"]).sum())
        for what in ("keys", "values")
    }
    named = ", ".join(map(str, sinks[:6])) + (", ..." if len(sinks) > 6 else "")
    return (
        Figure(
            id=f"{stored.name}-keys-values",
            question="Does a sink add anything to what reads it?",
            reading=f"Values of sinks are smaller than others' in {smaller['values']} of "
            f"{len(layers)} layers, keys in {smaller['keys']}: attention that goes there "
            + ("moves little." if smaller["values"] > len(layers) / 2 else "may move as much."),
            chart=lines(rows, x="layer", y="mean norm", series="which", log=True),
            data={"layer": layers.tolist(), **{name: c.tolist() for name, c in curves.items()}},
            n=f"{n}; sinks are positions {named}",
            source=f"{stored.source}/value_norm",
        ),
    )
