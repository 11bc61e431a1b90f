"""Whether heads park their attention, and whether that goes with the massive activation."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from .held import Held, estimate
from .saying import each
from .statement import Statement, basis

QUESTION = "Do heads park their attention?"


def sinks(held: Held) -> list[Statement]:
    """How many heads sink and where most; what ablation does to it; attention on a source."""
    return [
        *each(held, "attention_sinks", _share, question=QUESTION),
        *each(held, "ablation_story", _ablated, question=QUESTION),
        *each(held, "attention_degeneration", _degeneration, question=QUESTION),
    ]


def _share(stored: Stored) -> Statement:
    strongest = int(np.argmax(stored.mass))
    mass = estimate(stored, "mass", strongest)
    heads = int((stored.first_token > stored.epsilon).sum())
    verb = "No head sinks" if not heads else f"{heads} of {stored.first_token.size} heads sink"
    return Statement(
        question=QUESTION,
        text=f"{verb} to the first token (mean importance above {stored.epsilon:g}); in layer "
        f"{strongest}, the highest, it takes {mass.text('{:.0%}')} of all attention.",
        uncertainty=f"{basis(mass, int(stored.n_texts), 'texts')} of {int(stored.window)} tokens, for "
        "the layer's share; the count of heads has no interval",
        figure=f"{stored.name}-mass",
        source=f"{stored.source}/mass",
    )


def _ablated(stored: Stored) -> Statement:
    names = [str(name) for name in stored.conditions]
    mass = [estimate(stored, "sink_mass", i) for i in range(len(names))]
    writers, control = mass[-2], mass[-1]
    if (
        writers.apart_from(mass[0])
        and writers.value < mass[0].value
        and writers.apart_from(control)
    ):
        start = f"The sinks hang on the massive activation: zeroing {names[-2]} takes"
    else:
        start = (
            f"That the sinks hang on the massive activation is not shown: zeroing {names[-2]} takes"
        )
    return Statement(
        question=QUESTION,
        text=f"{start} attention to the first token from {mass[0].text('{:.2f}')} to "
        f"{writers.text('{:.2f}')}; {names[-1]} to {control.value:.2f}.",
        uncertainty=basis(writers, int(stored.n_documents), "texts"),
        figure=f"{stored.name}-sink-mass",
        source=f"{stored.source}/sink_mass",
    )


def _degeneration(stored: Stored) -> Statement:
    corrected = estimate(stored, "corrected", -1)
    even, last = float(stored.corrected_uniform[-1]), int(stored.steps[-1])
    if corrected.excludes(even):
        word = "less" if corrected.value < even else "more"
        start = f"Heads look at their source {word} than even attention would"
    else:
        start = "Heads look at their source about as even attention would, within the interval"
    return Statement(
        question=QUESTION,
        text=f"{start}: after {last} tokens {corrected.text('{:.3f}')} of it without sinks, even "
        f"attention {even:.3f}.",
        uncertainty=basis(corrected, int(stored.n_texts), "texts")
        + "; continuations are forced, so that only their length changes",
        figure=f"{stored.name}-mass",
        source=f"{stored.source}/corrected",
    )
