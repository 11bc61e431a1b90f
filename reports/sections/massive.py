"""Massive activations: where they stand, who writes them, what falls without them."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, dots, heat, lines
from ..figure import Figure, cell
from ..section import Context, Section, Stored, Tile
from ..skyline import LEAST, n_bars, skyline
from ..tokens import label

SKYLINE = 16
"""Dimensions of the skyline."""


def massive_activations(stored: Stored, context: Context) -> Section:
    """Section of the result kind `massive_activations`."""
    found = stored.writer_layer >= 0
    figures = [_profile(stored), _events(stored, context)]
    tiles: tuple[Tile, ...] = ()
    verdict = f"No massive activation in {stored.n_documents} documents."
    if found:
        figures.insert(1, _writers(stored))
        value, channel = stored.event_value[0], int(stored.writer_channel)
        neurons = _main_writers(stored)
        verdict = (
            f"The residual stream is dominated by one number: {value:,.0f} in dimension {channel} at "
            f"position {int(stored.event_position[0])}, written in layer {stored.writer_layer} by "
            f"{neurons}."
        )
        tiles = (
            Tile(
                label="largest activation",
                value=f"{value:,.0f}",
                meaning="Largest value in the residual stream after any layer.",
                href=f"#{stored.name}-profile",
            ),
        )
    figures += [_skyline(stored), _map(stored)]
    return Section(
        id=stored.name,
        title="Massive activations",
        chapter="Layers",
        intro=(
            "A few values of the residual stream are thousands of times larger than all others. "
            f"Here: larger than {stored.absolute:,.0f} and {stored.ratio:,.0f} times the layer's "
            "median size (arXiv 2402.17762)."
        ),
        figures=tuple(figures),
        tiles=tiles,
        verdict=verdict,
    )


def ablation_story(stored: Stored, context: Context) -> Section:
    """Section of the result kind `ablation_story`."""
    names = [label(str(name), longest=None) for name in stored.conditions]
    table = {
        "zeroed": names,
        "neurons": stored.n_neurons.tolist(),
        "largest activation": stored.largest.tolist(),
        "attention to first token": stored.sink_mass.tolist(),
        "loss (nats)": stored.loss.tolist(),
    }

    def figure(key: str, title: str, question: str, unit: str) -> Figure:
        mid, low, high = (getattr(stored, f"{key}{end}") for end in ("", "_low", "_high"))
        rows = as_rows(zeroed=names, **{title: mid}, low=low, high=high)
        return Figure(
            id=f"{stored.name}-{key.replace('_', '-')}",
            question=question,
            reading=(
                f"{mid[0]:.2f}{unit} with nothing zeroed, {mid[-2]:.2f}{unit} with {names[-2]} "
                f"zeroed, {mid[-1]:.2f}{unit} with {names[-1]}."
            ),
            chart=dots(rows, y="zeroed", x=title, low="low", high="high"),
            data=table,
            n=f"{stored.n_documents} texts, {stored.n_tokens} predictions per condition",
            interval="95 % bootstrap over documents",
            source=stored.source,
        )

    sinks = figure(
        "sink_mass", "attention to first token", "Do the sinks go with their writers?", ""
    )
    loss = figure("loss", "loss (nats)", "What does the model lose without them?", " nats")
    return Section(
        id=stored.name,
        title="What the writers hold up",
        chapter="Layers",
        intro=(
            f"MLP neurons of layer {stored.layer} are set to zero and the text is read again. Random "
            "other neurons of the same layer are the control."
        ),
        figures=(sinks, loss),
        verdict=(
            f"Zeroing {names[-2]} takes the largest activation from {stored.largest[0]:,.0f} to "
            f"{stored.largest[-2]:,.0f}, attention to the first token from {stored.sink_mass[0]:.2f} "
            f"to {stored.sink_mass[-2]:.2f} and the loss from {stored.loss[0]:.2f} to "
            f"{stored.loss[-2]:.2f} nats; {names[-1]} change it to {stored.loss[-1]:.2f}."
        ),
    )


def _main_writers(stored: Stored) -> str:
    total = abs(stored.writer_mlp) or 1.0
    main = [
        f"{int(neuron)} ({added / stored.writer_mlp:.0%})"
        for neuron, added in zip(stored.writer_neurons, stored.writer_contributions, strict=True)
        if abs(added) > 0.05 * total
    ]
    if not main:
        return "attention" if abs(stored.writer_attention) > total else "many neurons together"
    word = "neuron" if len(main) == 1 else "neurons"
    return f"MLP {word} {' and '.join(main)}"


def _profile(stored: Stored) -> Figure:
    names = ("largest", "second", "third", "median")
    columns = [stored.top[:, 0], stored.top[:, 1], stored.top[:, 2], stored.median]
    layers = np.tile(stored.layers, len(names))
    sizes = np.maximum(np.concatenate(columns), 1e-6)
    rows = as_rows(layer=layers, **{"size |h|": sizes}, which=np.repeat(names, len(stored.layers)))
    jump = int(np.argmax(stored.top[:, 0] / stored.median))
    return Figure(
        id=f"{stored.name}-profile",
        question="Where do they start and stop?",
        reading=(
            f"The largest value is {stored.top[jump, 0]:,.0f} after layer {jump}, "
            f"{stored.top[jump, 0] / stored.median[jump]:,.0f} times the median size there."
        ),
        chart=lines(rows, x="layer", y="size |h|", series="which", log=True),
        data={"layer": stored.layers.tolist()}
        | {name: column.tolist() for name, column in zip(names, columns, strict=True)},
        n=f"{stored.n_documents} documents, {stored.n_tokens} tokens",
        source=f"{stored.source}/top",
    )


def _writers(stored: Stored) -> Figure:
    names = [str(int(neuron)) for neuron in stored.writer_neurons]
    rows = as_rows(neuron=names, **{"adds to the dimension": stored.writer_contributions})
    return Figure(
        id=f"{stored.name}-writers",
        question=f"Who writes dimension {stored.writer_channel} in layer {stored.writer_layer}?",
        reading=(
            f"{_main_writers(stored)} of what the MLP adds ({stored.writer_mlp:,.0f}); attention adds "
            f"{stored.writer_attention:,.0f}."
        ),
        chart=bars(rows, x="neuron", y="adds to the dimension"),
        data={"neuron": names, "adds": stored.writer_contributions.tolist()},
        n="the largest massive activation",
        source=f"{stored.source}/writer_contributions",
    )


def _events(stored: Stored, context: Context) -> Figure:
    tokens = [context.token(token) for token in stored.event_token]
    channels = sorted({int(channel) for channel in stored.event_channel})
    first = int((stored.event_position == 0).sum())
    count = len(stored.event_value)
    listed = f"the {count} largest of {stored.n_events}" if stored.n_events > count else "all"
    reading = "None was found."
    if count:
        shown = ", ".join(map(str, channels[:4]))
        reading = f"{first} of {count} stand at the first token; dimensions: {shown}."
    return Figure(
        id=f"{stored.name}-events",
        question="Which token, which dimension?",
        reading=reading,
        data={
            "value": stored.event_value.tolist(),
            "token": tokens,
            "position": stored.event_position.tolist(),
            "dimension": stored.event_channel.tolist(),
            "from layer": stored.event_first_layer.tolist(),
            "to layer": stored.event_last_layer.tolist(),
            "document": [label(str(name), longest=60) for name in stored.event_document],
        },
        n=f"{stored.n_events} found, {listed} listed",
        source=f"{stored.source}/event_value",
    )


def _skyline(stored: Stored) -> Figure:
    """Token by channel by size, the papers' view; the map and the ranked table stand beside it."""
    order = np.sort(np.argsort(-stored.map_values.max(0))[:SKYLINE])
    sizes = stored.map_values[:, order].astype(float)
    channels = [str(int(channel)) for channel in stored.map_channels[order]]
    position, column = np.unravel_index(sizes.argmax(), sizes.shape)
    drawn = n_bars(sizes)
    return Figure(
        id=f"{stored.name}-skyline",
        question="How far do they stand out?",
        reading=(
            f"{drawn} of {sizes.size} cells exceed {LEAST:.0%} of the largest, "
            f"{cell(float(sizes.max()))} at position {position} in dimension {channels[column]}."
        ),
        html=skyline(
            sizes,
            [str(p) for p in range(len(sizes))],
            channels,
            row_title="position",
            column_title="dimension",
        ),
        data={
            "position": [int(p) for p, c in np.argwhere(sizes > LEAST * sizes.max())],
            "dimension": [int(channels[c]) for p, c in np.argwhere(sizes > LEAST * sizes.max())],
            "size |h|": sizes[sizes > LEAST * sizes.max()].tolist(),
        },
        n=f"first {len(sizes)} positions, {len(channels)} largest dimensions, largest over "
        f"{stored.n_documents} documents",
        source=f"{stored.source}/map_values",
        notes=(
            f"Bars under {LEAST:.0%} of the largest are left out; heights are linear.",
            "The same bars from two sides.",
        ),
        wide=True,
    )


def _map(stored: Stored) -> Figure:
    channels, values = stored.map_channels, np.maximum(stored.map_values, 1e-3)
    order = np.argsort(-values.max(0))[:16]
    positions = np.arange(len(values))
    rows = as_rows(
        position=np.repeat(positions, len(order)),
        dimension=np.tile(channels[order], len(positions)),
        **{"size |h|": values[:, order].ravel()},
    )
    position, column = np.unravel_index(values.argmax(), values.shape)
    return Figure(
        id=f"{stored.name}-map",
        question="How local are they?",
        reading=(
            f"The largest, {values.max():,.0f}, stands at position {position} in dimension "
            f"{channels[column]}; the median of the cells shown is {np.median(values):,.1f}."
        ),
        chart=heat(rows, x="position", y="dimension", value="size |h|", log=True),
        data={"position": positions.tolist()}
        | {f"dim {int(channels[c])}": values[:, c].tolist() for c in order},
        n=f"first {len(positions)} positions, 16 largest dimensions, largest over documents",
        source=f"{stored.source}/map_values",
    )
