"""`fluoroscope report`: one HTML page from one run file."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..running import Terminal
from . import options

Output = Annotated[
    Path | None, typer.Option("--output", "-o", help="Where to write; left out: beside the run.")
]
Only = Annotated[list[str] | None, typer.Option(help="Only these sections (repeatable).")]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]


def report(
    terminal: Terminal,
    *,
    run: options.RunFile,
    output: Output = None,
    only: Only = None,
    open_: Open = False,
) -> dict[str, str | int]:
    """Draw a run file as one self-contained HTML page that works offline.

    Example: fluoroscope report out/run.h5

    Example: fluoroscope report out/run.h5 -o page.html --open
    """
    from ..reports import build_report

    page = build_report(run, output, only=only)
    terminal.wrote(page)
    terminal.show(f"Report: {page} ({page.stat().st_size / 1e6:.2f} MB)")
    if open_:
        webbrowser.open(page.resolve().as_uri())
    return {"report": str(page), "n_bytes": page.stat().st_size}
