"""Finished parts of a flow, kept in the run file so that an interrupted reading goes on with the next.

A part is what one layer, or one of the stages after the layers, gave: estimates by name and the
refusals that came with them. Parts are of one reading: other options, rows or code of another
version begin anew.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from ..results import Result, described
from ..runfile import Run
from .flow_options import FlowOptions
from .resampling import Estimate

NAME = "information_flow_parts"
"""Name of the unfinished reading in the run file; it is gone once the flow is there."""
VERSION = 1
"""Raised whenever a part's content changes."""

Estimates = dict[str, list[Estimate]]


@dataclass(frozen=True, kw_only=True)
class FlowParts(Result):
    """An unfinished reading of information flow."""

    kind: ClassVar[str] = "information_flow_parts"
    reading: str = described("options and rows the parts belong to, as JSON")
    names: np.ndarray = described("finished parts", axes=("parts",))
    contents: np.ndarray = described("estimates and refusals of each, as JSON", axes=("parts",))


class Parts:
    """The finished parts of one reading over one run.

    Args:
        run: Where they are kept; None keeps them for this reading only.
        options: The reading's options.
        n_rows: Rows of the run it is about.
    """

    def __init__(self, run: Run | None, options: FlowOptions, n_rows: int) -> None:
        self._run = run
        self._reading = json.dumps(
            {"version": VERSION, "rows": n_rows, "options": asdict(options)}, sort_keys=True
        )
        self._held: dict[str, str] = {}
        if run is not None and NAME in run.results:
            stored = run.result(NAME, FlowParts)
            if stored.reading == self._reading:
                self._held = dict(zip(stored.names.tolist(), stored.contents.tolist(), strict=True))

    def get(self, name: str) -> tuple[Estimates, list[str]] | None:
        """Estimates and refusals of a finished part; None where it is not finished."""
        if name not in self._held:
            return None
        content: dict[str, Any] = json.loads(self._held[name])
        estimates = {k: [Estimate(*one) for one in v] for k, v in content["estimates"].items()}
        return estimates, content["refusals"]

    def put(self, name: str, estimates: Estimates, refusals: list[str]) -> None:
        """Keep a finished part; what was kept of another reading is replaced."""
        content = {
            "estimates": {
                k: [(one.value, one.low, one.high) for one in v] for k, v in estimates.items()
            },
            "refusals": refusals,
        }
        self._held[name] = json.dumps(content)
        if self._run is not None:
            self._run.add_result(
                NAME,
                FlowParts(
                    reading=self._reading,
                    names=np.array(list(self._held), dtype=str),
                    contents=np.array(list(self._held.values()), dtype=str),
                ),
            )


def drop_parts(run: Run) -> None:
    """Take the unfinished reading out of a run file, if it holds one."""
    if NAME in run.results:
        with run.edit() as file:
            del file[f"results/{NAME}"]
