"""`fluoroscope superposition ...`: how many features layers carry, and seven experiments about it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table

from ..running import Terminal
from . import options

Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Run file that takes the result (made if new)."),
]
Report = Annotated[
    Path | None,
    typer.Option("--report", help="Also draw the page, to this file.", show_default=False),
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Networks per condition.")]
Epochs = Annotated[int, typer.Option(min=1, help="Passes that train the networks.")]
Penalty = Annotated[float, typer.Option("--l1", min=0, help="L1 penalty of the dictionaries.")]
Models = Annotated[int, typer.Option("--models", min=4, help="Toy models, one per sparsity.")]
ToyRows = Annotated[int, typer.Option("--rows", min=10, help="Activations per dictionary.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps that train the networks.")]
Reduction = Annotated[
    Literal["sum", "mean"],
    typer.Option(help="Loss of the dictionaries: summed (paper's text) or averaged (its code)."),
]
Recipe = Annotated[
    Literal["text", "code"],
    typer.Option(help="Dictionaries as the paper's text has them, or as its code trains them."),
]
Widths = Annotated[
    list[int] | None, typer.Option("--width", "-w", help="Units of hidden layers (repeatable).")
]
Again = Annotated[bool, typer.Option("--again", help="Measure anew what was kept half done.")]
Checkpoints = Annotated[int, typer.Option(min=3, help="Epochs at which a network is read.")]
Sgld = Annotated[
    int, typer.Option(min=0, help="Steps of the learning coefficient's chains; 0 leaves it out.")
]
Rows = Annotated[int, typer.Option("--tokens", "-n", min=64, help="Tokens of each site to use.")]
Expansion = Annotated[float, typer.Option(min=0.01, help="Latents over the site's width.")]
LayerSteps = Annotated[int, typer.Option("--steps", min=1, help="Steps of each dictionary.")]
LayerPenalty = Annotated[
    float, typer.Option("--l1", min=0, help="Penalty, for rows of mean square norm 1.")
]
Every = Annotated[int, typer.Option(min=1, help="Without --sites: every how many layers.")]
Match = Annotated[
    float | None,
    typer.Option(
        help="Also compare layers at this FVU, through three dictionaries each (three times the work)."
    ),
]


def toy(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    models: Models = 100,
    steps: Steps = 4000,
    rows: ToyRows = 10_000,
    l1: Penalty = 0.1,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Check the measure on toy models whose number of features is known (arXiv 2512.13568).

    Example: fluoroscope superposition toy

    Example: fluoroscope superposition toy --models 40 --steps 2000 -o toy.h5 --report toy.html
    """
    from ..sae.superposition.experiments.toy import ToyExperimentOptions
    from ..sae.superposition.experiments.toy import toy as measure

    chosen = ToyExperimentOptions(n_models=models, n_steps=steps, n_rows=rows, l1=l1)
    return _experiment(terminal, measure, chosen, output, report, again=again)


def parity(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    reduction: Reduction = "sum",
    seeds: Seeds = 3,
    epochs: Epochs = 60,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Scale the dictionary on networks of multi-task sparse parity: does F level off?

    Example: fluoroscope superposition parity

    Example: fluoroscope superposition parity --reduction mean -o parity-mean.h5
    """
    from ..sae.superposition.experiments.parity import ParityOptions
    from ..sae.superposition.experiments.parity import parity as measure

    chosen = ParityOptions(reduction=reduction, n_seeds=seeds, n_epochs=epochs)
    return _experiment(terminal, measure, chosen, output, report, again=again)


def sort(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    width: Widths = None,
    seeds: Seeds = 3,
    steps: Steps = 800,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Squeeze compiled programs (reverse and sort) and count the features that are left.

    Example: fluoroscope superposition sort

    Example: fluoroscope superposition sort -w 8 -w 16 -w 24 --seeds 5
    """
    from ..sae.superposition.experiments.sort import SortOptions
    from ..sae.superposition.experiments.sort import sort as measure

    chosen = _with(SortOptions(n_seeds=seeds, n_steps=steps), widths=width)
    return _experiment(terminal, measure, chosen, output, report, again=again)


def dropout(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    width: Widths = None,
    seeds: Seeds = 3,
    epochs: Epochs = 60,
    l1: Penalty = 0.1,
    recipe: Recipe = "text",
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Train networks of several widths with dropout: does F fall?

    Example: fluoroscope superposition dropout

    Example: fluoroscope superposition dropout -w 16 -w 128 --seeds 5 --epochs 100
    """
    from ..sae.superposition.experiments.dropout import DropoutOptions
    from ..sae.superposition.experiments.dropout import dropout as measure

    chosen = _with(
        DropoutOptions(n_seeds=seeds, n_epochs=epochs, l1=l1, recipe=recipe), widths=width
    )
    return _experiment(terminal, measure, chosen, output, report, again=again)


def capacity(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    width: Widths = None,
    seeds: Seeds = 3,
    steps: Steps = 2400,
    l1: Penalty = 0.1,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Train networks of several widths on one to three tasks: does F grow with both?

    Example: fluoroscope superposition capacity

    Example: fluoroscope superposition capacity -w 16 -w 64 -w 256
    """
    from ..sae.superposition.experiments.capacity import CapacityOptions
    from ..sae.superposition.experiments.capacity import capacity as measure

    chosen = _with(CapacityOptions(n_seeds=seeds, n_steps=steps, l1=l1), widths=width)
    return _experiment(terminal, measure, chosen, output, report, again=again)


def grokking(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    seeds: Seeds = 3,
    epochs: Epochs = 1000,
    checkpoints: Checkpoints = 21,
    sgld_steps: Sgld = 150,
    l1: Penalty = 0.1,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Follow F and the local learning coefficient while networks grok modular addition.

    Example: fluoroscope superposition grokking

    Example: fluoroscope superposition grokking --seeds 5 --sgld-steps 0
    """
    from ..sae.superposition.experiments.grokking import GrokkingOptions
    from ..sae.superposition.experiments.grokking import grokking as measure

    chosen = GrokkingOptions(
        n_seeds=seeds, n_epochs=epochs, n_checkpoints=checkpoints, sgld_steps=sgld_steps, l1=l1
    )
    return _experiment(terminal, measure, chosen, output, report, again=again)


def adversarial(
    terminal: Terminal,
    *,
    output: Output = Path("superposition.h5"),
    width: Widths = None,
    seeds: Seeds = 3,
    epochs: Epochs = 60,
    l1: Penalty = 0.1,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Train classifiers against PGD attacks, with room to spare and without: which way does F go?

    Example: fluoroscope superposition adversarial

    Example: fluoroscope superposition adversarial -w 16 -w 256 --seeds 5
    """
    from ..sae.superposition.experiments.adversarial import AdversarialOptions
    from ..sae.superposition.experiments.adversarial import adversarial as measure

    chosen = _with(AdversarialOptions(n_seeds=seeds, n_epochs=epochs, l1=l1), widths=width)
    return _experiment(terminal, measure, chosen, output, report, again=again)


def layers(
    terminal: Terminal,
    *,
    run: options.RunFile,
    sites: options.Sites = None,
    every: Every = 3,
    tokens: Rows = 16_384,
    expansion: Expansion = 2.0,
    l1: LayerPenalty = 0.1,
    steps: LayerSteps = 400,
    match_fvu: Match = None,
    report: Report = None,
    again: Again = False,
) -> dict[str, Any]:
    """Count effective features layer by layer, through dictionaries trained alike; no model is needed.

    Ctrl-C keeps the layers that are done; the same command picks up there.

    Example: fluoroscope superposition layers run.h5

    Example: fluoroscope superposition layers run.h5 --match-fvu 0.2 -s 'layers.*.mlp.out'
    """
    from fnmatch import fnmatch

    from ..probes import open_run
    from ..sae.superposition.journal import Journal
    from ..sae.superposition.layers import LayerOptions, layer_superposition

    opened = open_run(run)
    chosen = LayerOptions(
        expansion=expansion, l1=l1, n_steps=steps, max_rows=tokens, match_fvu=match_fvu
    )
    wanted = [name for name in opened.sites if any(fnmatch(name, s) for s in sites or ())]
    wanted += [s for s in sites or () if "*" not in s and s not in wanted]
    names = wanted if sites else _by_layer(opened.sites)[::every]
    journal = Journal(_journals(run), "layers", chosen)
    _begin(terminal, journal, again=again)
    with terminal.track("Layers", "thousandths") as progress:
        found = layer_superposition(opened, names, chosen, journal=journal, progress=progress)
    opened.add_result("superposition_layers", found)
    journal.remove()
    terminal.wrote(run)
    table = Table(
        "site", "F", "95 %", "psi", "place", "FVU", "L0", "alive", "TwoNN", "linear dim.",
        title="Effective features, dictionaries trained alike",
    )  # fmt: skip
    for i, site in enumerate(found.sites):
        table.add_row(
            str(site), f"{found.features[i]:.0f}",
            f"{found.features_low[i]:.0f}-{found.features_high[i]:.0f}", f"{found.psi[i]:.2f}",
            str(found.place[i]) if found.place[i] else f"rises {found.rise[i]:+.1%}",
            f"{found.fvu[i]:.3f}", f"{found.l0[i]:.0f}", f"{found.alive[i]:.0f}",
            f"{found.two_nn[i]:.1f}", f"{found.linear_dimension[i]:.1f}",
        )  # fmt: skip
    terminal.show(table)
    terminal.show(found.caveat)
    _page(terminal, run, report)
    return {
        "result": "superposition_layers",
        "caveat": found.caveat,
        "sites": found.sites.tolist(),
        **{
            name: _plain(getattr(found, name))
            for name in ("features", "features_low", "features_high", "psi", "place", "rise", "fvu",
                         "l0", "alive", "matched", "two_nn", "linear_dimension")
        },
    }  # fmt: skip


def _experiment(
    terminal: Terminal,
    measure: Callable[..., Any],
    chosen: Any,
    output: Path,
    report: Path | None,
    *,
    again: bool,
) -> dict[str, Any]:
    """Run one experiment into a run file and show what it says about the paper."""
    from ..sae.superposition.journal import Journal

    name = measure.__name__
    run = _open_or_make(output)
    journal = Journal(_journals(output), name, chosen)
    _begin(terminal, journal, again=again)
    with terminal.track(name.capitalize(), "thousandths") as progress:
        found = measure(chosen, journal=journal, progress=progress)
    run.add_result(f"superposition_{name}", found)
    journal.remove()
    terminal.wrote(output)
    _show(terminal, found)
    _page(terminal, output, report)
    return {
        "result": f"superposition_{name}",
        "interval": found.interval,
        "claims": [
            {"text": str(text), "paper": str(paper), "estimate": estimate, "low": low, "high": high,
             "verdict": str(verdict)}
            for text, paper, estimate, low, high, verdict in zip(
                found.claim, found.claim_paper, _plain(found.claim_estimate), _plain(found.claim_low),
                _plain(found.claim_high), found.claim_verdict, strict=True,
            )
        ],
        "notes": found.notes.tolist(),
        "options": dataclasses.asdict(chosen),
    }  # fmt: skip


def _show(terminal: Terminal, found: Any) -> None:
    table = Table(
        "group", found.x_name, "F", "psi", "FVU", "L0", "alive", found.score_name or "score"
    )
    for group in dict.fromkeys(found.group.tolist()):
        xs = sorted(set(found.x[found.rows_where(group=group)].tolist()))
        for x in xs[:: max(len(xs) // 12, 1)]:
            rows = found.rows_where(group=group, x=x)
            means = [
                np.nanmean(column[rows]) if np.isfinite(column[rows]).any() else np.nan
                for column in (
                    found.features,
                    found.psi,
                    found.fvu,
                    found.l0,
                    found.alive,
                    found.score,
                )
            ]
            table.add_row(str(group), f"{x:.3g}", *(f"{mean:.3g}" for mean in means))
    terminal.show(table)
    claims = Table("claim", "paper", "measured", "95 %", "verdict")
    for i, text in enumerate(found.claim):
        claims.add_row(
            str(text), str(found.claim_paper[i]), f"{found.claim_estimate[i]:.3g}",
            f"{found.claim_low[i]:.3g} to {found.claim_high[i]:.3g}", str(found.claim_verdict[i]),
        )  # fmt: skip
    terminal.show(claims)
    for note in (f"Intervals: {found.interval}.", *found.notes):
        terminal.show(str(note))


def _with(chosen: Any, **changes: Any) -> Any:
    """Options with the changes that were asked for."""
    given = {name: tuple(value) for name, value in changes.items() if value}
    return dataclasses.replace(chosen, **given)


def _begin(terminal: Terminal, journal: Any, *, again: bool) -> None:
    if again:
        journal.clear()
    elif journal.n_done:
        terminal.say(f"{journal.n_done} finished parts of an earlier run are kept.")


def _journals(output: Path) -> Path:
    return output.with_name(output.stem + ".superposition")


def _page(terminal: Terminal, run: Path, report: Path | None) -> None:
    if report is not None:
        from ..reports import build_report

        terminal.wrote(build_report(run, report))
        terminal.show(f"Report: {report}")


def _plain(values: np.ndarray) -> list[Any]:
    """Numbers for JSON, which knows neither NaN nor infinity."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _by_layer(sites: tuple[str, ...]) -> list[str]:
    held = [site for site in sites if site.endswith(".resid_post")]
    return sorted(held, key=lambda site: int(site.split(".")[1])) or list(sites)


def _open_or_make(path: Path) -> Any:
    """The run file at `path`, or a new one: experiments train models of their own."""
    from ..probes import Provenance, create_run, open_run

    if path.exists():
        return open_run(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    provenance = Provenance(
        model={"name": "networks trained by the experiments"},
        corpus={"description": "no corpus, data made by the experiments"},
    )
    with create_run(path, provenance=provenance) as writer:
        writer.close()
    return open_run(path)
