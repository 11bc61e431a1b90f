"""What the predictions know: calibration, the layer from which they stand, what states hold ahead."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from .held import Held, estimate
from .saying import each
from .statement import Interval, Statement, basis, over

QUESTION = "What do the predictions know, and from which layer on?"
HALF = 0.5


def information(held: Held) -> list[Statement]:
    """Calibration, the lens, the head's geometry, and what states hold of later tokens."""
    loss = each(held, "information_loss", _calibration, question=QUESTION)
    return [
        *(loss or each(held, "next_token", _loss, question=QUESTION)),
        *each(held, "tuned_lens", _stands, question=QUESTION),
        *each(held, "logit_lens", _stands, question=QUESTION),
        *each(held, "information_flow", _ahead, question=QUESTION),
        *each(held, "information_geometry", _directions, question=QUESTION),
    ]


def _calibration(stored: Stored) -> Statement:
    gap = estimate(stored, "gap")
    if gap.excludes(0.0):
        word = "over" if gap.value > 0 else "under"
        start = f"The model is {word}confident on this text"
    elif gap.bounded:
        start = "Over- or underconfidence is not shown on this text"
    else:
        start = "Whether the model is overconfident cannot be told"
    return Statement(
        question=QUESTION,
        text=f"{start}: its loss, {stored.loss:.2f} nats, differs from the entropy of its predictions "
        f"by {gap.text('{:+.2f}')}.",
        uncertainty=basis(gap, int(stored.n_documents), "documents"),
        figure=f"{stored.name}-parts",
        source=f"{stored.source}/gap",
    )


def _loss(stored: Stored) -> Statement:
    loss = estimate(stored, "loss")
    return Statement(
        question=QUESTION,
        text=f"Next-token loss is {loss.text('{:.2f}')} nats; the first choice is right for "
        f"{stored.top1:.0%} of the tokens.",
        uncertainty=f"{basis(loss, int(stored.n_documents), 'documents')}, for the loss",
        figure=f"{stored.name}-positions",
        source=f"{stored.source}/loss",
    )


def _stands(stored: Stored) -> Statement:
    """From which layer on half of the final choices stand; the last layer agrees with itself."""
    name = "tuned lens" if stored.kind == "tuned_lens" else "logit lens"
    inner = slice(0, len(stored.agreement) - 1)
    shares, low, high = (stored.values[f"agreement{end}"][inner] for end in ("", "_low", "_high"))
    reached = np.flatnonzero(shares >= HALF)
    sure, possible = np.flatnonzero(low >= HALF), np.flatnonzero(high >= HALF)
    if len(reached):
        layer = int(stored.layers[reached[0]])
        text = f"Through the {name} half of the final choices stand from layer {layer} on"
        early = int(stored.layers[possible[0]]) if len(possible) else layer
        late = f"layer {int(stored.layers[sure[0]])}" if len(sure) else "the last"
        text += (
            f" (by the intervals, from layer {early} to {late})." if np.isfinite(low).all() else "."
        )
    else:
        best = int(np.argmax(shares)) if len(shares) else 0
        near = (
            f": layer {int(stored.layers[best])} is nearest, with "
            f"{Interval(float(shares[best]), float(low[best]), float(high[best])).text('{:.0%}')}"
            if len(shares)
            else ""
        )
        text = (
            f"Through the {name} no layer before the last shares half of the final choices{near}."
        )
    return Statement(
        question=QUESTION,
        text=text,
        uncertainty=basis(estimate(stored, "agreement", 0), int(stored.n_documents), "documents"),
        figure=f"{stored.name}-agreement",
        source=f"{stored.source}/agreement",
    )


def _ahead(stored: Stored) -> Statement:
    """Which layer holds most of the token after next; layers that cannot be told apart are named."""
    surplus = [Interval(*map(float, row)) for row in stored.surplus]
    values = [s.value if s.value == s.value else -np.inf for s in surplus]
    best = int(np.argmax(values))
    alike = [
        str(int(stored.layers[i]))
        for i in range(len(surplus))
        if i != best and surplus[i].bounded and not surplus[best].apart_from(surplus[i])
    ]
    holds = surplus[best].bounded and surplus[best].low > 0
    start = (
        f"Layer {int(stored.layers[best])} holds"
        if holds
        else f"That a layer holds anything is not shown; the most is layer {int(stored.layers[best])}'s"
    )
    beside = f"; layers {', '.join(alike)} are not told apart from it" if alike else ""
    return Statement(
        question=QUESTION,
        text=f"{start} {surplus[best].text('{:.3f}')} nats of the token after next once the next is "
        f"known{beside}.",
        uncertainty=f"{over(int(stored.n_test_documents), 'documents')}; usable information of one "
        "family of predictors, a lower bound",
        figure=f"{stored.name}-surplus",
        source=f"{stored.source}/surplus",
    )


def _directions(stored: Stored) -> Statement:
    rank = Interval(*(float(getattr(stored, f"rank_{end}")) for end in ("mean", "low", "high")))
    return Statement(
        question=QUESTION,
        text=f"Of the {len(stored.spectrum)} dimensions of a state about {rank.text('{:.0f}')} "
        "matter to one prediction.",
        uncertainty=basis(rank, int(stored.n_documents), "documents"),
        figure=f"{stored.name}-spectrum",
        source=f"{stored.source}/rank_mean",
    )
