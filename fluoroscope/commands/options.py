"""Options that several commands share, each with its one help text."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import completing

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Directory, hub name or GGUF file; left out: the embedded SmolLM2-135M-Instruct.",
    ),
]
Backend = Annotated[
    Literal["transformers", "transformer_lens", "nnsight"],
    typer.Option(
        help="Which library drives the model; sites and values are the same, speed is not."
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; left out: GPU if any.")]
Dtype = Annotated[
    str | None,
    typer.Option(
        help="Weights as float32, bfloat16 or float16; left out: float32 on a CPU, the checkpoint's "
        "own on a GPU."
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        "-t",
        help="File, directory, JSONL, parquet or saved dataset; left out: the standard library "
        "of the running Python.",
    ),
]
Sites = Annotated[
    list[str] | None,
    typer.Option(
        "--sites",
        "-s",
        help="Site names or globs, such as 'layers.*.resid_post' (repeatable); `fluoroscope sites` "
        "lists them.",
        autocompletion=completing.sites,
    ),
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=1, help="How many tokens to read.")]
Context = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Longer documents are cut into windows of so many tokens, each read on its own; left "
        "out: 256, or what the model allows.",
    ),
]
RunFile = Annotated[
    Path,
    typer.Argument(help="A run file.", show_default=False, autocompletion=completing.run_files),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Begin afresh: delete a run file of that name and its rows."),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be done, how many bytes it writes and how long it takes, from a short "
        "measurement; write nothing.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of everything drawn at random.")]
Seeds = Annotated[int, typer.Option(min=1, help="How many seeds to repeat everything with.")]
ResultFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Run file that takes the result: an existing one, or a new one that holds nothing else.",
    ),
]
Store = Annotated[
    Literal["float32", "bfloat16", "float16"],
    typer.Option(
        help="How rows are kept. bfloat16 halves the file and keeps the range; float16 overflows at "
        "65,504, which massive activations can reach."
    ),
]
