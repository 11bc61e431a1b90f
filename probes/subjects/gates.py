"""What a comparison of subjects says of the claims made for a bridge (arXiv 2404.07850), in sentences.

    one decoder        reads a subject as well as a decoder of its own
    joining            few items do with reset-tuning what they do not from scratch
    cycle              signals built for another subject are better with the cycle loss
    lesser ways        the bridge reads better than the best of the linear ways

A claim is borne out, contradicted or open where intervals overlap; the third has no interval and is
said with its numbers.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from .comparison import SubjectsComparison

LINEAR = ("ridge", "shared linear", "CCA", "GCCA", "relative")
"""Ways of reading that a bridge should beat, where they were tried."""
Bounds = Float[np.ndarray, " 3"]


def bridge_gates(found: SubjectsComparison) -> list[str]:
    """One sentence per claim, on two-way identification (the first metric).

    Args:
        found: A finished comparison.
    """
    ways = {str(name): found.read[i, :, 0] for i, name in enumerate(found.methods)}
    joins = {str(name): found.joined[i, 0, 0] for i, name in enumerate(found.joining)}
    built = {str(name): _across(found.synthesis[i]) for i, name in enumerate(found.building)}
    best = max((way for way in LINEAR if way in ways), key=lambda way: ways[way][:, 0].mean())
    n_few = int(found.n_few[0])
    share = n_few / int(found.n_train[-1])
    bridge, alone = ways["bridge"], ways["alone"]
    worse = [str(s) for s, b, a in zip(found.subjects, bridge, alone, strict=True) if b[2] < a[1]]
    decided = "no subject reads worse beyond its intervals"
    if worse:
        decided = f"worse beyond intervals for {', '.join(worse)}"
    one = (
        f"One decoder against one each: {bridge[:, 0].mean():.3f} and {alone[:, 0].mean():.3f} on "
        f"average; {decided}."
    )
    joining = (
        f"{found.newcomer} joins with {n_few} items ({share:.0%}): reset-tuned "
        f"{_compared(joins['reset-tuned'], joins['from scratch'], 'from scratch')}."
    )
    without = built["bridge without cycle"]
    cycle = (
        f"Signals built for another subject: the bridge explains {built['bridge']:.3f} of the variance "
        f"with the cycle loss and {without:.3f} without"
        f"{'' if built['bridge'] > without else ': it does not help here'}."
    )
    linear = (
        f"The bridge against the best linear way on average, {best}: "
        f"{_compared(bridge.mean(0), ways[best].mean(0), best)}."
    )
    return [one, joining, cycle, linear]


def _across(table: Float[np.ndarray, "source target"]) -> float:
    """Mean over pairs of different subjects."""
    return float(table[~np.eye(len(table), dtype=bool)].mean())


def _compared(one: Bounds, other: Bounds, name: str) -> str:
    """Both with their intervals, and whether these are apart."""
    if one[1] > other[2]:
        verdict = "better beyond the intervals"
    elif one[2] < other[1]:
        verdict = "worse beyond the intervals"
    else:
        verdict = "not apart"
    return f"{_shown(one)} against {_shown(other)} {name}, {verdict}"


def _shown(bounds: Bounds) -> str:
    return f"{bounds[0]:.3f} ({bounds[1]:.3f} to {bounds[2]:.3f})"
