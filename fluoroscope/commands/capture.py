"""`fluoroscope capture`: read text with a model and keep the states at chosen sites."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..running import Terminal
from . import options

Output = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="The run file to write; rows go to a folder beside it, RUN.shards."
    ),
]
BatchTokens = Annotated[
    int, typer.Option(min=1, help="Tokens per forward pass; less needs less memory.")
]
PerDocument = Annotated[
    int | None,
    typer.Option(
        "--per-document",
        min=1,
        help="At most so many windows of one document, for variety; left out: all of them.",
        show_default=False,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", help="Also draw the page, to this file.", show_default=False),
]


def capture(
    terminal: Terminal,
    *,
    output: Output = Path("run.h5"),
    sites: options.Sites = None,
    text: options.Text = None,
    tokens: options.Tokens = 100_000,
    context: options.Context = None,
    per_document: PerDocument = None,
    batch_tokens: BatchTokens = 2048,
    store: options.Store = "float32",
    model: options.Model = None,
    backend: options.Backend = "transformers",
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    report: Report = None,
    dry_run: options.DryRun = False,
) -> dict[str, Any]:
    """Read text with a model and keep the states at chosen sites in a run file.

    Ctrl-C keeps what was read; the same command picks up there. Under `torchrun` or
    `accelerate launch` every rank reads its share of the documents.

    Example: fluoroscope capture --tokens 20000 -o run.h5

    Example: fluoroscope capture -s 'layers.*.resid_post' --per-document 2 --dry-run
    """
    from ..probes import capture_corpus, open_corpus, open_model
    from ..probes.ranks import local_device

    opened = open_model(model, backend=backend, device=local_device(device), dtype=dtype)
    terminal.say(f"{opened!r}")
    chosen = sites or ["layers.*.resid_post"]
    if dry_run:
        from ..planning import measure_speed, plan_capture, resume_note, show_plan

        step = plan_capture(
            opened, open_corpus(text), chosen, n_tokens=tokens, context=context,
            per_document=per_document, store=store, speed=measure_speed(opened),
        )  # fmt: skip
        return show_plan(terminal, [step], note=resume_note(output))
    with terminal.track("Reading", "tokens") as progress:
        run = capture_corpus(
            opened,
            open_corpus(text),
            chosen,
            output,
            n_tokens=tokens,
            context=context,
            per_document=per_document,
            batch_tokens=batch_tokens,
            dtype=store,
            overwrite=overwrite,
            progress=progress,
        )
    terminal.wrote(output)
    terminal.show(repr(run))
    if report is not None:
        from ..reports import build_report

        terminal.wrote(build_report(run, report))
        terminal.show(f"Report: {report}")
    return run.summary()
