"""`fluoroscope sae train`: sparse autoencoders from the rows of a run file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options

Site = Annotated[
    list[str], typer.Option("--site", "-s", help="Site whose rows are rebuilt (repeatable).")
]
Target = Annotated[
    str | None,
    typer.Option(help="Train transcoders: read --site and rebuild this site."),
]
Architecture = Annotated[
    list[str] | None,
    typer.Option(
        "--architecture", "-a",
        help="topk, batchtopk, matryoshka, jumprelu, mp, relu, gated or omp (repeatable); all are "
        "trained in one pass over the rows.",
    ),
]  # fmt: skip
Latents = Annotated[int, typer.Option("--latents", "-l", min=1, help="Latents of the dictionary.")]
Active = Annotated[
    list[int] | None,
    typer.Option("--k", "-k", min=1, help="Active latents per row (repeatable); left out: 32."),
]
L1 = Annotated[float | None, typer.Option("--l1", help="Penalty of relu and gated.")]
Steps = Annotated[int, typer.Option("--steps", "-n", min=1, help="Steps of training.")]
BatchRows = Annotated[int, typer.Option("--batch", "-b", min=1, help="Rows of a step.")]
Rate = Annotated[
    float | None, typer.Option("--learning-rate", help="For all; left out: each one's recipe.")
]
Seed = Annotated[int, typer.Option(help="Fixes weights and the order of rows.")]
Longest = Annotated[
    float,
    typer.Option(
        "--max-norm", help="Rows longer than this many medians are left out; 0 keeps all."
    ),
]
Every = Annotated[int, typer.Option("--checkpoint-every", min=1, help="Steps between checkpoints.")]
Folder = Annotated[
    Path, typer.Option("--output", "-o", help="Folder for the autoencoders and the checkpoint.")
]
Bfloat16 = Annotated[
    bool, typer.Option("--bfloat16", help="Matrix products in bfloat16; pays on a GPU.")
]


def train(
    terminal: Terminal,
    *,
    run: options.RunFile,
    site: Site,
    target: Target = None,
    architecture: Architecture = None,
    latents: Latents = 4096,
    k: Active = None,
    l1: L1 = None,
    steps: Steps = 1000,
    batch: BatchRows = 2048,
    learning_rate: Rate = None,
    seed: Seed = 0,
    max_norm: Longest = 10.0,
    checkpoint_every: Every = 500,
    bfloat16: Bfloat16 = False,
    output: Folder = Path("sae"),
    device: options.Device = None,
) -> dict[str, Any]:
    """Train sparse autoencoders on captured rows; the same command goes on after an interruption.

    Example: fluoroscope sae train run.h5 --site layers.15.mlp.out -a topk -a mp -o sae

    Example: fluoroscope sae train run.h5 -s layers.9.resid_post -a batchtopk -k 32 -k 64 -l 8192
    """
    from dataclasses import replace

    from ..probes import open_run
    from ..sae.recipes import learn_options, sae_options
    from ..sae.session import SaeSpec, forget_checkpoint, train_saes
    from ..sae.sources import RunRows

    opened = open_run(run)
    specs = []
    for place in dict.fromkeys(site):
        for kind in dict.fromkeys(architecture or ["topk"]):
            for active in dict.fromkeys(k or [32]):
                learning = learn_options(
                    kind, d_sae=latents, n_steps=steps, learning_rate=learning_rate
                )
                if bfloat16:
                    learning = replace(learning, precision="bfloat16")
                specs.append(
                    SaeSpec(
                        name="_".join([kind, *_marks(place, site, active, k)]), architecture=kind,
                        site=place, target_site=target, learning=learning, seed=seed,
                        options=sae_options(kind, d_sae=latents, k=active, l1=l1),
                    )
                )  # fmt: skip
    names = list(dict.fromkeys([*site, target] if target else site))
    source = RunRows(opened, names, batch_rows=batch, seed=seed)
    with terminal.track("Training", "steps") as progress:
        trained = train_saes(
            source, specs, folder=output, checkpoint_every=checkpoint_every,
            max_norm_ratio=max_norm or None, device=device, progress=progress,
        )  # fmt: skip
    table = Table("autoencoder", "site", "FVU", "L0", "dead")
    for name, found in trained.items():
        opened.add_result(f"sae_{name}", found.result)
        terminal.wrote(output / name)
        result = found.result
        table.add_row(
            name, result.site, f"{result.final_fvu:.4f}", f"{result.final_l0:.1f}",
            f"{result.final_dead:.1%}",
        )  # fmt: skip
    forget_checkpoint(output)
    terminal.wrote(run)
    terminal.show(table)
    return {
        name: {
            "folder": str(output / name),
            "site": found.result.site,
            "fvu": found.result.final_fvu,
            "l0": found.result.final_l0,
            "dead": found.result.final_dead,
            "rows_per_s": found.result.rows_per_s,
        }
        for name, found in trained.items()
    }


def _marks(place: str, places: list[str], active: int, actives: list[int] | None) -> list[str]:
    """What tells one autoencoder's name from the others'."""
    marks = [place.replace("/", ".")] if len(places) > 1 else []
    return [*marks, f"k{active}"] if len(actives or []) > 1 else marks
