"""Information: the loss taken apart, what layers hold of the future, why drafting works, the head."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np

from ..charts import as_rows, bars, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..theme import HEIGHT, SERIES, WIDTH
from ..tokens import label

CHAPTER = "Information"
INTERVAL = "95 % bootstrap over documents"
NAMES = {
    "kl": "Shannon (KL), nats",
    "renyi": "Rényi of order 3/2, nats",
    "tv": "Gini-Simpson (total variation)",
    "hellinger": "1 - sum p^(3/2) (squared Hellinger)",
    "js": "Jensen-Shannon, nats",
    "chi2": "support less one (chi squared)",
}
"""Entropies as a reader meets them, by divergence."""


def predictions(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_predictions`."""
    entropy = stored.entropies[:, 0]
    counts, edges = np.histogram(entropy, bins=32)
    middle = (edges[:-1] + edges[1:]) / 2
    rows = as_rows(**{"entropy (nats)": middle, "share of positions": counts / counts.sum()})
    sure = float((entropy < 0.1).mean())
    figure = Figure(
        id=f"{stored.name}-entropies",
        question="How sure is the model, position by position?",
        reading=f"Median entropy {np.median(entropy):.2f} nats; {sure:.0%} of positions are below 0.1.",
        chart=lines(rows, x="entropy (nats)", y="share of positions"),
        data={"entropy (nats)": middle.tolist(), "positions": counts.tolist()},
        n=f"{len(entropy):,} positions",
        source=f"{stored.source}/entropies",
    )
    stored_as = str(stored.state_dtype)
    coarse = stored_as not in ("float32", "float64")
    return Section(
        id=stored.name,
        title="Predictions",
        chapter=CHAPTER,
        figures=(figure,),
        warnings=(f"States were stored as {stored_as}: entropies hold to about two digits.",)
        if coarse
        else (),
    )


def loss(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_loss`."""
    figures = (_parts_of_loss(stored), _calibration(stored), _entropies(stored), _positions(stored))
    return Section(
        id=stored.name,
        title="The loss taken apart",
        chapter=CHAPTER,
        intro="Cross-entropy is the entropy of the predictions plus a calibration gap, and, seen from "
        "the unigram law, what the context says of the next token (arXiv 2507.19247). Bounds are over "
        "documents.",
        figures=figures,
        tiles=(
            Tile(
                label="calibration gap, nats",
                value=f"{stored.gap:+.3f}",
                meaning="Loss less the mean entropy of the predictions; zero for a calibrated model.",
                href=f"#{stored.name}-parts",
            ),
        ),
        verdict=f"Of {stored.unigram:.2f} nats per token, context takes off "
        f"{stored.data_information:.2f}; the predictions are off calibration by {stored.gap:+.2f}.",
    )


def _parts_of_loss(stored: Stored) -> Figure:
    names = [
        "loss", "entropy of predictions", "gap (loss - entropy)", "E2b: unigram - loss",
        "E2a: information in the model's world",
    ]  # fmt: skip
    keys = ("loss", "", "gap", "data_information", "model_information")
    estimates = [
        (stored.entropy[0], stored.entropy_low[0], stored.entropy_high[0])
        if not key
        else tuple(getattr(stored, key + end) for end in ("", "_low", "_high"))
        for key in keys
    ]
    if stored.excess is not None:
        names.append("excess over the source's entropy")
        estimates.append((stored.excess, stored.excess_low, stored.excess_high))
    value, low, high = (list(map(float, column)) for column in zip(*estimates, strict=True))
    rows = as_rows(part=names, nats=value, low=low, high=high)
    return Figure(
        id=f"{stored.name}-parts",
        question="What is the loss made of?",
        reading=f"{stored.loss:.3f} nats = entropy {stored.entropy[0]:.3f} + gap {stored.gap:+.3f} "
        f"({stored.gap_low:+.3f} to {stored.gap_high:+.3f}).",
        chart=dots(rows, y="part", x="nats", low="low", high="high"),
        data={"part": names, "nats": value, "low": low, "high": high},
        n=f"{stored.n_tokens:,} predictions in {stored.n_documents} documents",
        interval=INTERVAL,
        source=stored.source,
        notes=(
            f"E2a is expected to be {stored.model_information_bias:.4f} nats too low for its size",
            "E2b is a lower bound; its unigram law comes from other documents",
        ),
    )


def _calibration(stored: Stored) -> Figure:
    held = np.isfinite(stored.confidence)
    columns = {"confidence": stored.confidence[held], "share right": stored.accuracy[held]}
    rows = as_rows(**columns, which=["model"] * int(held.sum()))
    rows += [{"confidence": v, "share right": v, "which": "calibrated"} for v in (0.0, 1.0)]
    return Figure(
        id=f"{stored.name}-calibration",
        question="Does it know how sure it may be?",
        reading=f"Confidence and the share that is right differ by {stored.calibration_error:.3f} on "
        "average.",
        chart=lines(rows, x="confidence", y="share right", series="which"),
        data={key: value.tolist() for key, value in columns.items()}
        | {"share of positions": stored.share[held].tolist()},
        n=f"{stored.n_tokens:,} first choices",
        source=f"{stored.source}/accuracy",
    )


def _entropies(stored: Stored) -> Figure:
    kinds = [NAMES.get(str(name), label(str(name), longest=40)) for name in stored.divergences]
    data: dict[str, Any] = {
        "categorical entropy": kinds,
        "mean": stored.entropy.tolist(),
        "low": stored.entropy_low.tolist(),
        "high": stored.entropy_high.tolist(),
    }
    return Figure(
        id=f"{stored.name}-entropies",
        question="And by other divergences?",
        reading="Every divergence makes an entropy; chi squared only counts the support.",
        data=data,
        n=f"{stored.n_tokens:,} predictions",
        interval=INTERVAL,
        source=f"{stored.source}/entropy",
    )


def _positions(stored: Stored) -> Figure:
    curves = {"loss": stored.loss_by_position, "entropy": stored.entropy_by_position[:, 0]}
    held = np.isfinite(stored.loss_by_position)
    rows = as_rows(
        position=np.tile(stored.position[held], 2),
        nats=np.concatenate([curve[held] for curve in curves.values()]),
        which=np.repeat(list(curves), int(held.sum())),
    )
    return Figure(
        id=f"{stored.name}-positions",
        question="Is it miscalibrated early or late?",
        reading=f"Loss less entropy is {_at(curves, held, 0):+.2f} nats at the start of a window and "
        f"{_at(curves, held, -1):+.2f} at its end.",
        chart=lines(rows, x="position", y="nats", series="which"),
        data={"position": stored.position[held].tolist()}
        | {f"{name} (nats)": curve[held].tolist() for name, curve in curves.items()},
        n=f"{stored.n_tokens:,} predictions",
        source=f"{stored.source}/loss_by_position",
    )


def _at(curves: dict[str, np.ndarray], held: np.ndarray, place: int) -> float:
    return float((curves["loss"] - curves["entropy"])[held][place])


def flow(stored: Stored, context: Context) -> Section:
    """Section of the result kind `information_flow`."""
    best = int(np.nanargmax(stored.surplus[:, 0]))
    figures = (
        _futures(stored),
        _surplus(stored),
        _drafting(stored),
        _depths(stored),
        _others(stored),
    )
    return Section(
        id=stored.name,
        title="Information flow and drafting",
        chapter=CHAPTER,
        intro="Usable information of each layer about the tokens to come, on documents not trained on. "
        "It is that of a family of predictors, so it may grow with depth; Shannon information is the "
        "same at every layer of a real model. " + label(str(stored.family), longest=400) + ".",
        figures=figures,
        verdict=f"Beyond the next token, layer {int(stored.layers[best])} holds most: "
        f"{_text(stored.surplus[best])} nats once W0 is known, and a draft head on it matches "
        f"{stored.acceptance[best, 0]:.0%} of the model's next choices.",
        warnings=tuple(label(str(line), longest=400) for line in stored.refusals),
    )


def _futures(stored: Stored) -> Figure:
    n_futures = min(stored.futures.shape[1], len(SERIES))
    rows = [
        row
        for k in range(n_futures)
        for row in as_rows(
            layer=stored.layers, nats=stored.futures[:, k, 0], low=stored.futures[:, k, 1],
            high=stored.futures[:, k, 2], about=[f"W{k}"] * len(stored.layers),
        )
    ]  # fmt: skip
    data: dict[str, Any] = {"layer": stored.layers.tolist()}
    for k in range(stored.futures.shape[1]):
        data |= _columns(f"W{k}", stored.futures[:, k])
    last = stored.futures[-1, :, 0]
    return Figure(
        id=f"{stored.name}-futures",
        question="What does each layer say of the tokens to come?",
        reading=f"Layer {int(stored.layers[-1])}: {last[0]:.2f} nats about W0, {last[1]:.2f} about W1, "
        f"at layer {int(stored.layers[0])} {stored.futures[0, 0, 0]:.2f} and "
        f"{stored.futures[0, 1, 0]:.2f}.",
        chart=lines(rows, x="layer", y="nats", series="about", band=("low", "high")),
        data=data,
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/futures",
        notes=(f"tokens merged into {int(stored.n_classes):,} classes",),
    )


def _surplus(stored: Stored) -> Figure:
    curves = {"draft head": stored.surplus, "additive probe": stored.additive}
    rows = [
        row
        for name, curve in curves.items()
        for row in as_rows(layer=stored.layers, nats=curve[:, 0], low=curve[:, 1],
                           high=curve[:, 2], family=[name] * len(curve))
    ]  # fmt: skip
    data: dict[str, Any] = {"layer": stored.layers.tolist()}
    for name, curve in curves.items():
        data |= _columns(name, curve)
    return Figure(
        id=f"{stored.name}-surplus",
        question="What does a state add once the next token is known?",
        reading=f"At the last layer {_text(stored.surplus[-1])} nats for a draft head, "
        f"{_text(stored.additive[-1])} for an additive probe, which cannot see synergy.",
        chart=lines(rows, x="layer", y="nats", series="family", band=("low", "high")),
        data=data,
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/surplus",
        notes=tuple(label(str(line), longest=400) for line in stored.verdicts),
    )


def _drafting(stored: Stored) -> Figure:
    """Surplus across, acceptance up, an interval each way, layers named."""
    rows = as_rows(
        layer=[f"layer {layer}" for layer in stored.layers],
        **{"surplus (nats)": stored.surplus[:, 0], "accepted": stored.acceptance[:, 0]},
        left=stored.surplus[:, 1], right=stored.surplus[:, 2],
        low=stored.acceptance[:, 1], high=stored.acceptance[:, 2],
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=rows), width=WIDTH, height=HEIGHT)
    scale = alt.Scale(zero=False)
    few = alt.Axis(tickCount=6)
    across = alt.X(
        field="surplus (nats)", type="quantitative", title="surplus (nats)", scale=scale, axis=few
    )
    up = alt.Y(field="accepted", type="quantitative", title="share accepted", scale=scale)
    wide = base.mark_rule(color=SERIES[0], opacity=0.6).encode(
        alt.X(field="left", type="quantitative", title="surplus (nats)", scale=scale, axis=few),
        alt.X2(field="right"), up,
    )  # fmt: skip
    tall = base.mark_rule(color=SERIES[0], opacity=0.6).encode(
        across, alt.Y(field="low", type="quantitative", title="share accepted", scale=scale),
        alt.Y2(field="high"),
    )  # fmt: skip
    dot = base.mark_point(filled=True, size=60, color=SERIES[0], opacity=1).encode(across, up)
    name = base.mark_text(align="left", dx=7, dy=-6, color="currentColor").encode(
        across, up, alt.Text(field="layer", type="nominal")
    )
    blind = stored.depth_blind[0]
    return Figure(
        id=f"{stored.name}-drafting",
        question="Why does drafting work here?",
        reading=f"Over layers, surplus and acceptance rank alike by {stored.rank_correlation:.2f} "
        f"(Spearman); without a state a head matches {blind[0]:.0%}, with the last layer's "
        f"{stored.acceptance[-1, 0]:.0%}, and {stored.coverage:.0%} could be named at all.",
        chart=alt.layer(wide, tall, dot, name),
        data={"layer": stored.layers.tolist()}
        | _columns("surplus", stored.surplus)
        | _columns("accepted", stored.acceptance),
        n=_counted(stored),
        interval=INTERVAL,
        alt="Surplus of each layer against the acceptance of a draft head trained on it",
        source=f"{stored.source}/acceptance",
        notes=("accepted: the head's first choice for W1, W0 known, is the model's greedy choice",),
    )


def _depths(stored: Stored) -> Figure:
    depths = [f"W{k}" for k in stored.depth]
    rows = as_rows(token=depths, nats=stored.depth_surplus[:, 0], low=stored.depth_surplus[:, 1],
                   high=stored.depth_surplus[:, 2])  # fmt: skip
    return Figure(
        id=f"{stored.name}-depths",
        question="How far ahead does the last layer see?",
        reading="Surplus by depth, tokens before it known: "
        + ", ".join(
            f"{name} {row[0]:.2f} nats"
            for name, row in zip(depths, stored.depth_surplus, strict=True)
        )
        + ".",
        chart=dots(rows, y="token", x="nats", low="low", high="high"),
        data={"token": depths}
        | _columns("surplus", stored.depth_surplus)
        | _columns("accepted", stored.depth_acceptance)
        | _columns("accepted without state", stored.depth_blind),
        n=_counted(stored),
        interval=INTERVAL,
        source=f"{stored.source}/depth_surplus",
    )


def _others(stored: Stored) -> Figure:
    rows = [
        ("E3c cluster table, W0", stored.cluster_next[-1], "coarse classes"),
        ("E3c cluster table, surplus", stored.cluster_surplus[-1], "coarse classes"),
        ("E4 matrix Rényi, W0", stored.renyi_next[-1], "trend only; groups"),
        ("E5 InfoNCE, W0", stored.contrastive, f"at most {stored.contrastive_cap:.2f}; groups"),
        (
            "E3a model's world, surplus", stored.model_surplus,
            (f"{int(stored.model_surplus_classes)} classes, W0 read covers "
            f"{stored.model_surplus_covered:.0%}, at most {stored.model_surplus_cap:.2f}"),
        ),
        ("control: W0, states of other rows", stored.control_next, "should not exceed 0"),
        ("control: surplus, states of other rows", stored.control_surplus, "should not exceed 0"),
    ]  # fmt: skip
    return Figure(
        id=f"{stored.name}-estimators",
        question="What do other estimators and the controls say?",
        reading=f"At the last layer; with states of other rows information about W0 is "
        f"{_text(stored.control_next)} nats.",
        data={
            "estimator": [name for name, _, _ in rows],
            "nats": [float(value[0]) for _, value, _ in rows],
            "low": [float(value[1]) for _, value, _ in rows],
            "high": [float(value[2]) for _, value, _ in rows],
            "note": [note for _, _, note in rows],
        },
        n=_counted(stored),
        interval=f"{INTERVAL}, or over groups of rows where the note says so",
        source=stored.source,
    )


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
    rank = _text(np.array([stored.rank_mean, stored.rank_low, stored.rank_high]))
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
        reading="The leading eigenvector at a few positions, by the logits it raises most.",
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
        figures=(figure,),
    )


def _columns(name: str, estimates: np.ndarray) -> dict[str, Any]:
    ends = ("", " low", " high")
    return {f"{name}{end}": estimates[:, i].tolist() for i, end in enumerate(ends)}


def _text(estimate: np.ndarray) -> str:
    return f"{estimate[0]:.3f} ({estimate[1]:.3f} to {estimate[2]:.3f})"


def _counted(stored: Stored) -> str:
    return (
        f"{int(stored.n_train):,} tokens trained on, {int(stored.n_test):,} tested on in "
        f"{int(stored.n_test_documents)} documents"
    )
