"""`fluoroscope sae train`: sparse autoencoders from the rows of a run file, and their comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import dictionaries, options

if TYPE_CHECKING:
    from ..probes.model import Model
    from ..probes.runfile import Run
    from ..sae.base import SparseAutoencoder
    from ..sae.heldout import EvaluateOptions
    from ..sae.learner import LearnOptions
    from ..sae.session import SaeSpec

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
        help="topk, batchtopk, matryoshka, jumprelu, mp, relu, gated or omp, several with commas or "
        "repeated; all are trained in one pass over the rows.",
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
HeldOut = Annotated[
    float,
    typer.Option(help="Share of the documents that is kept out, to judge on; 0 trains on all."),
]
Compare = Annotated[
    bool,
    typer.Option(
        "--compare",
        help="Judge all on the documents kept out and add the comparison, with feature cards of one "
        "of each architecture, to the run file.",
    ),
]
LossTokens = Annotated[
    int, typer.Option(min=0, help="For --compare: tokens read with each spliced in; 0: no model.")
]
Cards = Annotated[
    int, typer.Option(min=1, help="For --compare: cards of each architecture's features.")
]
Resample = Annotated[
    int | None,
    typer.Option(
        "--resample-every", min=2,
        help="Steps after which latents silent for half as many begin anew at rows rebuilt badly; left "
        "out: never.",
    ),
]  # fmt: skip
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
    held_out: HeldOut = 0.1,
    compare: Compare = False,
    loss_tokens: LossTokens = 2048,
    cards: Cards = 8,
    resample_every: Resample = None,
    checkpoint_every: Every = 500,
    bfloat16: Bfloat16 = False,
    output: Folder = Path("sae"),
    model: options.Model = None,
    device: options.Device = None,
) -> dict[str, Any]:
    """Train sparse autoencoders on captured rows; the same command goes on after an interruption.

    Example: fluoroscope sae train run.h5 --site layers.15.mlp.out -a topk -a mp -o sae

    Example: fluoroscope sae train run.h5 -s layers.9.resid_post -a batchtopk -k 32 -k 64 -l 8192

    Example: fluoroscope sae train run.h5 -s layers.15.resid_post
    -a topk,batchtopk,jumprelu,matryoshka,mp -k 32 -k 16 -k 64 --compare
    """
    from ..probes import open_run
    from ..sae.heldout import EvaluateOptions
    from ..sae.recipes import learn_options
    from ..sae.session import forget_checkpoint, train_saes
    from ..sae.sources import RunRows

    opened = open_run(run)
    judge = dictionaries.open_model_of(opened, model, device) if compare and loss_tokens else None
    kinds = [kind.strip() for given in architecture or ["topk"] for kind in given.split(",")]
    learning = {
        kind: learn_options(
            kind, d_sae=latents, n_steps=steps, learning_rate=learning_rate,
            precision="bfloat16" if bfloat16 else "float32", resample_every=resample_every,
        )
        for kind in kinds
    }  # fmt: skip
    specs = _specs(site, learning, k or [32], latents=latents, l1=l1, target=target, seed=seed)
    names = list(dict.fromkeys([*site, target] if target else site))
    source = RunRows(opened, names, batch_rows=batch, seed=seed, held_out=held_out)
    with terminal.track("Training", "steps") as progress:
        trained = train_saes(
            source, specs, folder=output, checkpoint_every=checkpoint_every,
            max_norm_ratio=max_norm or None, device=device, progress=progress,
        )  # fmt: skip
    table = Table("autoencoder", "site", "FVU in training", "L0", "dead")
    for name, found in trained.items():
        opened.add_result(f"sae_{name}", found.result)
        terminal.wrote(output / name)
        result = found.result
        table.add_row(
            name, result.site, f"{result.final_fvu:.4f}", f"{result.final_l0:.1f}",
            f"{result.final_dead:.1%}",
        )  # fmt: skip
    terminal.wrote(run)
    terminal.show(table)
    document = {
        name: {
            "folder": str(output / name),
            "site": found.result.site,
            "fvu": found.result.final_fvu,
            "l0": found.result.final_l0,
            "dead": found.result.final_dead,
            "rows_per_s": dictionaries.plain(found.result.rows_per_s),
        }
        for name, found in trained.items()
    }
    if compare:
        saes = {name: found.sae.cpu() for name, found in trained.items()}
        measured_on = EvaluateOptions(
            n_loss_tokens=loss_tokens, max_norm_ratio=max_norm or None, seed=seed
        )
        judged = _compare(terminal, opened, saes, _first_of_each(specs), judge, measured_on, cards)
        for name, measured in judged.items():
            document[name]["held_out"] = measured
    forget_checkpoint(output)
    return document


def _specs(
    sites: list[str], learning: dict[str, LearnOptions], actives: list[int], *, latents: int,
    l1: float | None, target: str | None, seed: int,
) -> list[SaeSpec]:  # fmt: skip
    """Every site, architecture and number of active latents, named by what tells them apart."""
    from ..sae.recipes import sae_options
    from ..sae.session import SaeSpec

    made: dict[str, SaeSpec] = {}
    for place in dict.fromkeys(sites):
        for kind, learn in learning.items():
            for active in dict.fromkeys(actives):
                chosen = sae_options(kind, d_sae=latents, k=active, l1=l1)
                marks = [place.replace("/", ".")] if len(set(sites)) > 1 else []
                marks += [f"k{active}"] if len(set(actives)) > 1 and "k" in chosen else []
                name = "_".join([kind, *marks])
                made[name] = SaeSpec(
                    name=name, architecture=kind, site=place, target_site=target, options=chosen,
                    learning=learn, seed=seed,
                )  # fmt: skip
    return list(made.values())


def _first_of_each(specs: list[SaeSpec]) -> list[str]:
    """One autoencoder of each architecture and site: the one named first."""
    found: dict[tuple[str, str], str] = {}
    for spec in specs:
        found.setdefault((spec.site, spec.architecture), spec.name)
    return list(found.values())


def _compare(
    terminal: Terminal, run: Run, saes: dict[str, SparseAutoencoder], cards_of: list[str],
    model: Model | None, measured_on: EvaluateOptions, cards: int,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Judge on the documents kept out; measurements by name."""
    from ..sae.comparison import SaeComparison
    from ..sae.features.cards import CardOptions
    from ..sae.xray import dictionary_readings

    with terminal.track("Comparing", "units", in_parts=True) as progress:
        found = dictionary_readings(
            model, run, saes, options=measured_on,
            cards=CardOptions(n_features=cards), cards_of=cards_of, keep=run.add_result,
            progress=progress,
        )  # fmt: skip
    judged: dict[str, dict[str, Any]] = {}
    for result in found.values():
        if isinstance(result, SaeComparison):
            terminal.show(dictionaries.comparison_table(result))
            judged |= dictionaries.comparison_document(result, list(saes))
    return judged
