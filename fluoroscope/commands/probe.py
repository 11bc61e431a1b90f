"""`fluoroscope probe`: what can be read off states by a linear classifier."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options

Label = Annotated[str, typer.Option("--label", "-l", help="python-class or line-start.")]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=64, help="Tokens to use.")]
Every = Annotated[int, typer.Option(min=1, help="Without --sites: every how many layers.")]
Baseline = Annotated[
    bool,
    typer.Option(
        "--random-weights",
        help="Also probe the model's architecture with random weights; opens the model.",
    ),
]


def probe(
    terminal: Terminal,
    *,
    run: options.RunFile,
    label: Label = "python-class",
    sites: options.Sites = None,
    every: Every = 6,
    tokens: Tokens = 4000,
    random_weights: Baseline = False,
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Add a linear probe with its control task and code length to a run file.

    No model is needed, but for --random-weights: what a probe reads there needed no training.

    Example: fluoroscope probe out/run.h5

    Example: fluoroscope probe out/run.h5 --label line-start -s layers.0.resid_post
    """
    from ..probes import open_model, open_run
    from ..probes.readings import linear_probe

    opened = open_run(run)
    chosen = sites or list(opened.sites)[::every]
    loaded = open_model(model, device=device) if random_weights else None
    if loaded is not None:
        opened.require(
            weights_digest=loaded.weights_digest, tokenizer_digest=loaded.tokenizer_digest
        )
    with terminal.track("Probing", "units", in_parts=True) as progress:
        found = linear_probe(
            opened, label, chosen, random_weights_of=loaded, max_tokens=tokens, progress=progress
        )
    opened.add_result("linear_probe", found)
    terminal.wrote(run)
    columns = {
        "accuracy": found.accuracy,
        "control": found.control,
        "selectivity": found.selectivity,
        "compression": found.compression,
        "random weights": found.random_model,
    }
    shown = {name: values for name, values in columns.items() if values is not None}
    table = Table("site", *shown, title=f"Linear probe: {label}")
    for site, *values in zip(found.sites, *shown.values(), strict=True):
        table.add_row(str(site), *(f"{value:.3f}" for value in values))
    terminal.show(table)
    terminal.show(
        f"majority class {found.majority:.3f}, from the token alone {found.token_identity:.3f}"
    )
    return {
        "label": label,
        "sites": found.sites.tolist(),
        "accuracy": found.accuracy.tolist(),
        "control": found.control.tolist(),
        "selectivity": found.selectivity.tolist(),
        "codelength_bits": None if found.codelength is None else found.codelength.tolist(),
        "compression": None if found.compression is None else found.compression.tolist(),
        "random_weights": None if found.random_model is None else found.random_model.tolist(),
        "majority": found.majority,
        "token_identity": found.token_identity,
    }
