"""What a comparison of subjects says of the claims made for a bridge (arXiv 2404.07850), in sentences.

    one decoder        reads a subject as well as a decoder of its own
    joining            few items do with reset-tuning what they do not from scratch
    cycle              signals built for another subject are better with the cycle loss
    lesser ways        the bridge reads better than the best of the linear ways
    floor              a subject is read better than its floor: its architecture untrained, or no model
    patching           a built state serves the model in place of its own (see `patching`)

Averages leave controls out. A claim is borne out, contradicted or open where intervals overlap; the
third has no interval and is said with its numbers.
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
    proper = found.proper
    ways = {str(name): found.read[i, proper, 0] for i, name in enumerate(found.methods)}
    joins = {str(name): found.joined[i, 0, 0] for i, name in enumerate(found.joining)}
    built = {
        str(name): _across(found.synthesis[i][np.ix_(proper, proper)])
        for i, name in enumerate(found.building)
    }
    best = max((way for way in LINEAR if way in ways), key=lambda way: ways[way][:, 0].mean())
    n_few = int(found.n_few[0])
    share = n_few / int(found.n_train[-1])
    bridge, alone = ways["bridge"], ways["alone"]
    worse = [
        str(s) for s, b, a in zip(found.subjects[proper], bridge, alone, strict=True) if b[2] < a[1]
    ]
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
    return [one, joining, cycle, linear, *floor_gates(found), *patching_gate(found)]


def floor_gates(found: SubjectsComparison) -> list[str]:
    """One sentence per subject that has a floor: whether the bridge reads more than that there."""
    if found.above_floor is None or found.floor is None:
        return []
    way = [str(name) for name in found.methods].index("bridge")
    told = []
    for number in np.flatnonzero(found.floor >= 0):
        above = found.above_floor[way, number, 0]
        below = int(found.floor[number])
        told.append(
            f"{found.subjects[number]} is read at {found.read[way, number, 0, 0]:.3f}, its floor "
            f"({found.subjects[below]}) at {found.read[way, below, 0, 0]:.3f}: "
            f"{above[0]:+.3f} ({above[1]:+.3f} to {above[2]:+.3f}), {_against_nothing(above)}."
        )
    return told


def _against_nothing(above: Bounds) -> str:
    if above[1] > 0:
        return "above the floor"
    return "below the floor" if above[2] < 0 else "not apart from the floor"


def patching_gate(found: SubjectsComparison) -> list[str]:
    """What states built from other subjects are worth in place of the own one, if that was measured."""
    if found.patch_summary is None or found.origins is None or found.patched is None:
        return []
    way = [str(name) for name in found.patched].index("bridge")
    shares = {str(name): found.patch_summary[way, k] for k, name in enumerate(found.origins)}
    others, controls = shares["other subjects"], shares["controls"]
    if np.isnan(others[0]):
        return []
    told = (
        "States built by the bridge from other subjects, put in place of the own ones, recover "
        f"{_percent(others)} of the cross-entropy that mean states lose"
    )
    if np.isnan(controls[0]):
        return [f"{told}."]
    if others[1] > controls[2]:
        verdict = "more than"
    elif others[2] < controls[1]:
        verdict = "less than"
    else:
        verdict = "not apart from"
    return [f"{told}, {verdict} those built from controls ({_percent(controls)})."]


def _percent(bounds: Bounds) -> str:
    return f"{bounds[0]:.0%} ({bounds[1]:.0%} to {bounds[2]:.0%})"


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
