"""`fluoroscope models` and `fluoroscope sites`: what can be opened, and what can be looked at."""

from typing import Annotated, Any

import typer
from rich.table import Table

from ..running import Terminal
from . import options


def models(terminal: Terminal) -> list[dict[str, Any]]:
    """List the models that are converted and cached on this machine, the embedded one first.

    Example: fluoroscope models

    Example: fluoroscope models --json
    """
    from ..probes import list_cached

    cached = list_cached()
    table = Table("model", "source", "MB", "digest", "converted (UTC)", title="Cached models")
    for entry in cached:
        size = f"{entry.n_bytes / 1e6:,.0f}"
        table.add_row(entry.name, entry.source, size, entry.weights_digest[:12], entry.created)
    terminal.show(table if cached else "No model is cached yet; the first opening converts one.")
    return [entry.as_dict() for entry in cached]


def sites(
    terminal: Terminal,
    *,
    pattern: Annotated[str, typer.Argument(help="Site name or glob.")] = "*",
    model: options.Model = None,
    backend: options.Backend = "transformers",
) -> list[dict[str, Any]]:
    """List a model's sites: the places where hidden states can be captured or edited.

    Example: fluoroscope sites

    Example: fluoroscope sites 'layers.11.*'
    """
    from ..probes import open_model

    opened = open_model(model, backend=backend)
    found = opened.sites.resolve([pattern])
    table = Table("site", "axes", "width", title=opened.name)
    for site in found:
        table.add_row(site.name, ", ".join(site.axes), str(site.width or ""))
    terminal.show(table)
    return [{"name": s.name, "axes": list(s.axes), "width": s.width} for s in found]
