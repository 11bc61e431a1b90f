"""Attention on a source as a continuation grows, and constructions that keep it in sight."""

from __future__ import annotations

import numpy as np

from ..charts import as_rows, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored

PARTS = ("source", "sinks", "target so far")


def attention_degeneration(stored: Stored, context: Context) -> Section:
    """Section of the result kind `attention_degeneration`."""
    documents = stored.values.get("n_documents")
    cut_from = f" of {documents} documents" if documents else ""
    n = (
        f"{stored.n_texts} texts{cut_from}; source {stored.n_source}, target {stored.n_target} forced "
        f"tokens; {stored.values['source']}"
    )
    ratio = stored.corrected / stored.corrected_uniform
    return Section(
        id=stored.name,
        title="Does it lose sight of its source?",
        chapter="Layers",
        intro=(
            f"The first {stored.n_source} tokens of each text count as its source; what follows is "
            "forced, so that only the length changes. Attention spread evenly would dilute anyway; "
            "degeneration proper (arXiv 2304.04052) is falling below that. The first "
            f"{stored.n_sinks} position(s), where heads park attention, are left out of the "
            "corrected share."
        ),
        figures=(
            _mass(stored, n),
            *_moved(stored, n),
            _heads(stored, n),
            _jacobian(stored, n),
            _nats(stored, n),
        ),
        verdict=(
            f"After {stored.steps[-1]} tokens attention to the source without its sinks is "
            f"{ratio[-1]:.2f} times what even attention would leave ({ratio[0]:.2f} after the first "
            f"token), and another source would change the prediction by {stored.divergence[-1]:.2f} "
            f"nats ({stored.divergence[0]:.2f} after the first)."
        ),
    )


def _mass(stored: Stored, n: str) -> Figure:
    curves = {
        "all of the source": (stored.mass, stored.mass_low, stored.mass_high),
        "without sinks": (stored.corrected, stored.corrected_low, stored.corrected_high),
        "even attention": (stored.corrected_uniform,) * 3,
    }
    n_steps = len(stored.steps)
    rows = as_rows(
        step=np.tile(stored.steps, len(curves)),
        share=np.concatenate([curve[0] for curve in curves.values()]),
        low=np.concatenate([curve[1] for curve in curves.values()]),
        high=np.concatenate([curve[2] for curve in curves.values()]),
        which=np.repeat(list(curves), n_steps),
    )
    return Figure(
        id=f"{stored.name}-mass",
        question="How much attention stays on the source?",
        reading=f"From {stored.corrected[0]:.2f} to {stored.corrected[-1]:.2f} without sinks; even "
        f"attention goes from {stored.corrected_uniform[0]:.2f} to {stored.corrected_uniform[-1]:.2f}.",
        chart=lines(rows, x="step", y="share", series="which", band=("low", "high")),
        data={"step": stored.steps.tolist()}
        | {name: curve[0].tolist() for name, curve in curves.items()}
        | {"on sinks": stored.sink.tolist()},
        n=n,
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/mass",
    )


def _moved(stored: Stored, n: str) -> tuple[Figure, ...]:
    """The same share weighted by what attention moves, for results that hold it."""
    if stored.values.get("weighted") is None:
        return ()
    curves = {
        "what attention moves": (stored.weighted, stored.weighted_low, stored.weighted_high),
        "attention alone": (stored.corrected, stored.corrected_low, stored.corrected_high),
        "even attention": (stored.corrected_uniform,) * 3,
    }
    rows = as_rows(
        step=np.tile(stored.steps, len(curves)),
        share=np.concatenate([curve[0] for curve in curves.values()]),
        low=np.concatenate([curve[1] for curve in curves.values()]),
        high=np.concatenate([curve[2] for curve in curves.values()]),
        which=np.repeat(list(curves), len(stored.steps)),
    )
    figure = Figure(
        id=f"{stored.name}-moved",
        question="Does what it still looks at move anything?",
        reading=f"Of what attention moves, sinks left out, the source's share goes from "
        f"{stored.weighted[0]:.2f} to {stored.weighted[-1]:.2f}; of attention itself from "
        f"{stored.corrected[0]:.2f} to {stored.corrected[-1]:.2f}.",
        chart=lines(rows, x="step", y="share", series="which", band=("low", "high")),
        data={"step": stored.steps.tolist()}
        | {name: curve[0].tolist() for name, curve in curves.items()}
        | {
            "what attention moves, low": stored.weighted_low.tolist(),
            "what attention moves, high": stored.weighted_high.tolist(),
        },
        n=f"{n}; attention p weighted by |W_O (v - o)|, the change it makes in the stream",
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/weighted",
    )
    return (figure,)


def _heads(stored: Stored, n: str) -> Figure:
    last = stored.head_ratio[:, :, -1]
    n_layers, n_heads = last.shape
    rows = as_rows(
        layer=np.repeat(np.arange(n_layers), n_heads),
        head=np.tile(np.arange(n_heads), n_layers),
        ratio=last.ravel(),
    )
    keeping = int((last > 1).sum())
    return Figure(
        id=f"{stored.name}-heads",
        question="Which heads go on looking at the source?",
        reading=f"{keeping} of {last.size} heads look at it more than evenly after "
        f"{stored.steps[-1]} tokens.",
        chart=heat(rows, x="layer", y="head", value="ratio"),
        data={"layer": list(range(n_layers))}
        | {f"head {h}": last[:, h].tolist() for h in range(n_heads)},
        n=f"{n}; share without sinks over the even one, at the last step",
        source=f"{stored.source}/head_ratio",
    )


def _jacobian(stored: Stored, n: str) -> Figure:
    kept = [k for k, part in enumerate(PARTS) if np.isfinite(stored.jacobian[k]).all()]
    n_steps = len(stored.steps)
    rows = as_rows(
        step=np.tile(stored.steps, len(kept)),
        **{"squared norm": stored.jacobian[kept].ravel()},
        low=stored.jacobian_low[kept].ravel(),
        high=stored.jacobian_high[kept].ravel(),
        which=np.repeat([PARTS[k] for k in kept], n_steps),
    )
    fall = stored.jacobian[0, 0] / stored.jacobian[0, -1]
    return Figure(
        id=f"{stored.name}-jacobian",
        question="How sensitive is the prediction to an embedding of the source?",
        reading=f"From the first step to the last it {'falls' if fall > 1 else 'rises'} by a factor "
        f"of {max(fall, 1 / fall):.1f} per source position.",
        chart=lines(
            rows, x="step", y="squared norm", series="which", band=("low", "high"), log=True
        ),
        data={"step": stored.steps.tolist()}
        | {part: stored.jacobian[k].tolist() for k, part in enumerate(PARTS)},
        n=n,
        interval="95 % bootstrap over documents, geometric means",
        source=f"{stored.source}/jacobian",
    )


def _nats(stored: Stored, n: str) -> Figure:
    rows = as_rows(
        step=stored.steps,
        **{"KL (nats)": stored.divergence},
        low=stored.divergence_low,
        high=stored.divergence_high,
    )
    return Figure(
        id=f"{stored.name}-divergence",
        question="Would another source change the prediction?",
        reading=f"By {stored.divergence[0]:.2f} nats after the first token, by "
        f"{stored.divergence[-1]:.2f} after {stored.steps[-1]}.",
        chart=lines(rows, x="step", y="KL (nats)", band=("low", "high")),
        data={
            "step": stored.steps.tolist(),
            "KL (nats)": stored.divergence.tolist(),
            "low": stored.divergence_low.tolist(),
            "high": stored.divergence_high.tolist(),
        },
        n=f"{n}; the other source is another document's",
        interval="95 % bootstrap over documents",
        source=f"{stored.source}/divergence",
    )


def source_recall(stored: Stored, context: Context) -> Section:
    """Section of the result kind `source_recall`."""
    names = [str(name) for name in stored.models]
    mean = stored.accuracy.mean(1)
    n = f"{stored.accuracy.shape[1]} seeds; held-out answers of the task {stored.task!r}"
    shown = [i for i, name in enumerate(names) if name in ("lm", "palm", "palm-no-partial")]
    shown = shown or list(range(min(len(names), 4)))
    rows = as_rows(
        **{"target tokens before the answer": np.tile(stored.bins, len(shown))},
        accuracy=mean[shown].ravel(),
        low=stored.accuracy[shown].min(1).ravel(),
        high=stored.accuracy[shown].max(1).ravel(),
        which=np.repeat([names[i] for i in shown], len(stored.bins)),
    )
    best = int(mean.mean(1).argmax())
    return Section(
        id=stored.name,
        title="Constructions that keep the source in sight",
        chapter="Other results",
        intro=(
            "Small models trained alike on answers that stand in the source, asked after ever more "
            "target. `palm` adds attention to the source alone; `red-no-...` is the encoder-decoder "
            "with one of the five constraints left out that would make it the language model `lm` "
            "(arXiv 2304.04052)."
        ),
        figures=(
            Figure(
                id=f"{stored.name}-accuracy",
                question="Is the answer still found late in the target?",
                reading=f"Best overall is {names[best]} with {mean[best].mean():.0%} of the answers; "
                f"guessing would give {stored.chance:.0%}.",
                chart=lines(
                    rows,
                    x="target tokens before the answer",
                    y="accuracy",
                    series="which",
                    band=("low", "high"),
                ),
                data={
                    "construction": names,
                    "parameters": stored.parameters.tolist(),
                    "loss (nats)": stored.loss.mean(1).tolist(),
                    "accuracy": mean.mean(1).tolist(),
                    "lowest seed": stored.accuracy.mean(2).min(1).tolist(),
                    "highest seed": stored.accuracy.mean(2).max(1).tolist(),
                }
                | {
                    f"after {tokens:.0f} tokens": mean[:, place].tolist()
                    for place, tokens in enumerate(stored.bins)
                },
                n=n,
                interval="least and most over seeds",
                source=f"{stored.source}/accuracy",
            ),
        ),
    )
