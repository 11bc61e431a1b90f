"""A space that pictures and captions share: whose latents speak of both."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

MAX_SERIES = 5


def sae_joint(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_joint`."""
    names = [label(str(name)) for name in stored.architecture]
    n = f"{stored.n_images:,} held-out pictures, {stored.n_texts:,} captions"
    least, most = int(np.argmin(stored.one_sided_energy)), int(np.argmax(stored.one_sided_energy))
    halves = [names[i : i + MAX_SERIES] for i in range(0, len(names), MAX_SERIES)]
    scores = [_scores(stored, names, half, part, n) for part, half in enumerate(halves, start=1)]
    return Section(
        id=stored.name,
        title="Pictures and captions",
        chapter="Features",
        intro=(
            f"A small image-text model ({label(str(stored.summary))}; {stored.d_joint} dimensions; "
            f"{stored.retrieval:.1%} of held-out captions find a picture of their digit) and what "
            f"dictionaries of {stored.d_sae} latents find in the space both share (the vision-language "
            "experiment of arXiv 2506.03093 in small). A modality score of 1 fires on pictures only, 0 "
            "on captions only."
        ),
        figures=(*scores, _sides(stored, names, n), _agreement(stored, names, n)),
        verdict=(
            f"In a space of pictures and captions {names[least]} puts "
            f"{stored.one_sided_energy[least]:.0%} of its code's energy into latents of one modality, "
            f"{names[most]} {stored.one_sided_energy[most]:.0%}."
        ),
    )


def _scores(stored: Stored, names: list[str], half: list[str], part: int, n: str) -> Figure:
    chosen = [i for i, name in enumerate(names) if name in half]
    centres = (stored.edges[:-1] + stored.edges[1:]) / 2
    shares = stored.counts / np.maximum(stored.counts.sum(1, keepdims=True), 1)
    rows = as_rows(
        **{
            "modality score": np.tile(centres, len(chosen)),
            "share of latents": shares[chosen].ravel(),
        },
        architecture=np.repeat([names[i] for i in chosen], len(centres)),
    )
    return Figure(
        id=f"{stored.name}-scores-{part}",
        question="Do latents belong to one modality?" + (" (others)" if part > 1 else ""),
        reading="; ".join(f"{names[i]}: {stored.one_sided[i]:.0%} one-sided" for i in chosen) + ".",
        chart=lines(rows, x="modality score", y="share of latents", series="architecture"),
        data={"modality score": centres.tolist()}
        | {names[i]: stored.counts[i].tolist() for i in chosen},
        n=n,
        source=f"{stored.source}/counts",
    )


def _sides(stored: Stored, names: list[str], n: str) -> Figure:
    values = stored.one_sided_energy
    rows = as_rows(
        architecture=names, **{"energy in one-sided latents": values}, low=0 * values, high=values
    )
    return Figure(
        id=f"{stored.name}-sides",
        question="How much of the code is of one modality?",
        reading="; ".join(f"{name}: {v:.0%}" for name, v in zip(names, values, strict=True)) + ".",
        chart=dots(rows, y="architecture", x="energy in one-sided latents", low="low", high="high"),
        data={
            "architecture": names,
            "L0": stored.l0.tolist(),
            "FVU": stored.fvu.tolist(),
            "FVU of pictures": stored.fvu_images.tolist(),
            "FVU of captions": stored.fvu_texts.tolist(),
            "one-sided latents": stored.one_sided.tolist(),
            "their energy": values.tolist(),
            "dead": stored.n_dead.tolist(),
            "co-active Babel (4)": stored.babel_coactive.tolist(),
        },
        n=n,
        source=f"{stored.source}/one_sided_energy",
    )  # fmt: skip


def _agreement(stored: Stored, names: list[str], n: str) -> Figure:
    rows = as_rows(
        architecture=names,
        **{"cosine of codes": stored.agreement},
        low=stored.chance,
        high=stored.agreement,
    )
    best = int(np.argmax(stored.agreement - stored.chance))
    return Figure(
        id=f"{stored.name}-agreement",
        question="Does a caption fire what its picture fires?",
        reading=f"Most with {names[best]}: cosine {stored.agreement[best]:.2f}, "
        f"{stored.chance[best]:.2f} with a random picture.",
        chart=dots(rows, y="architecture", x="cosine of codes", low="low", high="high"),
        data={
            "architecture": names,
            "own picture": stored.agreement.tolist(),
            "random picture": stored.chance.tolist(),
        },
        n=n,
        interval="line from a random picture's to the own",
        source=f"{stored.source}/agreement",
    )
