"""Results of experiments that need no model: kept in a run file of any origin, or one of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..running import Terminal


def keep(terminal: Terminal, path: Path | None, name: str, result: Any) -> None:
    """Add a result to a run file; nothing without a path.

    Args:
        terminal: Told which file was written.
        path: An existing run file, whatever it came from, or a new one, which then holds no rows.
        name: What the result is called there; one of that name is replaced.
        result: The result.
    """
    if path is None:
        return
    from ..probes import Provenance, create_run, open_run

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        nothing = {"description": "no corpus; an experiment with data of its own"}
        with create_run(path, provenance=Provenance(corpus=nothing)) as writer:
            writer.close()
    open_run(path).add_result(name, result)
    terminal.wrote(path)
