"""`fluoroscope info` and `fluoroscope verify`: look at a run file, check that it is whole."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..running import CHECK_FAILED, Terminal
from . import options


def info(terminal: Terminal, *, run: options.RunFile) -> dict[str, Any]:
    """Show what a run file holds: where it came from, its sites, results and traces.

    Example: fluoroscope info out/run.h5

    Example: fluoroscope info out/run.h5 --json
    """
    from ..probes import open_run

    opened = open_run(run)
    summary = opened.summary()
    table = Table("what", "value", title=str(run.name), show_header=False)
    for key, value in summary.items():
        table.add_row(key, _in_words(value))
    terminal.show(table)
    return summary


def verify(
    terminal: Terminal,
    *,
    run: options.RunFile,
    quick: Annotated[bool, typer.Option("--quick", help="Lengths and links only.")] = False,
) -> dict[str, Any]:
    """Check digests, lengths and links of a run file; exit code 4 when something does not hold.

    Example: fluoroscope verify out/run.h5

    Example: fluoroscope verify out/run.h5 --quick
    """
    from ..probes import open_run

    found = open_run(run).verify(quick=quick)
    if not found.ok:
        terminal.exit_code = CHECK_FAILED
    for problem in found.problems:
        terminal.show(Text.assemble(("problem", "red"), f" {problem}"))
    terminal.show(str(found))
    return found.as_dict()


def _in_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "none"
    if isinstance(value, dict):
        return "\n".join(f"{key}: {item}" for key, item in value.items())
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
