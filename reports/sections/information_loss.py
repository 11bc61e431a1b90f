"""Information: how sure the predictions are, and the loss taken apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, dots, lines
from ..figure import Figure
from ..section import Context, Section, Stored, Tile
from ..tokens import label
from .estimates import CHAPTER, INTERVAL

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
        reading="Every divergence makes an entropy; means are "
        + "; ".join(
            f"{kind} {value:.3g}" for kind, value in zip(kinds, stored.entropy, strict=True)
        )
        + ".",
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
