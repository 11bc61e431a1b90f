"""`fluoroscope lens`: what each layer would predict."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options

Tokens = Annotated[int, typer.Option("--tokens", "-n", min=16, help="Tokens to read.")]
Tuned = Annotated[bool, typer.Option("--tuned", help="Train (or load) a tuned lens first.")]
Folder = Annotated[
    Path | None, typer.Option(help="Where the tuned lens is kept; left out: beside the run.")
]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of the tuned lens.")]


def lens(
    terminal: Terminal,
    *,
    run: options.RunFile,
    tokens: Tokens = 768,
    tuned: Tuned = False,
    folder: Folder = None,
    steps: Steps = 250,
    model: options.Model = None,
    device: options.Device = None,
    dry_run: options.DryRun = False,
) -> dict[str, Any]:
    """Add the logit lens (or a tuned lens) to a run file: what each layer would predict.

    The model is opened again and must be the one the run came from.

    Example: fluoroscope lens out/run.h5

    Example: fluoroscope lens out/run.h5 --tuned --steps 100
    """
    from ..probes import open_model, open_run
    from ..probes.readings import (
        TunedLens,
        TunedLensOptions,
        logit_lens,
        texts_of,
        train_tuned_lens,
        translated_lens,
    )

    opened = open_run(run)
    loaded = open_model(model, device=device)
    opened.require(weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest)
    texts = texts_of(opened, n_tokens=tokens)
    if dry_run:
        return _plan(terminal, opened, loaded, texts.n_tokens, steps if tuned else 0)
    name = "tuned_lens" if tuned else "logit_lens"
    if tuned:
        kept = folder or run.with_suffix(".lens")
        if (kept / "tuned_lens.json").exists():
            trained = TunedLens.load(kept, loaded)
        else:
            with terminal.track("Training", "steps") as progress:
                everything = texts_of(opened, n_tokens=10**9)
                recipe = TunedLensOptions(n_steps=steps)
                trained = train_tuned_lens(loaded, everything, recipe, progress=progress)
            trained.save(kept)
            terminal.wrote(kept)
        with terminal.track("Reading", "tokens") as progress:
            found = translated_lens(loaded, texts, trained, progress=progress)
    else:
        with terminal.track("Reading", "tokens") as progress:
            found = logit_lens(loaded, texts, progress=progress)
    opened.add_result(name, found)
    terminal.wrote(run)
    table = Table("layer", "KL to final (nats)", "same first choice", "loss (nats)", title=name)
    for layer in found.layers:
        table.add_row(
            str(layer),
            f"{found.kl[layer]:.2f}",
            f"{found.agreement[layer]:.0%}",
            f"{found.loss[layer]:.2f}",
        )
    terminal.show(table)
    return {
        "result": name,
        "layers": found.layers.tolist(),
        "kl": found.kl.tolist(),
        "agreement": found.agreement.tolist(),
        "loss": found.loss.tolist(),
        "n_tokens": found.n_tokens,
    }


def _plan(terminal: Terminal, run: Any, model: Any, n_tokens: int, steps: int) -> dict[str, Any]:
    """What would be trained and read; training is timed over two steps, in memory."""
    import time

    from ..planning import Planned, measure_speed, plan_reading, show_plan
    from ..probes.readings import TunedLensOptions, texts_of, train_tuned_lens

    planned = [plan_reading("logit_lens", n_tokens, measure_speed(model))]
    if steps:
        tried = 2
        started = time.perf_counter()
        recipe = TunedLensOptions(n_steps=tried)
        train_tuned_lens(model, texts_of(run, n_tokens=n_tokens), recipe)
        seconds = (time.perf_counter() - started) / tried
        size = model.n_layers * model.d_model * (model.d_model + 1) * 4
        planned.insert(
            0,
            Planned(
                step="train the lens",
                work=f"{steps} steps, one affine map per layer",
                n_bytes=size,
                seconds=steps * seconds,
            ),
        )
    return show_plan(terminal, planned)
