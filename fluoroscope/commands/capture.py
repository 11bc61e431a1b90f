"""`fluoroscope capture`: read text with a model and keep the states at chosen sites."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ..running import Terminal
from . import options

Output = Annotated[Path, typer.Option("--output", "-o", help="The run file to write.")]
Stored = Annotated[str, typer.Option(help="How rows are kept: float32, bfloat16 or float16.")]
BatchTokens = Annotated[int, typer.Option(min=1, help="Tokens per forward pass.")]


def capture(
    terminal: Terminal,
    *,
    output: Output = Path("run.h5"),
    sites: options.Sites = None,
    text: options.Text = None,
    tokens: options.Tokens = 100_000,
    context: options.Context = None,
    batch_tokens: BatchTokens = 2048,
    store: Stored = "float32",
    model: options.Model = None,
    backend: options.Backend = "transformers",
    device: options.Device = None,
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
) -> dict[str, Any]:
    """Read text with a model and keep the states at chosen sites in a run file.

    Ctrl-C keeps what was read; the same command picks up there. Under `torchrun` or
    `accelerate launch` every rank reads its share of the documents.

    Example: fluoroscope capture --tokens 20000 -o run.h5

    Example: fluoroscope capture -s 'layers.*.resid_post' -s 'layers.11.mlp.hidden' -o run.h5
    """
    from ..probes import capture_corpus, open_corpus, open_model
    from ..probes.ranks import local_device

    opened = open_model(model, backend=backend, device=local_device(device), dtype=dtype)
    terminal.say(f"{opened!r}")
    with terminal.track("Reading", "tokens") as progress:
        run = capture_corpus(
            opened,
            open_corpus(text),
            sites or ["layers.*.resid_post"],
            output,
            n_tokens=tokens,
            context=context,
            batch_tokens=batch_tokens,
            dtype=store,
            overwrite=overwrite,
            progress=progress,
        )
    terminal.wrote(output)
    terminal.show(repr(run))
    return run.summary()
