"""`fluoroscope probe`: what can be read off states by a linear classifier."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options

Label = Annotated[str, typer.Option("--label", "-l", help="python-class or line-start.")]
Tokens = Annotated[int, typer.Option("--tokens", "-n", min=64, help="Tokens to use.")]
Every = Annotated[int, typer.Option(min=1, help="Without --sites: every how many layers.")]


def probe(
    terminal: Terminal,
    *,
    run: options.RunFile,
    label: Label = "python-class",
    sites: options.Sites = None,
    every: Every = 6,
    tokens: Tokens = 4000,
) -> dict[str, Any]:
    """Add a linear probe with its control task to a run file; no model is needed.

    Example: fluoroscope probe out/run.h5

    Example: fluoroscope probe out/run.h5 --label line-start -s layers.0.resid_post
    """
    from ..probes import open_run
    from ..probes.readings import linear_probe

    opened = open_run(run)
    chosen = sites or list(opened.sites)[::every]
    with terminal.track("Probing", "sites") as progress:
        found = linear_probe(opened, label, chosen, max_tokens=tokens, progress=progress)
    opened.add_result("linear_probe", found)
    terminal.wrote(run)
    table = Table("site", "accuracy", "control", "selectivity", title=f"Linear probe: {label}")
    rows = zip(found.sites, found.accuracy, found.control, found.selectivity, strict=True)
    for site, accuracy, control, selectivity in rows:
        table.add_row(str(site), f"{accuracy:.3f}", f"{control:.3f}", f"{selectivity:+.3f}")
    terminal.show(table)
    terminal.show(
        f"majority class {found.majority:.3f}, from the token alone {found.token_identity:.3f}"
    )
    return {
        "label": label,
        "sites": found.sites.tolist(),
        "accuracy": found.accuracy.tolist(),
        "control": found.control.tolist(),
        "selectivity": found.selectivity.tolist(),
        "majority": found.majority,
        "token_identity": found.token_identity,
    }
