"""`fluoroscope report`: one HTML page from one run file."""

import sys
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from .. import completing
from ..running import Terminal, Terminated
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
Watch = Annotated[
    bool,
    typer.Option(
        "--watch",
        help="Follow a run that is still being written: draw the page again whenever the run file "
        "changes, until Ctrl-C. The page reads itself again; no server is needed.",
    ),
]
Every = Annotated[
    float,
    typer.Option(
        "--every", min=0.5, help="With --watch: seconds between two looks at the run file."
    ),
]


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
    watch: Watch = False,
    every: Every = 10.0,
) -> dict[str, Any]:
    """Draw a run file as one self-contained HTML page that works offline; no model is needed.

    Example: fluoroscope report out/run.h5 -o shared.html --redact text

    Example: fluoroscope report out/run.h5 --watch --open
    """
    from ..probes import open_run
    from ..probes.errors import OptionError
    from ..reports import RedactedRun, build_report, print_pdf, verdict_of

    piped = output is not None and str(output) == "-"
    if watch and (piped or pdf):
        raise OptionError("--watch draws a page again and again; leave out --pdf and `-o -`.")
    if watch:
        page = output or run.with_suffix(".html")
        told = {"only": only, "max_mb": max_mb, "redact": redact}
        return _follow(terminal, run, page, every, told, open_=open_)
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


def _follow(
    terminal: Terminal, run: Path, page: Path, every: float, told: dict[str, Any], *, open_: bool
) -> dict[str, Any]:
    """Draw the page again and again; Ctrl-C is how this ends, so it is no failure."""
    from contextlib import closing

    from ..reports.following import follow_run

    n_pages = 0
    with (
        _status(terminal, f"Following {run.name}; Ctrl-C ends it") as tell,
        closing(follow_run(run, page, every_s=every, **told)) as changes,
    ):
        try:
            for drawn in changes:
                if drawn.problem:
                    tell(f"{drawn.problem} Looking again every {every:g} s; Ctrl-C ends it.")
                    continue
                n_pages += 1
                state = "complete" if drawn.complete else "still being written"
                tell(
                    f"{page.name}: page {n_pages} ({drawn.n_bytes / 1e6:.2f} MB in {drawn.seconds:.1f} "
                    f"s), run {state}. Looking again every {every:g} s; Ctrl-C ends it."
                )
                if open_ and n_pages == 1:
                    webbrowser.open(page.resolve().as_uri())
        except Terminated:
            raise
        except KeyboardInterrupt:
            pass
    if n_pages:
        terminal.wrote(page)
        terminal.show(f"Report: {page} (drawn {n_pages} times)")
    return {"report": str(page) if n_pages else None, "n_pages": n_pages}


@contextmanager
def _status(terminal: Terminal, text: str) -> Iterator[Callable[[str], None]]:
    """One line that is written anew on a terminal; a line per change elsewhere."""
    if not terminal.err.is_terminal or terminal.quiet or terminal.json:
        yield terminal.say
        return
    with terminal.err.status(escape(text)) as status:
        yield lambda line: status.update(escape(line))
