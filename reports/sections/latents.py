"""What the latents of dictionaries are like: dead or dense, apart or alike, one of them a class."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Stored
from ..tokens import label

MAX_SERIES = 5


def is_baseline(kind: object) -> bool:
    """Whether a dictionary stands beside the trained ones for comparison."""
    return str(kind) in {"principal components", "random decoder"}


def dead(stored: Stored, names: list[str], n: str) -> Figure:
    """Latents that never fire, and those that nearly always do."""
    share = stored.n_dead / stored.d_sae
    rows = as_rows(dictionary=names, **{"share of latents dead": share}, low=share * 0, high=share)
    return Figure(
        id=f"{stored.name}-dead",
        question="How many latents never fire, or nearly always?",
        reading="; ".join(
            f"{name}: {int(d)} dead, {int(e)} dense"
            for name, d, e in list(zip(names, stored.n_dead, stored.n_dense, strict=True))[:4]
        )
        + ".",
        chart=dots(rows, y="dictionary", x="share of latents dead", low="low", high="high"),
        data={
            "dictionary": names,
            "latents": stored.d_sae.tolist(),
            "dead": stored.n_dead.tolist(),
            "on more than 1 %": stored.n_frequent.tolist(),
            "on more than 10 %": stored.n_dense.tolist(),
        },
        n=f"{n}; dead means silent on all of them",
        source=f"{stored.source}/n_dead",
    )


def densities(stored: Stored, names: list[str], n: str) -> list[Figure]:
    """How often latents fire, one line per trained dictionary."""
    chosen = [i for i, kind in enumerate(stored.architecture) if not is_baseline(kind)][:MAX_SERIES]
    if not chosen:
        return []
    centres = (stored.density_edges[:-1] + stored.density_edges[1:]) / 2
    shares = stored.density_counts[chosen] / stored.d_sae[chosen][:, None]
    seen = np.flatnonzero(shares.sum(0))
    span = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(None)
    rows = as_rows(
        **{
            "log10 of the share of rows it fires on": np.tile(centres[span], len(chosen)),
            "share of latents": shares[:, span].ravel(),
        },
        dictionary=np.repeat([names[i] for i in chosen], len(centres[span])),
    )
    return [
        Figure(
            id=f"{stored.name}-density",
            question="How often do latents fire?",
            reading="; ".join(
                f"{names[i]}: most at {10 ** centres[int(np.argmax(stored.density_counts[i]))]:.1g}, "
                f"{stored.n_dead[i] / stored.d_sae[i]:.0%} never"
                for i in chosen
            )
            + ".",
            chart=lines(
                rows,
                x="log10 of the share of rows it fires on",
                y="share of latents",
                series="dictionary",
            ),
            data={"log10 of the density": centres.tolist()}
            | {names[i]: stored.density_counts[i].tolist() for i in range(len(names))},
            n=n,
            source=f"{stored.source}/density_counts",
        )
    ]


def geometry(stored: Stored, names: list[str], n: str) -> Figure:
    """How alike the directions of atoms are, all of them and those that fire together."""
    ratio = stored.coactive_cosine / np.maximum(stored.mean_cosine, 1e-9)
    finite = [
        i for i in range(len(names)) if np.isfinite(ratio[i]) and stored.mean_cosine[i] > 1e-6
    ]
    reading = "No two latents fire together."
    if finite:
        low = min(finite, key=lambda i: ratio[i])
        reading = (
            f"Atoms of {names[low]} that fire together have {ratio[low]:.2f} times the mean cosine "
            "of all its atoms."
        )
    return Figure(
        id=f"{stored.name}-geometry",
        question="Do atoms used together interfere?",
        reading=reading,
        data={
            "dictionary": names,
            "mean |cosine|, all": stored.mean_cosine.tolist(),
            "together": stored.coactive_cosine.tolist(),
            "median of largest": stored.max_cosine.tolist(),
            "encoder to decoder": stored.encoder_cosine.tolist(),
            "effective rank": stored.effective_rank.tolist(),
        },
        n=n,
        source=f"{stored.source}/coactive_cosine",
    )


def babel(stored: Stored, names: list[str], n: str) -> list[Figure]:
    """The Babel function of whole dictionaries and of what fires in one row."""
    kinds = [i for i, kind in enumerate(stored.architecture) if str(kind) != "principal components"]
    chosen = kinds[:MAX_SERIES]
    sizes = np.arange(1, stored.babel.shape[1] + 1)
    found = []
    for key, question in (
        ("babel", "How much can atoms interfere at worst?"),
        ("babel_coactive", "How much do those of one row?"),
    ):
        values = stored.values[key]
        rows = as_rows(
            **{"other atoms (r)": np.tile(sizes, len(chosen)), "Babel": values[chosen].ravel()},
            dictionary=np.repeat([names[i] for i in chosen], len(sizes)),
        )
        rows = [row for row in rows if row["Babel"] is not None]
        ends = [
            f"{names[i]}: {values[i][np.isfinite(values[i])][-1]:.2f}"
            for i in chosen
            if np.isfinite(values[i]).any()
        ]
        if not rows:
            continue
        found.append(
            Figure(
                id=f"{stored.name}-{key.replace('_', '-')}",
                question=question,
                reading="Babel function at the largest size: " + "; ".join(ends) + ".",
                chart=lines(rows, x="other atoms (r)", y="Babel", series="dictionary"),
                data={"other atoms (r)": sizes.tolist()}
                | {names[i]: values[i].tolist() for i in range(len(names))},
                n=f"{n}; largest sum of |cosine| that r other atoms have with one",
                source=f"{stored.source}/{key}",
            )
        )
    return found


def probes(stored: Stored, names: list[str]) -> Figure:
    """What one latent, or a few, know of a token's class."""
    best = stored.probe_accuracy[:, :, 0]
    rows = [
        {
            "dictionary": names[i],
            "accuracy of one latent": float(best[i].mean()),
            "low": float(best[i].min()),
            "high": float(best[i].max()),
        }
        for i in range(len(names))
    ]
    rows.append({
        "dictionary": "one channel of the activations",
        "accuracy of one latent": float(stored.probe_baseline[:, 0].mean()),
        "low": float(stored.probe_baseline[:, 0].min()),
        "high": float(stored.probe_baseline[:, 0].max()),
    })
    table: dict[str, list[object]] = {"class": [], "reader": [], "latents": [], "accuracy": []}
    for task, name in enumerate(stored.classes):
        for k, size in enumerate(stored.probe_sizes):
            readers = [*names, "channels"]
            values = [*stored.probe_accuracy[:, task, k], stored.probe_baseline[task, k]]
            for reader, value in zip(readers, values, strict=True):
                table["class"].append(label(str(name)))
                table["reader"].append(reader)
                table["latents"].append(int(size))
                table["accuracy"].append(float(value))
    return Figure(
        id=f"{stored.name}-probes",
        question="Does one latent know a token's class?",
        reading=(
            f"One channel of the activations reaches {stored.probe_baseline[:, 0].mean():.0%} on "
            f"average, all channels {stored.probe_full.mean():.0%}; guessing 50 %."
        ),
        chart=dots(rows, y="dictionary", x="accuracy of one latent", low="low", high="high"),
        data=table,
        n=f"{len(stored.classes)} classes of {label(str(stored.probe_label))}, one against the rest",
        interval="line from the worst to the best class",
        source=f"{stored.source}/probe_accuracy",
    )
