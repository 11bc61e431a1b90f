"""Sparse autoencoders side by side: reconstruction against sparsity, loss, dead latents, geometry."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label
from .latents import MAX_SERIES, babel, dead, densities, geometry, is_baseline, probes


def sae_comparison(stored: Stored, context: Context) -> Section:
    """Section of the result kind `sae_comparison`."""
    names = [label(str(name), longest=40) for name in stored.conditions]
    n = f"{stored.n_rows:,} rows of {stored.n_documents} documents"
    trained = [i for i, kind in enumerate(stored.architecture) if not is_baseline(kind)]
    best = min(trained, key=lambda i: stored.fvu[i], default=0)
    figures = [_curve(stored, names, n), _fvu(stored, names, n)]
    has_loss = np.isfinite(stored.delta_loss).any()
    if has_loss:
        figures += [_loss(stored, names)]
    figures += [dead(stored, names, n), *densities(stored, names, n), geometry(stored, names, n)]
    if np.isfinite(stored.babel).any():
        figures += babel(stored, names, n)
    if len(stored.classes):
        figures.append(probes(stored, names))
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
    """FVU against L0, one line per architecture; of more than five, the trained ones come first."""
    kinds = list(dict.fromkeys(str(kind) for kind in stored.architecture))
    shown = sorted(kinds, key=lambda k: (is_baseline(k), kinds.index(k)))[:MAX_SERIES]
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
        )
        + ".",
        chart=lines(rows, x="latents a row (L0)", y="variance unexplained", series="architecture"),
        data={
            "dictionary": names,
            "architecture": [label(str(kind)) for kind in stored.architecture],
            "latents": stored.d_sae.tolist(),
            "L0": stored.l0.tolist(),
            "L0 std": stored.l0_std.tolist(),
            "FVU": stored.fvu.tolist(),
            "FVU low": stored.fvu_low.tolist(),
            "FVU high": stored.fvu_high.tolist(),
            "FVU with first tokens": stored.fvu_all.tolist(),
            "NMSE": stored.nmse.tolist(),
            "cosine": stored.cosine.tolist(),
            "length ratio": stored.norm_ratio.tolist(),
            "relative bias": stored.relative_bias.tolist(),
        },
        n=n,
        interval="95 % bootstrap over documents, in the table and the next figure",
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
            + "."
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
