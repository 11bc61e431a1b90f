"""`fluoroscope superposition ...`: seven experiments about how many features networks carry.

All are one command but for their flags: run an experiment (`sae/superposition/study.py`) into a run
file, go on where a stopped run was, show its table and what it says of the paper.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.table import Table

from ..running import Terminal

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


FLAGS: dict[str, tuple[str, Any]] = {
    "models": ("n_models", Models),
    "rows": ("n_rows", ToyRows),
    "steps": ("n_steps", Steps),
    "epochs": ("n_epochs", Epochs),
    "seeds": ("n_seeds", Seeds),
    "width": ("widths", Widths),
    "l1": ("l1", Penalty),
    "reduction": ("reduction", Reduction),
    "recipe": ("recipe", Recipe),
    "checkpoints": ("n_checkpoints", Checkpoints),
    "sgld_steps": ("sgld_steps", Sgld),
}
"""Flags by name: the option of the experiment each sets, and what it is on the command line."""


def _command(name: str, help_text: str, **defaults: Any) -> Callable[..., dict[str, Any]]:
    """The command of one experiment.

    Args:
        name: The experiment's module and name.
        help_text: What `--help` says.
        **defaults: Its flags, of `FLAGS`; None leaves the experiment's own default.
    """

    def run(
        terminal: Terminal, *, output: Path, report: Path | None, again: bool, **given: Any
    ) -> dict[str, Any]:
        module = import_module(f"fluoroscope.sae.superposition.experiments.{name}")
        study = getattr(module, name)
        settings = {
            FLAGS[flag][0]: tuple(value) if isinstance(value, list) else value
            for flag, value in given.items()
            if value is not None
        }
        return _run(terminal, study, study.Options(**settings), output, report, again=again)

    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [("output", Output, Path("superposition.h5"))]
    own += [(flag, FLAGS[flag][1], default) for flag, default in defaults.items()]
    own += [("report", Report, None), ("again", Again, False)]
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("terminal", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
        + [
            inspect.Parameter(flag, keyword, annotation=annotation, default=default)
            for flag, annotation, default in own
        ]
    )
    run.__name__, run.__doc__ = name, help_text
    return run


toy = _command(
    "toy",
    """Check the measure on toy models whose number of features is known (arXiv 2512.13568).

    Example: fluoroscope superposition toy

    Example: fluoroscope superposition toy --models 40 --steps 2000 -o toy.h5 --report toy.html
    """,
    models=100,
    steps=4000,
    rows=10_000,
    l1=0.1,
)

parity = _command(
    "parity",
    """Scale the dictionary on networks of multi-task sparse parity: does F level off?

    Example: fluoroscope superposition parity

    Example: fluoroscope superposition parity --reduction mean -o parity-mean.h5
    """,
    reduction="sum",
    seeds=3,
    epochs=60,
)

sort = _command(
    "sort",
    """Squeeze compiled programs (reverse and sort) and count the features that are left.

    Example: fluoroscope superposition sort

    Example: fluoroscope superposition sort -w 8 -w 16 -w 24 --seeds 5
    """,
    width=None,
    seeds=3,
    steps=800,
)

dropout = _command(
    "dropout",
    """Train networks of several widths with dropout: does F fall?

    Example: fluoroscope superposition dropout

    Example: fluoroscope superposition dropout -w 16 -w 128 --seeds 5 --epochs 100
    """,
    width=None,
    seeds=3,
    epochs=60,
    l1=0.1,
    recipe="text",
)

capacity = _command(
    "capacity",
    """Train networks of several widths on one to three tasks: does F grow with both?

    Example: fluoroscope superposition capacity

    Example: fluoroscope superposition capacity -w 16 -w 64 -w 256
    """,
    width=None,
    seeds=3,
    steps=2400,
    l1=0.1,
)

grokking = _command(
    "grokking",
    """Follow F and the local learning coefficient while networks grok modular addition.

    Example: fluoroscope superposition grokking

    Example: fluoroscope superposition grokking --seeds 5 --sgld-steps 0
    """,
    seeds=3,
    epochs=1000,
    checkpoints=21,
    sgld_steps=150,
    l1=0.1,
)

adversarial = _command(
    "adversarial",
    """Train classifiers against PGD attacks, with room to spare and without: which way does F go?

    Example: fluoroscope superposition adversarial

    Example: fluoroscope superposition adversarial -w 16 -w 256 --seeds 5
    """,
    width=None,
    seeds=3,
    epochs=60,
    l1=0.1,
)


def _run(
    terminal: Terminal,
    study: Any,
    chosen: Any,
    output: Path,
    report: Path | None,
    *,
    again: bool,
) -> dict[str, Any]:
    """Run one experiment into a run file and show what it says about the paper."""
    from ..sae.superposition.journal import Journal

    name = study.name
    run = _open_or_make(output)
    journal = Journal(journals(output), name, chosen)
    begin(terminal, journal, again=again)
    with terminal.track(name.capitalize(), "thousandths") as progress:
        found = study(chosen, journal=journal, progress=progress)
    run.add_result(f"superposition_{name}", found)
    journal.remove()
    terminal.wrote(output)
    _show(terminal, found)
    page(terminal, output, report)
    return {
        "result": f"superposition_{name}",
        "interval": found.interval,
        "claims": [
            {"text": str(text), "paper": str(paper), "estimate": estimate, "low": low, "high": high,
             "verdict": str(verdict)}
            for text, paper, estimate, low, high, verdict in zip(
                found.claim, found.claim_paper, plain(found.claim_estimate), plain(found.claim_low),
                plain(found.claim_high), found.claim_verdict, strict=True,
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


def begin(terminal: Terminal, journal: Any, *, again: bool) -> None:
    """Forget what an earlier run kept, if asked, else say that it is kept."""
    if again:
        journal.clear()
    elif journal.n_done:
        terminal.say(f"{journal.n_done} finished parts of an earlier run are kept.")


def journals(output: Path) -> Path:
    """Where half-done experiments are kept, beside a run file."""
    return output.with_name(output.stem + ".superposition")


def page(terminal: Terminal, run: Path, report: Path | None) -> None:
    """Draw the page, if asked."""
    if report is not None:
        from ..reports import build_report

        terminal.wrote(build_report(run, report))
        terminal.show(f"Report: {report}")


def plain(values: np.ndarray) -> list[Any]:
    """Numbers for JSON, which knows neither NaN nor infinity."""
    return [value if np.isfinite(value) else None for value in values.tolist()]


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
