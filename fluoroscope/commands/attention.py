"""`fluoroscope attention source|invention|constructions`: does a model lose sight of its source?"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal
from . import options
from .results import keep

Source = Annotated[int, typer.Option("--source", min=2, help="Tokens that count as source.")]
Target = Annotated[int, typer.Option("--target", min=2, help="Forced tokens that follow.")]
Sinks = Annotated[int, typer.Option(min=0, help="First positions left out as sinks.")]
Texts = Annotated[int, typer.Option(min=4, help="Texts to read.")]
Probes = Annotated[int, typer.Option(min=1, help="Random directions per Jacobian norm.")]
Alpha = Annotated[
    float, typer.Option(help="Texts that must hold two words to account for one by half.")
]
Beta = Annotated[float, typer.Option(help="Texts over which that grows to nearly all.")]
Task = Annotated[Literal["recall", "copy", "reverse"], typer.Option(help="What is learnt.")]
Items = Annotated[int, typer.Option(min=2, help="Pairs in the source, or its tokens.")]
Filler = Annotated[int, typer.Option(min=0, help="Filler tokens before each question.")]
Decoys = Annotated[
    int, typer.Option(min=0, help="Wrong pairs in the target before each question of recall.")
]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of each model.")]
Width = Annotated[int, typer.Option(min=8, help="Width of the residual stream.")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--construction", help="lm, palm, red-no-shared, ... (repeatable); left out: all."
    ),
]


def source(
    terminal: Terminal,
    *,
    run: options.RunFile,
    source: Source = 64,
    target: Target = 128,
    sinks: Sinks = 1,
    texts: Texts = 8,
    probes: Probes = 4,
    seed: options.Seed = 0,
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Measure attention on a source, sensitivity to it and information from it (arXiv 2304.04052).

    The first tokens of each text are its source; the rest is forced, and one looks after 1, 2, 4, ...
    tokens of it. The model is opened again and must be the one the run came from.

    Example: fluoroscope attention source out/run.h5

    Example: fluoroscope attention source out/run.h5 --source 32 --target 96 --texts 16
    """
    from ..probes import open_model, open_run
    from ..probes.degeneration import DegenerationOptions, attention_degeneration
    from ..probes.readings import varied_texts

    chosen = DegenerationOptions(
        n_source=source, n_target=target, n_sinks=sinks, n_probes=probes, seed=seed
    )
    opened = open_run(run)
    loaded = open_model(model, device=device)
    opened.require(weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest)
    read = varied_texts(opened, n_texts=texts, length=chosen.length)
    with terminal.track("Looking back", "texts") as progress:
        found = attention_degeneration(loaded, read, chosen, progress=progress)
    opened.add_result("attention_degeneration", found)
    terminal.wrote(run)
    columns = (
        "tokens read",
        "on the source",
        "without sinks",
        "even",
        "ratio",
        "moved",
        "KL (nats)",
    )
    table = Table(*columns, title="Attention on the source")
    for k, step in enumerate(found.steps):
        table.add_row(
            str(step),
            f"{found.mass[k]:.3f}",
            f"{found.corrected[k]:.3f}",
            f"{found.corrected_uniform[k]:.3f}",
            f"{found.ratio[k]:.2f}",
            "-" if found.weighted is None else f"{found.weighted[k]:.3f}",
            f"{found.divergence[k]:.2f}",
        )
    terminal.show(table)
    return {
        "steps": found.steps.tolist(),
        "mass": found.mass.tolist(),
        "corrected": found.corrected.tolist(),
        "ratio": found.ratio.tolist(),
        "weighted": None if found.weighted is None else found.weighted.tolist(),
        "divergence": found.divergence.tolist(),
        "n_texts": found.n_texts,
        "n_documents": found.n_documents,
    }


def invention(
    terminal: Terminal,
    *,
    run: options.RunFile,
    source: Source = 64,
    target: Target = 128,
    texts: Texts = 16,
    alpha: Alpha = 1.0,
    beta: Beta = 1.0,
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Let the model continue sources itself and count words that nothing accounts for (2304.04052).

    A word counts as accounted for where the true continuation holds it, or as far as it goes with words
    of the source in other documents of the run. Another document's continuation is judged beside it.

    Example: fluoroscope attention invention out/run.h5 --source 32 --target 64

    Example: fluoroscope attention invention out/run.h5 --texts 32 --alpha 3
    """
    from ..probes import open_model, open_run
    from ..probes.degeneration import DegenerationOptions, hallucination_ratio
    from ..probes.readings import texts_of, varied_texts

    chosen = DegenerationOptions(n_source=source, n_target=target)
    opened = open_run(run)
    loaded = open_model(model, device=device)
    opened.require(weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest)
    everything = texts_of(opened, n_tokens=int(opened.tokens.offsets[-1]), cut=chosen.length)
    read = varied_texts(opened, n_texts=texts, length=chosen.length)
    with terminal.track("Continuing", "tokens") as progress:
        found = hallucination_ratio(
            loaded, read, everything, chosen, alpha=alpha, beta=beta, progress=progress
        )
    opened.add_result("hallucination_ratio", found)
    terminal.wrote(run)
    table = Table("words", "own continuation", "another document's", title="Not accounted for")
    for k, step in enumerate(found.steps):
        own = f"{found.ratio[k]:.3f} ({found.ratio_low[k]:.3f} to {found.ratio_high[k]:.3f})"
        other = f"{found.other[k]:.3f} ({found.other_low[k]:.3f} to {found.other_high[k]:.3f})"
        table.add_row(f"to {step}", own, other)
    terminal.show(table)
    return {
        "steps": found.steps.tolist(),
        "ratio": found.ratio.tolist(),
        "other": found.other.tolist(),
        "ceiling": found.ceiling,
        "n_texts": found.n_texts,
        "n_documents": found.n_documents,
        "n_counted": found.n_counted,
    }


def constructions(
    terminal: Terminal,
    *,
    task: Task = "recall",
    items: Items = 6,
    filler: Filler = 0,
    decoys: Decoys = 4,
    steps: Steps = 1500,
    width: Width = 64,
    seeds: options.Seeds = 3,
    construction: Models = None,
    output: options.ResultFile = None,
) -> dict[str, Any]:
    """Train a causal LM, PALM and encoder-decoders between them on recall, and see where each fails.

    Recall's target holds decoys, pairs that look like the source's with wrong values, so that more and
    more of the target competes with the source.

    Example: fluoroscope attention constructions -o out/recall.h5

    Example: fluoroscope attention constructions --construction lm --construction palm --steps 300
    """
    from ..probes.seq2seq import (
        CONSTRUCTIONS,
        Seq2SeqOptions,
        TaskOptions,
        TrainingOptions,
        compare_constructions,
    )

    learnt = TaskOptions(
        kind=task, n_items=items, n_filler=filler, n_decoys=decoys, n_symbols=max(32, items)
    )
    with terminal.track("Training", "steps") as progress:
        found = compare_constructions(
            learnt,
            Seq2SeqOptions(d_vocab=learnt.d_vocab, d_model=width),
            TrainingOptions(n_steps=steps, seeds=tuple(range(seeds))),
            models=construction or tuple(CONSTRUCTIONS),
            progress=progress,
        )
    keep(terminal, output, "source_recall", found)
    mean = found.accuracy.mean(1)
    title = f"Task: {task}; mean of the seeds (least to most)"
    table = Table("construction", "accuracy", "early", "late", "loss (nats)", title=title)
    for k, name in enumerate(found.models):
        columns = (mean[k].mean(), found.accuracy[k].mean(1)), (mean[k, 0], found.accuracy[k, :, 0])
        rows = (
            *columns,
            (mean[k, -1], found.accuracy[k, :, -1]),
            (found.loss[k].mean(), found.loss[k]),
        )
        table.add_row(str(name), *(f"{v:.3f} ({s.min():.3f} to {s.max():.3f})" for v, s in rows))
    terminal.show(table)
    return {
        "models": found.models.tolist(),
        "accuracy": found.accuracy.tolist(),
        "loss": found.loss.tolist(),
        "bins": found.bins.tolist(),
    }
