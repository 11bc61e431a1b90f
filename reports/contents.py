"""What a page shows of a run: a section for its traced generations and one for each result.

A result that its kind's renderer cannot make sense of is shown as it is stored; the page says so.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np

from ..probes.errors import DamagedRunFileError, OptionError
from ..probes.runfile import Run, open_run
from ..probes.runfile.h5 import subgroup
from .figure import Figure
from .redact import Redact, RedactedRun
from .section import UNREADABLE, Context, Section, Stored, read_result, told
from .sections import RENDERERS
from .sections.engines import engines
from .sections.generic import generic
from .sections.trace import traces
from .templating import macro

CHAPTERS = (
    "Decode trace",
    "Text and tokens",
    "Layers",
    "Information",
    "Features",
    "Experts",
    "Other results",
    "Performance",
    "Provenance",
)
"""Order of the page; the same in every report, so that two lie side by side."""
UNMEASURED = "None of the measured numbers is finite."
_NAN = re.compile(r"\bnan\b")


def opened(
    run: str | Path | Run, *, only: Sequence[str] | None = None, redact: Redact | None = None
) -> Run:
    """The run a page is drawn from.

    Args:
        run: A run file, or its path.
        only: Names of results or traces to show; None for all.
        redact: Texts to replace by blocks; see `redact.py`.

    Raises:
        RunFileError: The run file cannot be read.
        OptionError: `only` names what is not there.
    """
    found = run if isinstance(run, Run) else open_run(run)
    unknown = sorted(set(only or ()) - set(found.results) - set(found.traces))
    if unknown:
        held = ", ".join([*found.results, *found.traces]) or "nothing"
        raise OptionError(f"{found.path.name} holds no {', '.join(unknown)}; it holds {held}.")
    return found if redact is None else RedactedRun(found, redact)


def contents(run: Run, only: Sequence[str] | None = None) -> list[Section]:
    """The sections of a run, in the order of the page; their ids, and their figures', all differ.

    Args:
        run: The run, redacted or not.
        only: Names of results or traces to show; None for all.

    Raises:
        DamagedRunFileError: A result or a trace cannot be read; the message names it.
    """
    return sorted(
        _distinct(_sections(run, only)), key=lambda section: CHAPTERS.index(section.chapter)
    )


def figures_of(
    run: str | Path | Run, *, only: Sequence[str] | None = None, redact: Redact | None = None
) -> list[Figure]:
    """The figures of a run's page, in its order.

    Args:
        run: A run file, or its path.
        only: Names of results or traces; None for all.
        redact: Texts to replace by blocks; see `build_report`.

    Raises:
        RunFileError: The run file cannot be read.
        OptionError: `only` names what is not there.
    """
    sections = contents(opened(run, only=only, redact=redact), only)
    return [figure for section in sections for figure in section.figures]


def _distinct(sections: Iterator[Section]) -> list[Section]:
    """Sections whose ids, and those of their figures, are all different: names of results are free."""
    seen: Counter[str] = Counter()

    def own(name: str) -> str:
        seen[name] += 1
        return name if seen[name] == 1 else own(f"{name}-{seen[name]}")

    return [
        replace(
            section,
            id=own(section.id),
            figures=tuple(replace(figure, id=own(figure.id)) for figure in section.figures),
        )
        for section in sections
    ]


def _sections(run: Run, only: Sequence[str] | None) -> Iterator[Section]:
    context = Context(run, run.vocabulary if run.has_vocabulary else None, macro)
    with run.reading() as file:
        shown = [name for name in run.traces if only is None or name in only]
        yield from _traced(run, {n: subgroup(file, f"trace/{n}") for n in shown}, context)
        for name in sorted(run.results, key=_place):
            if only is None or name in only:
                yield _section(read_result(run, file, name), context)


def _traced(run: Run, groups: Mapping[str, h5py.Group], context: Context) -> list[Section]:
    """The engines beside each other, and the viewer of what they did."""

    def drawn(groups: Mapping[str, h5py.Group]) -> list[Section]:
        beside = [engines(groups)] if len(groups) > 1 else []
        return [_without_nan(s) for s in (*beside, *([traces(groups, context)] if groups else []))]

    try:
        return drawn(groups)
    except UNREADABLE:
        for name, group in groups.items():
            try:
                drawn({name: group})
            except UNREADABLE as error:
                raise DamagedRunFileError(
                    f"/trace/{name} of {run.path.name} cannot be read ({told(error)}). Decode again "
                    "with this engine, or leave it out: --only, with the names of the others."
                ) from error
        raise


def _section(stored: Stored, context: Context) -> Section:
    """A result's section; as it is stored where its kind's renderer cannot make sense of it.

    An analysis of empty or broken text gives results without rows or without a finite number. A page
    that says so is worth more than none.
    """
    remarks = [f"{stored.name}: {what}." for what in _hollow(stored)]
    try:
        with warnings.catch_warnings():  # means over nothing are NaN here, and shown as such
            warnings.simplefilter("ignore", RuntimeWarning)
            made = RENDERERS.get(stored.kind, generic)(stored, context)
    except UNREADABLE as error:
        remarks.append(
            f"{stored.name} could not be shown as a result of kind {stored.kind} ({told(error)}); "
            "it is shown as it is stored."
        )
        made = generic(stored, context)
    return replace(_without_nan(made), warnings=(*made.warnings, *remarks))


def _without_nan(section: Section) -> Section:
    """The section saying of what is not a number that it is not known."""
    return replace(
        section,
        figures=tuple(
            replace(one, reading=UNMEASURED if one.is_blank else _NAN.sub("–", one.reading))
            for one in section.figures
        ),
        tiles=tuple(replace(tile, value=_NAN.sub("–", tile.value)) for tile in section.tiles),
        verdict="" if _NAN.search(section.verdict) else section.verdict,
    )


def _hollow(stored: Stored) -> list[str]:
    """What a result lacks to be read: any row, or any finite number."""
    arrays = [value for value in stored.values.values() if isinstance(value, np.ndarray)]
    measured = [value for value in arrays if value.dtype.kind == "f" and value.size]
    if arrays and not any(value.size for value in arrays):
        return ["all of its arrays are empty"]
    if measured and not any(np.isfinite(value).any() for value in measured):
        return ["none of its measured numbers is finite"]
    return []


def _place(name: str) -> tuple[int, str]:
    known = list(RENDERERS)
    return (known.index(name) if name in known else len(known), name)
