"""Sparse autoencoders side by side: reconstruction against sparsity, loss, dead latents, geometry."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label

MAX_SERIES = 5


def sae_comparison(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_comparison`."""
    names = [label(str(name), longest=40) for name in stored.conditions]
    n = f"{stored.n_rows:,} rows of {stored.n_documents} documents"
    trained = [i for i, kind in enumerate(stored.architecture) if not _is_baseline(kind)]
    best = min(trained, key=lambda i: stored.fvu[i], default=0)
    figures = [_curve(stored, names, n), _fvu(stored, names, n)]
    has_loss = np.isfinite(stored.delta_loss).any()
    if has_loss:
        figures += [_loss(stored, names)]
    figures += [_dead(stored, names, n), *_densities(stored, names, n), _geometry(stored, names, n)]
    if np.isfinite(stored.babel).any():
        figures += _babel(stored, names, n)
    if len(stored.classes):
        figures.append(_probes(stored, names))
    cost = f", raises the loss by {stored.delta_loss[best]:.2f} nats" if has_loss else ""
    return Section(
        id=stored.name,
        title=f"Dictionaries at {label(str(stored.site))}",
        chapter="Features",
        intro=(
            "How well each dictionary rebuilds the same rows, and what it costs the model to read "
            "the reconstruction. Principal components and a random decoder of the same sparsity "
            "stand beside: what they reach, training did not buy. Fraction of variance unexplained "
            "(FVU) is taken about the mean row; special and first tokens are left out."
        ),
        figures=tuple(figures),
        tiles=(
            Tile(
                label=f"variance unexplained by {names[best]}",
                value=f"{stored.fvu[best]:.1%}",
                meaning="1 - explained variance, about the mean row, on rows kept for measuring.",
                href=f"#{stored.name}-curve",
            ),
        ),
        verdict=(
            f"{names[best]} leaves {stored.fvu[best]:.1%} of the variance at {label(str(stored.site))} "
            f"unexplained with {stored.l0[best]:.1f} latents a row{cost}; "
            f"{int(stored.n_dead[best])} of its {int(stored.d_sae[best])} latents never fired."
        ),
        warnings=_warnings(stored, names, trained),
    )


def _is_baseline(kind: object) -> bool:
    return str(kind) in {"principal components", "random decoder"}


def _warnings(stored: Stored, names: list[str], trained: list[int]) -> tuple[str, ...]:
    """What a reader must know before believing the table."""
    found = []
    random = [i for i, kind in enumerate(stored.architecture) if str(kind) == "random decoder"]
    for i in trained:
        if stored.trained_here[i]:
            found.append(
                f"{names[i]} was trained on the run file it is judged on: expect worse elsewhere."
            )
        worse = [
            j for j in random if stored.fvu[i] >= stored.fvu[j] and stored.l0[i] >= stored.l0[j]
        ]
        if worse:
            found.append(
                f"{names[i]} rebuilds rows no better than a random decoder of equal sparsity."
            )
        if stored.fvu[i] > 1:
            found.append(
                f"{names[i]} rebuilds rows worse than their mean would (FVU {stored.fvu[i]:.2f}): "
                "probably another site, scale or model than it was trained on."
            )
    return tuple(found)


def _curve(stored: Stored, names: list[str], n: str) -> Figure:
    """FVU against L0, one line per architecture; beyond five, baselines and the largest groups."""
    kinds = list(dict.fromkeys(str(kind) for kind in stored.architecture))
    shown = sorted(kinds, key=lambda k: (not _is_baseline(k), kinds.index(k)))[:MAX_SERIES]
    order = [
        i
        for i in np.lexsort((stored.l0, stored.architecture))
        if str(stored.architecture[i]) in shown
    ]
    rows = as_rows(
        **{"latents a row (L0)": stored.l0[order], "variance unexplained": stored.fvu[order]},
        architecture=[label(str(stored.architecture[i])) for i in order],
    )
    left_out = [label(kind) for kind in kinds if kind not in shown]
    notes = (f"Not drawn: {', '.join(left_out)}; the table has them.",) if left_out else ()
    return Figure(
        id=f"{stored.name}-curve",
        question="What does sparsity cost?",
        reading="; ".join(
            f"{names[i]}: {stored.fvu[i]:.3f} at L0 {stored.l0[i]:.1f}" for i in order[:6]
        ),
        chart=lines(rows, x="latents a row (L0)", y="variance unexplained", series="architecture"),
        data={
            "dictionary": names,
            "architecture": [label(str(kind)) for kind in stored.architecture],
            "latents": stored.d_sae.tolist(),
            "L0": stored.l0.tolist(),
            "L0 std": stored.l0_std.tolist(),
            "FVU": stored.fvu.tolist(),
            "FVU with first tokens": stored.fvu_all.tolist(),
            "NMSE": stored.nmse.tolist(),
            "cosine": stored.cosine.tolist(),
            "length ratio": stored.norm_ratio.tolist(),
            "relative bias": stored.relative_bias.tolist(),
        },
        n=n,
        source=f"{stored.source}/fvu",
        notes=notes,
    )


def _fvu(stored: Stored, names: list[str], n: str) -> Figure:
    rows = as_rows(
        dictionary=names,
        **{"variance unexplained": stored.fvu},
        low=np.where(np.isnan(stored.fvu_low), stored.fvu, stored.fvu_low),
        high=np.where(np.isnan(stored.fvu_high), stored.fvu, stored.fvu_high),
    )
    ratio = stored.norm_ratio
    worst = int(np.argmin(ratio))
    return Figure(
        id=f"{stored.name}-fvu",
        question="How sure is that, and who shrinks?",
        reading=f"Reconstructions of {names[worst]} are {ratio[worst]:.2f} times as long as the rows.",
        chart=dots(rows, y="dictionary", x="variance unexplained", low="low", high="high"),
        data={
            "dictionary": names,
            "FVU": stored.fvu.tolist(),
            "low": stored.fvu_low.tolist(),
            "high": stored.fvu_high.tolist(),
            "length ratio": ratio.tolist(),
        },
        n=n,
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/fvu_low",
    )


def _loss(stored: Stored, names: list[str]) -> Figure:
    rows = as_rows(
        dictionary=names,
        **{"rise of the loss (nats)": stored.delta_loss},
        low=np.where(np.isnan(stored.delta_low), stored.delta_loss, stored.delta_low),
        high=np.where(np.isnan(stored.delta_high), stored.delta_loss, stored.delta_high),
    )
    return Figure(
        id=f"{stored.name}-loss",
        question="What does the model lose when it reads the reconstruction?",
        reading=(
            f"From {stored.clean_loss:.2f} nats; without the site it has {stored.zero_loss:.2f} "
            f"(zeros) or {stored.mean_loss:.2f} (mean). "
            + "; ".join(
                f"{name}: +{delta:.2f}, {score:.1%} recovered"
                for name, delta, score in list(
                    zip(names, stored.delta_loss, stored.ce_score, strict=True)
                )[:4]
            )
        ),
        chart=dots(rows, y="dictionary", x="rise of the loss (nats)", low="low", high="high"),
        data={
            "dictionary": names,
            "loss (nats)": stored.loss.tolist(),
            "rise (nats)": stored.delta_loss.tolist(),
            "low": stored.delta_low.tolist(),
            "high": stored.delta_high.tolist(),
            "KL (nats)": stored.kl.tolist(),
            "CE recovered": stored.ce_score.tolist(),
            "CE recovered of mean": stored.ce_score_mean.tolist(),
            "KL score": stored.kl_score.tolist(),
        },
        n=f"{stored.n_loss_tokens} predictions per dictionary",
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/delta_loss",
        notes=(
            "Recovered shares flatter: zero ablation costs so much that most scores are near 1.",
        ),
    )


def _dead(stored: Stored, names: list[str], n: str) -> Figure:
    dead = stored.n_dead / stored.d_sae
    rows = as_rows(dictionary=names, **{"share of latents dead": dead}, low=dead * 0, high=dead)
    return Figure(
        id=f"{stored.name}-dead",
        question="How many latents never fire, or nearly always?",
        reading="; ".join(
            f"{name}: {int(d)} dead, {int(e)} dense"
            for name, d, e in list(zip(names, stored.n_dead, stored.n_dense, strict=True))[:4]
        ),
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


def _densities(stored: Stored, names: list[str], n: str) -> list[Figure]:
    chosen = [i for i, kind in enumerate(stored.architecture) if not _is_baseline(kind)][
        :MAX_SERIES
    ]
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
                f"{names[i]}: most at {10 ** centres[int(np.argmax(stored.density_counts[i]))]:.1g}"
                for i in chosen
            ),
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


def _geometry(stored: Stored, names: list[str], n: str) -> Figure:
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


def _babel(stored: Stored, names: list[str], n: str) -> list[Figure]:
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
                reading="Babel function at the largest size: " + "; ".join(ends),
                chart=lines(rows, x="other atoms (r)", y="Babel", series="dictionary"),
                data={"other atoms (r)": sizes.tolist()}
                | {names[i]: values[i].tolist() for i in range(len(names))},
                n=f"{n}; largest sum of |cosine| that r other atoms have with one",
                source=f"{stored.source}/{key}",
            )
        )
    return found


def _probes(stored: Stored, names: list[str]) -> Figure:
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
