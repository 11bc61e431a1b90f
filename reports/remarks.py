"""What a reader must know of a run before its numbers, and which commands would add what it lacks."""

from __future__ import annotations

from ..probes.runfile import Run
from ..probes.runfile.h5 import members, subgroup
from .redact import RedactedRun
from .sections import ADDED_BY

FEW_TOKENS = 1000
"""Captured tokens below which the page warns of wide intervals."""


def warnings_of(run: Run) -> list[str]:
    """What weakens all of a run's numbers: hidden texts, a stop before the end, little text."""
    found = []
    if isinstance(run, RedactedRun):
        hidden = "Prompts are" if run.what == "prompts" else "All texts are"
        found.append(f"{hidden} replaced by blocks of their length; numbers are as measured.")
    if not run.complete:
        found.append("The run is incomplete: capture was interrupted or is still under way.")
    rows = sum(entry["n_rows"] for entry in run.shards)
    if 0 < rows < FEW_TOKENS:
        found.append(f"Only {rows} tokens were captured; intervals are wide.")
    if run.provenance.settings.get("bos") not in (None, "auto"):
        found.append(f"Beginning-of-sequence policy: {run.provenance.settings['bos']}.")
    return found


def missing_from(run: Run) -> list[tuple[str, str]]:
    """Kinds of result that the run lacks, each with the command that adds it."""
    with run.reading() as file:
        names = members(file, "results")
        held = {str(subgroup(file, f"results/{name}").attrs.get("kind")) for name in names}
    absent = [
        (kind.replace("_", " "), command) for kind, command in ADDED_BY.items() if kind not in held
    ]
    if not run.traces:
        absent.append(("decode trace", "fluoroscope decode --prompt TEXT -o RUN"))
    return [(kind, command.replace("RUN", run.path.name)) for kind, command in absent]
