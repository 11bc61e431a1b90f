"""The skeleton of every experiment: options, units of work that are kept, rows, claims, a table.

An experiment says what its units are, how one is measured and what its rows say of the paper's claims;
running, resuming, progress and the stored form are the same for all:

    found = dropout(DropoutOptions(n_seeds=5), journal=journal, progress=progress)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .claims import Claim
from .experiment import Experiment, experiment
from .journal import Journal, Progress, Rows, run_units

OptionsT = TypeVar("OptionsT")
Measure = Callable[[str, Progress], Rows]
"""Measures one unit and says how far it is."""


def no_notes(_: Any) -> Sequence[str]:
    """No notes beside the measure's own caveat."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Study(Generic[OptionsT]):
    """One experiment; called, it runs."""

    name: str
    """Its name: command, journal, result."""
    Options: type[OptionsT]
    """Class of its options; all have defaults."""
    question: str
    """What it asks."""
    x_name: str
    """What `x` of the rows is."""
    score_name: str
    """What `score` of the rows is."""
    units: Callable[[OptionsT], Sequence[str]]
    """Names of the units, each kept when it is done: one condition with all its seeds."""
    measure: Callable[[OptionsT], Measure]
    """What measures one unit; made anew for every run, so that units can share work."""
    claims: Callable[[Rows, OptionsT], list[Claim]]
    """What the rows say of the paper's claims."""
    interval: Callable[[OptionsT], str]
    """What the claims' intervals are over."""
    notes: Callable[[OptionsT], Sequence[str]] = no_notes
    """Deviations and conditions."""
    extras: tuple[str, ...] = ()
    """Further numbers of every row to keep."""

    def __call__(
        self,
        options: OptionsT | None = None,
        *,
        journal: Journal | None = None,
        progress: Progress | None = None,
    ) -> Experiment:
        """Run it.

        Args:
            options: Size of the experiment; None takes the defaults.
            journal: Keeps finished units, and holds those of an earlier, stopped run; None keeps none.
            progress: Called with (done, total, note).
        """
        chosen = self.Options() if options is None else options
        held = Journal(None, self.name, chosen) if journal is None else journal
        rows = run_units(self.units(chosen), self.measure(chosen), held, progress)
        return experiment(
            self.name,
            question=self.question,
            x_name=self.x_name,
            rows=rows,
            claims=self.claims(rows, chosen),
            interval=self.interval(chosen),
            options=chosen,
            score_name=self.score_name,
            notes=self.notes(chosen),
            extras=self.extras,
        )


def over_seeds(what: str) -> Callable[[Any], str]:
    """The interval of most experiments: Student's t over what differs by seed.

    Args:
        what: What that is, such as "networks".
    """
    return lambda options: f"Student's t over {options.n_seeds} {what}"
