"""Information: the geometry of the head, and how states that predict alike stand."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, bars, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label
from .estimates import CHAPTER, INTERVAL, in_words


def geometry(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_geometry`."""
    order = np.arange(1, min(len(stored.spectrum), 64) + 1)
    curves = {"one position (median)": stored.spectrum, "mean over positions": stored.population}
    rows = [
        row
        for name, values in curves.items()
        for row in as_rows(order=order, eigenvalue=values[: len(order)], of=[name] * len(order))
        if row["eigenvalue"] > 1e-9
    ]
    rank = in_words(np.array([stored.rank_mean, stored.rank_low, stored.rank_high]))
    spectrum = Figure(
        id=f"{stored.name}-spectrum",
        question="How many directions of a state matter to the prediction?",
        reading=f"Effective rank {rank} "
        f"at one position, {stored.population_rank:.0f} for the mean metric.",
        chart=lines(rows, x="order", y="eigenvalue", series="of", log=True),
        data={"order": order.tolist()}
        | {name: values[: len(order)].tolist() for name, values in curves.items()},
        n=f"{len(stored.rows)} positions in {stored.n_documents} documents",
        interval=f"{INTERVAL} (of the mean rank)",
        source=f"{stored.source}/spectrum",
        notes=(
            f"KL of small steps over the metric's prediction: {stored.kl_ratio:.4f}",
            f"before the norm the state itself is a null direction: {stored.null_before_norm:.1e}",
        ),
    )
    by_entropy = np.argsort(stored.entropy)
    ranks = Figure(
        id=f"{stored.name}-ranks",
        question="Are unsure states sensitive in more directions?",
        reading=f"From {stored.rank[by_entropy[0]]:.1f} directions at {stored.entropy.min():.2f} nats "
        f"to {stored.rank[by_entropy[-1]]:.1f} at {stored.entropy.max():.2f}.",
        chart=lines(
            as_rows(**{"entropy (nats)": stored.entropy[by_entropy],
                       "effective rank": stored.rank[by_entropy]}),
            x="entropy (nats)", y="effective rank",
        ),
        data={
            "entropy (nats)": stored.entropy[by_entropy].tolist(),
            "effective rank": stored.rank[by_entropy].tolist(),
            "participation": stored.share[by_entropy].tolist(),
            "trace": stored.trace[by_entropy].tolist(),
        },
        n=f"{len(stored.rows)} positions",
        source=f"{stored.source}/rank",
    )  # fmt: skip
    named = Figure(
        id=f"{stored.name}-directions",
        question="Which tokens does the most sensitive direction raise?",
        reading="By the logits it raises most the leading eigenvector "
        + (
            f"says {label(context.token(stored.shown_tokens[0, 0]))} at row "
            f"{int(stored.shown_rows[0])}; {stored.share.mean():.1f} directions take part on average."
            if len(stored.shown_rows)
            else "was read nowhere."
        ),
        data={
            "row": stored.shown_rows.tolist(),
            "raises": [", ".join(context.token(t) for t in row) for row in stored.shown_tokens],
        },
        n=f"{len(stored.shown_rows)} positions",
        source=f"{stored.source}/shown_tokens",
    )
    return Section(
        id=stored.name,
        title="Geometry of the head",
        chapter=CHAPTER,
        intro="The Fisher-Rao metric of the predictions pulled back to states after the final norm: "
        "how far a small step moves the distribution. Its rank is at most the width; that it were "
        "degenerate, as the paper says, it is not.",
        figures=(spectrum, ranks, named),
        verdict=f"At one position about {stored.rank_mean:.0f} directions of a state matter to the "
        "prediction.",
    )


def alignment(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_alignment`."""
    names = [
        label(str(name), longest=60) + (" (tautological)" if taut else "")
        for name, taut in zip(stored.variants, stored.tautological, strict=True)
    ]
    overlap = (
        f"overlap of the top {stored.k} directions of states and of the Bhattacharyya kernel "
        f"{stored.overlap:.2f} (random weights {stored.overlap_random_model:.2f}, paired at random "
        f"{stored.overlap_null:.2f}); tautological"
    )
    energy = (
        f"Spearman of Hellinger distance and metric length {stored.metric_rank:.2f}; energy of the "
        f"leading directions over that of random ones {stored.dirichlet:.2f}"
    )
    figure = Figure(
        id=f"{stored.name}-cca",
        question="Do states that predict alike stand alike?",
        reading=f"Held-out canonical correlation with the tokens that came {stored.cca[0]:.2f} (random "
        f"weights {stored.cca[1]:.2f}, rows paired at random {stored.cca_null[0]:.2f}); with the "
        f"model's own predictions {stored.cca[2]:.2f}, with random weights {stored.cca[3]:.2f}.",
        chart=bars(as_rows(variant=names, **{"mean correlation": stored.cca}), x="variant",
                   y="mean correlation"),
        data={
            "variant": names,
            "mean held-out correlation": stored.cca.tolist(),
            "paired at random, 97.5 %": stored.cca_null_high.tolist(),
            "linear CKA": stored.cka.tolist(),
            "CKA paired at random, 97.5 %": stored.cka_null_high.tolist(),
        },
        n=f"{stored.n_fit:,} rows to fit, {stored.n_test:,} of other documents to score, "
        f"{stored.k} directions",
        interval="null: 100 permutations",
        source=stored.source,
        notes=(overlap, energy),
        wide=True,
    )  # fmt: skip
    return Section(
        id=stored.name,
        title="Predictive similarity and the states' spectrum",
        chapter=CHAPTER,
        intro="The spectral claim in its weak form: a generalised CCA between states and prototypes. "
        "With the model's own predictions it is a tautology.",
        figures=(figure, *_one_sided(stored, names)),
    )


def _one_sided(stored: Stored, names: list[str]) -> list[Figure]:
    """How much of what came the leading directions explain; files from before it have none."""
    share, curve = stored.values.get("one_sided"), stored.values.get("one_sided_curve")
    if share is None or curve is None:
        return []
    count = np.arange(1, curve.shape[1] + 1)
    short = [
        label(str(name), longest=60)
        .replace("token that came,", "came,")
        .replace("own prediction,", "own,")
        for name in stored.variants
    ]
    apart = "more" if share[0] > stored.one_sided_null_high[0] else "no more"
    learnt = "more than" if share[0] > share[1] else "no more than"
    overlap = (
        f"overlap with the {stored.k} leading principal directions of the states "
        f"{stored.one_sided_overlap[0]:.2f} (canonical directions {stored.cca_overlap[0]:.2f}, random "
        f"white ones {stored.chance_overlap:.2f})"
    )
    return [
        Figure(
            id=f"{stored.name}-one-sided",
            question="How much of what comes do the states' leading directions explain?",
            reading=f"{stored.k} directions explain {_part(share[0])} of the variance of the tokens "
            f"that came, {apart} than rows paired at random ({_part(stored.one_sided_null[0])}) and "
            f"{learnt} those of random weights ({_part(share[1])}); of the model's own predictions "
            f"{_part(share[2])}.",
            chart=lines(
                as_rows(
                    directions=np.tile(count, len(names)),
                    **{"share explained": curve.ravel()},
                    of=np.repeat(short, len(count)),
                ),
                x="directions",
                y="share explained",
                series="of",
            ),
            data={
                "of": [name for name in names for _ in count],
                "directions": np.tile(count, len(names)).tolist(),
                "share explained, held-out": curve.ravel().tolist(),
                "share of the direction alone, rows of the fit": stored.one_sided_fit.ravel().tolist(),
            },
            n=f"{stored.n_fit:,} rows to fit, {stored.n_test:,} of other documents to score",
            interval="null: 100 permutations",
            source=f"{stored.source}/one_sided_curve",
            notes=(
                overlap,
                "own predictions are a tautology",
                "a share below 0: on other documents the fit does worse than the mean would",
                "only the states are whitened, so a direction counts by how much it moves",
            ),
            wide=True,
        )
    ]


def _part(share: float) -> str:
    """A held-out share in words; how far one lies below 0 tells of the fit, not of the states."""
    return f"{share:.1%}" if share > 0 else "nothing"
