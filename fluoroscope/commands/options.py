"""Options that several commands share, each with its one help text."""

from pathlib import Path
from typing import Annotated, Literal

import typer

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
    typer.Option(help="Which library drives the model; sites and values are the same."),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...; left out: GPU if any.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or float16 for the model.")]
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
    typer.Option("--sites", "-s", help="Site names or globs, such as 'layers.*.resid_post'."),
]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=1, help="How many tokens to read.")]
Context = Annotated[
    int | None,
    typer.Option(
        min=2, help="Longest document in tokens; left out: 256, or what the model allows."
    ),
]
RunFile = Annotated[Path, typer.Argument(help="A run file.", show_default=False)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start afresh; delete what is there.")]
