"""What dominates the residual stream, who writes it, and what falls without it."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from .held import Held, estimate
from .saying import each
from .statement import Statement, basis, counted, listed

QUESTION = "What dominates the residual stream?"
ALONE = 2.0
"""How many times the next dimension's largest value one's must be for it to dominate alone."""
SHARE = 0.05
"""Neurons that add less than this share of what the MLP adds are not named."""


def residual(held: Held) -> list[Statement]:
    """Massive activations and their writers, else how the norms grow; and the ablation."""
    found = [
        *each(held, "massive_activations", _massive, question=QUESTION),
        *each(held, "ablation_story", _ablated, question=QUESTION),
    ]
    return found or each(held, "layer_stats", _norms, question=QUESTION)


def _massive(stored: Stored) -> list[Statement]:
    n = counted(int(stored.n_documents), "documents")
    source = f"{stored.source}/event_value"
    if not len(stored.event_value):
        layer, size = _largest(stored)
        return [
            Statement(
                question=QUESTION,
                text=f"No single value dominates: the largest, {size:,.4g} after layer {layer}, is "
                f"{size / max(stored.median[layer], 1e-12):,.0f} times the median size there, below "
                f"the bounds of a massive activation ({stored.absolute:g} and "
                f"{stored.ratio:g} medians).",
                uncertainty=f"no interval; {n}",
                figure=f"{stored.name}-profile",
                source=f"{stored.source}/top",
            )
        ]
    found = [_place(stored, n, source)]
    writers = writers_in_words(stored)
    if stored.writer_layer >= 0 and writers:
        found.append(
            Statement(
                question=QUESTION,
                text=f"The largest is written in layer {int(stored.writer_layer)} by {writers}.",
                uncertainty="read off one activation, the largest; no interval",
                figure=f"{stored.name}-writers",
                source=f"{stored.source}/writer_contributions",
            )
        )
    return found


def _place(stored: Stored, n: str, source: str) -> Statement:
    """Which dimensions, where, how large."""
    sizes = np.abs(stored.event_value)
    channels = list(dict.fromkeys(int(c) for c in stored.event_channel[np.argsort(-sizes)]))
    largest = {c: float(sizes[stored.event_channel == c].max()) for c in channels}
    top = int(np.argmax(sizes))
    listed_events = len(sizes)
    first = int((stored.event_position == 0).sum())
    if len(channels) == 1 or largest[channels[0]] >= ALONE * largest[channels[1]]:
        subject = f"Dimension {channels[0]} dominates the residual stream"
        rest = (
            ""
            if len(channels) == 1
            else f"; the next dimension reaches {largest[channels[1]]:,.0f}"
        )
    else:
        subject = f"Dimensions {listed([str(c) for c in channels])} dominate the residual stream"
        rest = ""
    where = (
        f"from layer {int(stored.event_first_layer[top])} to {int(stored.event_last_layer[top])}"
    )
    return Statement(
        question=QUESTION,
        text=f"{subject}: {stored.event_value[top]:,.0f} at position "
        f"{int(stored.event_position[top])}, {where}{rest}.",
        uncertainty=f"a largest value has no interval; {first} of {listed_events} such values listed "
        f"stand at the first token; {n}",
        figure=f"{stored.name}-events",
        source=source,
    )


def _largest(stored: Stored) -> tuple[int, float]:
    layer = int(np.argmax(stored.top[:, 0]))
    return layer, float(stored.top[layer, 0])


def writers_in_words(stored: Stored) -> str:
    """Who adds to the largest activation; empty where nothing adds much."""
    total = abs(float(stored.writer_mlp))
    if abs(float(stored.writer_attention)) > total:
        return "attention"
    if not total:
        return ""
    main = [
        f"{int(neuron)} ({added / stored.writer_mlp:.0%})"
        for neuron, added in zip(stored.writer_neurons, stored.writer_contributions, strict=True)
        if abs(added) > SHARE * total
    ]
    if not main:
        return "many neurons of the MLP together"
    return f"MLP neuron{'s' if len(main) > 1 else ''} {listed(main)}"


def _ablated(stored: Stored) -> Statement:
    """What zeroing the writers does to the loss, beside random others."""
    names = [str(name) for name in stored.conditions]
    loss = [estimate(stored, "loss", i) for i in range(len(names))]
    writers, control = len(names) - 2, len(names) - 1
    clear = loss[writers].apart_from(loss[0]) and loss[writers].value > loss[0].value
    start = (
        "The model rests on these neurons: the loss rises"
        if clear
        else "Whether the model rests on these neurons is not clear: the loss goes"
    )
    like_clean = not loss[control].apart_from(loss[0])
    beside = "about where it was" if like_clean else "elsewhere too"
    return Statement(
        question=QUESTION,
        text=f"{start} from {loss[0].text('{:.2f}')} to {loss[writers].text('{:.2f}')} nats without "
        f"{names[writers]}; {names[control]} leave it {beside}, at {loss[control].value:.2f}.",
        uncertainty=basis(loss[0], int(stored.n_documents), "texts")
        + "; all conditions read the same texts, so intervals that meet prove little",
        figure=f"{stored.name}-loss",
        source=f"{stored.source}/loss",
    )


def _norms(stored: Stored) -> Statement:
    first, last = float(stored.resid[0]), float(stored.resid[-1])
    both = np.isfinite(stored.attention) & np.isfinite(stored.mlp)
    more = int((stored.mlp[both] > stored.attention[both]).sum())
    adds = (
        f" The MLP adds a longer vector than attention in {more} of {int(both.sum())} layers."
        if both.any()
        else ""
    )
    return Statement(
        question=QUESTION,
        text=f"The stream's mean norm goes from {first:,.4g} after the first layer to {last:,.4g} "
        f"after the last.{adds}",
        uncertainty="no interval, first tokens left out; this run did not look for massive "
        f"activations; {counted(int(stored.n_documents), 'documents')}",
        figure=f"{stored.name}-norms",
        source=f"{stored.source}/resid",
    )
