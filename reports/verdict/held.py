"""What a run file holds, as the verdict reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

import h5py

from ...probes.runfile import Run
from ...probes.runfile.h5 import members, subgroup
from ..redact import RedactedRun
from ..section import UNREADABLE, Stored, read_result, told
from .decoded import Decoded, read_decoded
from .statement import Interval


@dataclass(frozen=True)
class Held:
    """Results by kind, and traced generations by engine."""

    results: tuple[Stored, ...] = ()
    traces: dict[str, Decoded] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    """Traces that cannot be read, and why."""
    comparable: bool = True
    """Whether token ids of different traces are the same tokens; hidden ids are not."""

    def of(self, kind: str) -> list[Stored]:
        """Results of a kind, in the order of their names."""
        return [stored for stored in self.results if stored.kind == kind]


def read_held(run: Run, names: frozenset[str] | None = None) -> Held:
    """Read what the verdict may speak of.

    Args:
        run: The run file.
        names: Results and traces to read; None for all.

    Raises:
        DamagedRunFileError: A result cannot be read; the message names it.
    """
    traces: dict[str, Decoded] = {}
    unread: dict[str, str] = {}
    with run.reading() as file:
        results = [read_result(run, file, name) for name in _chosen(file, "results", names)]
        for name in _chosen(file, "trace", names):
            try:
                traces[name] = read_decoded(name, subgroup(file, f"trace/{name}"))
            except UNREADABLE as error:
                unread[name] = told(error)
    coded = isinstance(run, RedactedRun) and run.what == "text"
    return Held(tuple(results), traces, unread, comparable=not coded)


def _chosen(file: h5py.File, group: str, names: frozenset[str] | None) -> list[str]:
    return [name for name in sorted(members(file, group)) if names is None or name in names]


def estimate(stored: Stored, key: str, at: int | None = None) -> Interval:
    """A stored number with its bounds: fields `key`, `key_low`, `key_high`, or one row of them."""
    parts = [stored.values[f"{key}{end}"] for end in ("", "_low", "_high")]
    return Interval(*(float(part if at is None else part[at]) for part in parts))
