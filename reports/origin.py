"""Where a run comes from, as the page tells it: its summary, and provenance as one flat table."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from typing import Any

from ..probes.runfile import Run
from ..probes.runfile.invocations import invocations
from .tokens import label


def provenance_rows(run: Run) -> list[tuple[str, str]]:
    """The provenance table: name and value, without the model's whole configuration."""
    origin = run.provenance.as_dict()
    origin["model"] = {k: v for k, v in origin["model"].items() if k != "config"}
    command = shlex.join(origin.pop("command"))
    del origin["sites"], origin["created"]
    rows = [("made by", label(command, longest=400))]
    for one in invocations(run):
        options = ", ".join(f"{key}={value}" for key, value in one.options.items())
        rows.append((f"options of {one.command}", label(options, longest=400)))
    for key, value in origin.items():
        if isinstance(value, dict):
            rows += [(f"{key}: {_shown(name)}", _shown(item)) for name, item in value.items()]
        else:
            rows.append((key, _shown(value)))
    return rows


def summary_rows(run: Run) -> dict[str, str]:
    """The run's own summary, sites by kind rather than one by one."""
    found = {key: _shown(value) for key, value in run.summary().items()}
    kinds = Counter(re.sub(r"\.\d+\.", ".*.", site) for site in run.sites)
    found["sites"] = ", ".join(f"{_shown(k)} ({n})" for k, n in kinds.items()) or "none"
    return found


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return label(str(value), longest=200)
