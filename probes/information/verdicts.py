"""Verdicts: where two estimators disagree beyond their intervals, and what that means."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .resampling import Estimate

ROUNDING = 1e-4
"""Nats below which a gain is single precision's: an untrained readout against the law it began with."""


def disagreement(
    what: str,
    first: tuple[str, Sequence[Estimate]],
    second: tuple[str, Sequence[Estimate]],
    places: Sequence[str],
    meaning: str,
) -> str | None:
    """A sentence on where two estimators' intervals do not meet; None where they all do.

    Args:
        what: The quantity.
        first: Name and estimates of the first.
        second: Name and estimates of the second, place by place.
        places: Names of the places (layers, say).
        meaning: What a disagreement says.
    """
    pairs = list(zip(places, first[1], second[1], strict=True))
    known = [p for p in pairs if np.isfinite(p[1].value) and np.isfinite(p[2].value)]
    apart = [p for p in known if p[1].apart_from(p[2])]
    if not apart:
        return None
    place, one, other = max(apart, key=lambda pair: abs(pair[1].value - pair[2].value))
    return (
        f"{what}: {first[0]} and {second[0]} disagree beyond their intervals at {len(apart)} of "
        f"{len(known)} places, most at {place}: {one} against {other} nats. {meaning}"
    )


def control_verdict(what: str, found: Estimate) -> str:
    """Whether shuffled states hold nothing, with the odds of a false alarm."""
    held = (
        "as it should"
        if found.low <= ROUNDING
        else "which it should not: distrust the numbers above"
    )
    return (
        f"With states of other rows {what} is {found} nats, {held} (by chance the interval lies above "
        "zero in at most 2.5 % of such controls, 4 % over five documents)."
    )


def rank_agreement(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's correlation over places; NaN below three or without any spread."""
    ranks = [np.argsort(np.argsort(values)).astype(float) for values in (left, right)]
    if len(left) < 3 or min(np.ptp(left), np.ptp(right)) == 0:
        return float("nan")
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])
