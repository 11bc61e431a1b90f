"""How superposed the stream is, and how well dictionaries take it apart."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from ..tokens import label
from .held import Held, estimate
from .saying import each
from .statement import Interval, Statement, basis, over

QUESTION = "How superposed is it?"
NEAR_CAP = 0.8
"""Effective features beyond this share of the dictionary's latents are bounded by the dictionary."""
BASELINES = {"principal components", "random decoder"}


def superposition(held: Held) -> list[Statement]:
    """Effective features over dimensions, layers that differ, and the best dictionary."""
    return [
        *each(held, "superposition_layers", _layers, question=QUESTION),
        *each(held, "sae_comparison", _dictionaries, question=QUESTION),
    ]


def _layers(stored: Stored) -> list[Statement]:
    known = np.flatnonzero(np.isfinite(stored.features))
    if not len(known):
        return []
    low, high = float(stored.features[known].min()), float(stored.features[known].max())
    width, cap = stored.width[known], int(stored.n_latents)
    above = known[stored.features_low[known] > width]
    if len(above) == len(known):
        start = "More effective features than dimensions at every site read"
    elif len(above):
        start = (
            f"More effective features than dimensions at {len(above)} of {len(known)} sites read"
        )
    else:
        start = "No more effective features than dimensions, by this measure"
    spread = f"{low:.0f}" if len(known) == 1 else f"{low:.0f} to {high:.0f}"
    capped = (
        f"; the dictionary's {cap} latents are the cap, so there may be more"
        if high >= NEAR_CAP * cap
        else ""
    )
    found = [
        Statement(
            question=QUESTION,
            text=f"{start}: {spread} in {int(width.min())} dimensions{capped}.",
            uncertainty=f"{_over(stored)}; F over the width is not calibrated: dictionaries read it "
            "too high on models without superposition",
            figure=f"{stored.name}-profile",
            source=f"{stored.source}/features",
        )
    ]
    return found + _ranked(stored)


def _ranked(stored: Stored) -> list[Statement]:
    """Which site has most; only among those whose F has settled, only where intervals are apart."""
    settled = [int(i) for i in np.argsort(stored.place, kind="stable") if stored.place[i] > 0]
    if len(settled) < 2:
        return []
    names = [label(str(site), longest=40) for site in stored.sites]
    most, least = settled[0], settled[-1]
    first, last = (estimate(stored, "features", i) for i in (most, least))
    rising = [names[i] for i in range(len(names)) if stored.place[i] == 0]
    if first.apart_from(last):
        text = (
            f"{names[most]} carries most, {first.text('{:.0f}')}, {names[least]} least, "
            f"{last.text('{:.0f}')}."
        )
    else:
        text = (
            f"Sites are not told apart: {names[most]} {first.text('{:.0f}')}, {names[least]} "
            f"{last.text('{:.0f}')}."
        )
    left_out = f"; not ranked, since F still rises with more text: {', '.join(rising)}"
    fits = f"FVU {stored.fvu[settled].min():.2f} to {stored.fvu[settled].max():.2f}"
    return [
        Statement(
            question=QUESTION,
            text=text,
            uncertainty=f"{_over(stored)}; dictionaries of unlike fit compare badly ({fits})"
            + (left_out if rising else ""),
            figure=f"{stored.name}-profile",
            source=f"{stored.source}/features_low",
        )
    ]


def _over(stored: Stored) -> str:
    return over(int(stored.n_documents), "documents") + ", corrected for its bias"


def _dictionaries(stored: Stored) -> list[Statement]:
    names = [label(str(name), longest=40) for name in stored.conditions]
    kinds = [str(kind) for kind in stored.architecture]
    fvu = [estimate(stored, "fvu", i) for i in range(len(names))]
    trained = sorted(
        (i for i, kind in enumerate(kinds) if kind not in BASELINES), key=lambda i: fvu[i].value
    )
    if not trained:
        return []
    best = trained[0]
    rivals = [i for i in trained[1:] if not fvu[best].apart_from(fvu[i])]
    beside = f"; not told apart from {', '.join(names[i] for i in rivals)}" if rivals else ""
    controls = [i for i, kind in enumerate(kinds) if kind in BASELINES]
    control = "; ".join(f"{names[i]}: {fvu[i].value:.1%}" for i in controls)
    here = "; trained on the text it is judged on" if stored.trained_here[best] else ""
    return [
        Statement(
            question=QUESTION,
            text=f"{names[best]} rebuilds {label(str(stored.site))} from {stored.l0[best]:.3g} of "
            f"{int(stored.d_sae[best])} latents a row and leaves {fvu[best].text('{:.1%}')} of the "
            f"variance{beside}" + (f" ({control})." if control else "."),
            uncertainty=basis(fvu[best], int(stored.n_documents), "documents") + here,
            figure=f"{stored.name}-fvu",
            source=f"{stored.source}/fvu",
        ),
        *_cost(stored, names, best),
    ]


def _cost(stored: Stored, names: list[str], best: int) -> list[Statement]:
    """What the model loses when it reads the reconstruction."""
    rise = Interval(
        *(float(stored.values[f"delta_{end}"][best]) for end in ("loss", "low", "high"))
    )
    if not np.isfinite(rise.value):
        return []
    verb = "costs the model" if rise.excludes(0.0) else "costs the model nothing that is clear:"
    return [
        Statement(
            question=QUESTION,
            text=f"Reading its reconstruction {verb} {rise.text('{:.2f}')} nats of loss, from "
            f"{stored.clean_loss:.2f}.",
            uncertainty=f"{basis(rise, int(stored.n_documents), 'documents')}; "
            f"{int(stored.n_loss_tokens):,} predictions",
            figure=f"{stored.name}-loss",
            source=f"{stored.source}/delta_loss",
        )
    ]
