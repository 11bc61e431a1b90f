"""`fluoroscope figures`: a run's figures as files, or the list of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..running import Terminal
from . import options

Patterns = Annotated[
    list[str] | None,
    typer.Argument(
        help="Ids of figures, or globs over them, such as 'attention_sinks-*'; left out: all.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder to write to; left out: figures are listed."),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        "-f",
        help="svg, pdf, png, csv or vega-lite (repeatable, or with commas); left out: all of them.",
    ),
]
Redact = Annotated[
    Literal["prompts", "text"] | None,
    typer.Option(help="Replace prompts, or all text, by blocks, as `fluoroscope report` does."),
]


def figures(
    terminal: Terminal,
    *,
    run: options.RunFile,
    patterns: Patterns = None,
    output: Output = None,
    format_: Formats = None,
    redact: Redact = None,
) -> dict[str, Any]:
    """Write figures of a run's page as SVG, PDF, PNG, CSV and Vega-Lite, or list them.

    Figures without a chart (tables, grids of tokens) become CSV only.

    Example: fluoroscope figures out/run.h5

    Example: fluoroscope figures out/run.h5 'attention_sinks-*' -o paper -f pdf,csv
    """
    from rich.table import Table

    from ..reports import choose, figures_of, save_figures
    from ..reports.figure import FORMATS

    chosen = choose(figures_of(run, redact=redact), patterns or ())
    found = [
        {"id": f.id, "question": f.question, "n_rows": f.n_rows, "has_chart": f.chart is not None}
        for f in chosen
    ]
    if output is None:
        table = Table("figure", "chart", "rows", "question", title=str(run.name))
        for one in found:
            chart = "yes" if one["has_chart"] else ""
            table.add_row(one["id"], chart, f"{one['n_rows']:,}", one["question"])
        terminal.show(table)
        return {"figures": found}
    terminal.say(f"Drawing {len(chosen)} figures")
    formats = [kind for one in format_ or FORMATS for kind in one.split(",")]
    written = save_figures(chosen, output, formats=formats)
    for path in written:
        terminal.wrote(path)
    terminal.show(f"{output}: {len(written)} files of {len(chosen)} figures")
    return {"figures": found, "n_files": len(written), "folder": str(output)}
