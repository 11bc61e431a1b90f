"""`fluoroscope compare`: two run files side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from .. import completing
from ..running import Terminal
from .results import keep

First = Annotated[
    Path,
    typer.Argument(help="A run file.", show_default=False, autocompletion=completing.run_files),
]
Second = Annotated[
    Path,
    typer.Argument(
        help="Another run file.", show_default=False, autocompletion=completing.run_files
    ),
]
Output = Annotated[
    Path,
    typer.Option("--output", "-o", help="Run file for the comparison; its page stands beside it."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace that file.")]


def compare(
    terminal: Terminal,
    *,
    first: First,
    second: Second,
    output: Output = Path("compared.h5"),
    overwrite: Overwrite = False,
) -> dict[str, Any]:
    """Lay two runs side by side: models, engines, before and after; differences with intervals.

    Compares what both hold under the same name. What cannot be compared (other settings, other
    shapes) is refused by name, with the reason.

    Example: fluoroscope compare before.h5 after.h5

    Example: fluoroscope compare small.h5 large.h5 -o sizes.h5
    """
    from ..probes import open_run
    from ..probes.errors import OptionError, RunExistsError
    from ..reports import build_report
    from ..reports.comparing import compare_runs

    if output.resolve() in (first.resolve(), second.resolve()):
        raise OptionError(f"--output must be a file of its own, got {output.name} again.")
    if output.exists() and not overwrite:
        raise RunExistsError(f"{output.name} exists; give another --output, or --overwrite.")
    found = compare_runs(open_run(first), open_run(second))
    output.unlink(missing_ok=True)
    for name, result in found.items():
        keep(terminal, output, name, result)
    page = build_report(output)
    terminal.wrote(page)
    table = Table("of", "compared", "clear differences", "refused", title="Two runs")
    rows = []
    for result in found.values():
        bounds = result.difference
        clear = int(((bounds[:, 1] > 0) | (bounds[:, 2] < 0)).sum())
        table.add_row(
            result.of,
            str(len(result.quantities)),
            f"{clear} of {len(bounds)}",
            str(len(result.refused)),
        )
        rows.append({
            "of": result.of,
            "quantities": result.quantities.tolist(),
            "n_values": len(bounds),
            "n_clear": clear,
            "refused": result.refused.tolist(),
        })  # fmt: skip
    terminal.show(table)
    terminal.show(f"Report: {page}")
    return {"compared": rows, "report": str(page)}
