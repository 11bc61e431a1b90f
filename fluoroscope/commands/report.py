"""`fluoroscope report`: one HTML page from one run file."""

import sys
import webbrowser
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import completing
from ..running import Terminal
from . import options

Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Where to write, - for standard output; left out: beside the run."
    ),
]
Only = Annotated[
    list[str] | None,
    typer.Option(
        help="Only this result or trace, by its name in `fluoroscope info` (repeatable).",
        autocompletion=completing.sections,
    ),
]
MaxMb = Annotated[
    float,
    typer.Option("--max-mb", min=0.1, help="Refuse a page larger than this; browsers grow slow."),
]
Redact = Annotated[
    Literal["prompts", "text"] | None,
    typer.Option(
        help="Replace prompts, or all text (tokens, candidates, document names), by blocks of its "
        "length; every number stays. To share a page when the text is not yours."
    ),
]
Pdf = Annotated[
    bool,
    typer.Option("--pdf", help="Also print the page to PDF beside it, with an installed Chromium."),
]
Open = Annotated[bool, typer.Option("--open", help="Show the page in the browser.")]


def report(
    terminal: Terminal,
    *,
    run: options.RunFile,
    output: Output = None,
    only: Only = None,
    max_mb: MaxMb = 10.0,
    redact: Redact = None,
    pdf: Pdf = False,
    open_: Open = False,
) -> dict[str, Any]:
    """Draw a run file as one self-contained HTML page that works offline; no model is needed.

    Example: fluoroscope report out/run.h5

    Example: fluoroscope report out/run.h5 -o shared.html --redact text
    """
    from ..probes import open_run
    from ..probes.errors import OptionError
    from ..reports import RedactedRun, build_report, print_pdf, verdict_of

    piped = output is not None and str(output) == "-"
    if piped and (pdf or open_ or terminal.json):
        raise OptionError("`-o -` writes the page alone; leave out --pdf, --open and --json.")
    if piped:
        from tempfile import TemporaryDirectory

        with TemporaryDirectory() as folder:
            page = build_report(
                run, Path(folder) / "page.html", only=only, max_mb=max_mb, redact=redact
            )
            sys.stdout.write(page.read_text(encoding="utf-8"))
        return {}
    page = build_report(run, output, only=only, max_mb=max_mb, redact=redact)
    found: dict[str, Any] = {"report": str(page), "n_bytes": page.stat().st_size}
    drawn = open_run(run) if redact is None else RedactedRun(open_run(run), redact)
    found["verdict"] = [statement.as_dict() for statement in verdict_of(drawn, only)]
    terminal.wrote(page)
    terminal.show(f"Report: {page} ({page.stat().st_size / 1e6:.2f} MB)")
    if pdf:
        terminal.say("Printing")
        printed = print_pdf(page, page.with_suffix(".pdf"))
        terminal.wrote(printed)
        terminal.show(f"PDF:    {printed} ({printed.stat().st_size / 1e6:.2f} MB)")
        found["pdf"] = str(printed)
    if open_:
        webbrowser.open(page.resolve().as_uri())
    return found
