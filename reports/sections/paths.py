"""Paths of a matching pursuit: which atoms are taken when, and what they leave."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

N_LEVELS = 8
MAX_STEPS = 16


def sae_paths(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_paths`."""
    name = label(str(stored.values["label"]), longest=40)
    final = stored.mean_energy[-1]
    n_steps = len(stored.mean_energy) - 1
    n = f"{stored.n_rows:,} rows"
    steps = np.arange(n_steps + 1)
    rows = as_rows(
        step=steps,
        **{"energy left": stored.mean_energy},
        low=stored.low_energy,
        high=stored.high_energy,
    )
    curve = Figure(
        id=f"{stored.name}-energy",
        question="How does the residual shrink?",
        reading=f"After {n_steps} steps {final:.1%} of the energy is left; "
        f"{stored.repeats:.1%} of the steps take an atom again.",
        chart=lines(rows, x="step", y="energy left", band=("low", "high")),
        data={
            "step": steps.tolist(),
            "energy left": stored.mean_energy.tolist(),
            "10 %": stored.low_energy.tolist(),
            "90 %": stored.high_energy.tolist(),
        },
        n=n,
        interval="band from the 10 % to the 90 % quantile of rows",
        source=f"{stored.source}/mean_energy",
    )
    counts = stored.steps_to_share
    labels = [*(str(i) for i in range(1, len(counts))), f"> {n_steps}"]
    lengths = Figure(
        id=f"{stored.name}-lengths",
        question="How many atoms does a token need?",
        reading=f"{counts[-1] / max(counts.sum(), 1):.0%} of the rows keep more than a tenth of "
        f"their energy after {n_steps} steps.",
        chart=bars(as_rows(**{"steps to nine tenths": labels, "rows": counts}),
                   x="steps to nine tenths", y="rows"),
        data={"steps": labels, "rows": counts.tolist()},
        n=n,
        source=f"{stored.source}/steps_to_share",
    )  # fmt: skip
    order = Figure(
        id=f"{stored.name}-order",
        question="Which atoms come first, which last?",
        reading=(
            f"Atom {int(stored.early[0])} is taken at step {stored.early_rank[0]:.1f} on average, atom "
            f"{int(stored.late[0])} at {stored.late_rank[0]:.1f}."
            if len(stored.early)
            else "No atom was taken."
        ),
        data={
            "early atom": stored.early.tolist(),
            "mean step": stored.early_rank.tolist(),
            "rows": stored.early_count.tolist(),
            "late atom": stored.late.tolist(),
            "its mean step": stored.late_rank.tolist(),
            "its rows": stored.late_count.tolist(),
        },
        n=f"{n}; atoms taken on at least ten",
        source=f"{stored.source}/early",
    )
    return Section(
        id=stored.name,
        title=f"Order of atoms in {name}",
        chapter="Features",
        intro=(
            "Matching pursuit takes atoms one after the other, each from what the ones before have "
            "left (arXiv 2506.03093): early atoms are coarse, late ones explain residuals."
        ),
        figures=(_grid(stored, context), curve, lengths, order),
        verdict=f"{name} takes {_half(stored.mean_energy)} to half of a row's energy; after {n_steps} "
        f"{final:.1%} is left.",
    )


def _half(energy: np.ndarray) -> str:
    """In how many steps half of the energy is gone, in words."""
    below = np.flatnonzero(energy <= 0.5)
    if not len(below):
        return f"more than {len(energy) - 1} atoms"
    return f"{int(below[0])} atom{'s' if below[0] != 1 else ''}"


def _grid(stored: Stored, context: Context) -> Figure:
    n_steps = min(stored.atoms.shape[1], MAX_STEPS)
    rows = []
    for at, token in enumerate(stored.text_ids):
        cells = []
        for step in range(n_steps):
            atom, taken = int(stored.atoms[at, step]), float(stored.values["values"][at, step])
            before, after = (float(stored.energy[at, step + i]) for i in (0, 1))
            gone = before - after
            tip = (
                f"{context.token(token)}, step {step + 1}: atom {atom} ({taken:.3g}), takes "
                f"{gone:.1%} of the energy, {after:.1%} left" if atom >= 0 else "stopped"
            )  # fmt: skip
            level = min(round(gone * 16), N_LEVELS) if atom >= 0 else 0
            cells.append({"text": str(atom) if atom >= 0 else "", "level": level, "tip": tip})
        left = float(stored.energy[at, -1])
        rows.append({
            "token": context.token(token), "cells": cells, "left": f"{left:.1%}",
            "tip": f"{left:.2%} of the energy left after all steps",
        })  # fmt: skip
    html = context.macros(
        "features.html.j2", "paths",
        {"id": stored.name, "steps": list(range(1, n_steps + 1)), "rows": rows},
    )  # fmt: skip
    first = stored.atoms[:, 0]
    common = np.bincount(first[first >= 0]).argmax() if (first >= 0).any() else -1
    cut = stored.atoms.shape[1] > n_steps
    return Figure(
        id=f"{stored.name}-path",
        question="Which atom was taken when?",
        reading=f"Atom {int(common)} comes first for {int((first == common).sum())} of {len(first)} "
        "tokens; darker cells took more of the energy.",
        html=html,
        data={
            "token": [context.token(t) for t in stored.text_ids],
            "first atom": first.tolist(),
            "its value": stored.values["values"][:, 0].astype(float).tolist(),
            "left after it": stored.energy[:, 1].tolist(),
            "left at the end": stored.energy[:, -1].tolist(),
        },
        n=f"{len(first)} tokens of one text",
        source=f"{stored.source}/atoms",
        notes=(f"The first {n_steps} steps of {stored.atoms.shape[1]}.",) if cut else (),
        wide=True,
    )
