"""`fluoroscope distil`: a small draft model for a target, taught on the target's own texts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..running import Terminal
from . import options

Output = Annotated[
    Path, typer.Option("--output", "-o", help="The student's file, ending in .safetensors.")
]
Work = Annotated[
    Path | None,
    typer.Option(
        help="Folder of texts and checkpoint, for going on; left out: beside the student."
    ),
]
Prompts = Annotated[int, typer.Option(min=32, help="Prompts that the target answers first.")]
Passages = Annotated[int, typer.Option(min=0, help="Passages read besides; they cost no writing.")]
New = Annotated[int, typer.Option("--max-new-tokens", min=8, help="Longest answer, tokens.")]
AtOnce = Annotated[int, typer.Option(min=1, help="Prompts answered at a time; more on a GPU.")]
Batch = Annotated[int, typer.Option(min=1, help="Texts per training step.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps.")]
Kept = Annotated[int, typer.Option(min=64, help="Tokens that the student can draft.")]
Shared = Annotated[
    int, typer.Option(min=0, help="First layers of the target that the student runs as they are.")
]
Bfloat16 = Annotated[
    bool, typer.Option("--bfloat16", help="Teach in bfloat16: faster on processors that have it.")
]
Seed = Annotated[int, typer.Option(help="Seed of prompts, draws and order.")]


def distil(
    terminal: Terminal,
    *,
    output: Output,
    work: Work = None,
    prompts: Prompts = 160,
    passages: Passages = 234,
    max_new_tokens: New = 112,
    at_once: AtOnce = 32,
    steps: Steps = 300,
    batch: Batch = 12,
    kept: Kept = 8192,
    shared: Shared = 0,
    bfloat16: Bfloat16 = False,
    seed: Seed = 0,
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Make a draft model for a target: two of its layers, taught on its own texts.

    An interrupted call goes on where it stopped. The student that comes with the package, for the
    embedded model, was made on a GPU with --steps 1800 --batch 48 --prompts 3072 --at-once 1024
    --passages 2000 --bfloat16.

    Example: fluoroscope distil -o out/student.safetensors

    Example: fluoroscope distil -o out/try.safetensors --prompts 32 --max-new-tokens 8 --steps 5
    """
    from ..decoding.students import (
        DistilOptions,
        distil,
        save_student,
        training_passages,
        training_prompts,
        write_texts,
    )
    from ..probes import open_model
    from ..probes.errors import OptionError

    if output.suffix != ".safetensors":
        raise OptionError(f"The student's file must end in .safetensors, got {output.name}.")
    target = open_model(model, device=device)
    folder = work or output.with_suffix(".work")
    with terminal.track("Writing texts", "prompts") as progress:
        texts = write_texts(
            target,
            training_prompts(prompts, seed=seed),
            folder / "texts",
            n_new=max_new_tokens,
            batch=at_once,
            seed=seed,
            progress=progress,
        )
    texts += [target.encode(text, bos=False).tolist() for text in training_passages(passages)]
    rules = DistilOptions(
        steps=steps, batch=batch, n_kept=kept, n_shared=shared, length=256, seed=seed,
        bfloat16=bfloat16,
    )  # fmt: skip
    with terminal.track("Teaching", "steps") as progress:
        student, found = distil(
            target, texts, options=rules, checkpoint=folder / "checkpoint.pt", progress=progress
        )
    save_student(
        student,
        output,
        target,
        {"options": asdict(rules), "measured": asdict(found), "n_texts": len(texts)},
    )
    terminal.wrote(output)
    terminal.show(
        f"Student: {output}\nLikeliest tokens agree: {found.agreement:.1%}; overlap of the two "
        f"distributions: {found.overlap:.1%} ({found.n_positions} positions not taught with)."
    )
    return asdict(found) | {"student": str(output)}
