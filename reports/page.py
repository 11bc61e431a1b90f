"""The page: one self-contained HTML file from one run file."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..probes.errors import DamagedRunFileError, OptionError
from ..probes.runfile import Run, open_run
from ..probes.runfile.atomic import replacing
from ..probes.runfile.h5 import members, subgroup
from ..probes.runfile.invocations import invocations
from .columns import inert
from .convert import Picture, to_svg
from .figure import Figure
from .packed import block, take_tips, tree
from .redact import Redact, RedactedRun
from .section import Context, Section, Stored, read_stored
from .sections import ADDED_BY, RENDERERS
from .sections.engines import engines
from .sections.generic import generic
from .sections.trace import ID as TRACE
from .sections.trace import traces
from .tokens import label, printable
from .verdict import Statement, by_question, verdict_of

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

TABLE_ROWS = 50
MAX_MB = 10.0
UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What a renderer raises on a result without rows or numbers it counted on."""
UNMEASURED = "None of the measured numbers is finite."
_NAN = re.compile(r"\bnan\b")
STANDING = 64
"""Figures of a section that stand in the page (a dictionary's index and 21 cards); the script makes
the others when a reader comes near."""


def build_report(
    run: str | Path | Run,
    out: str | Path | None = None,
    *,
    only: Sequence[str] | None = None,
    max_mb: float = MAX_MB,
    redact: Redact | None = None,
    refresh_s: float | None = None,
) -> Path:
    """Draw a run file as one HTML page that works offline; no model is needed.

    The same run file gives the same bytes.

    Args:
        run: A run file, or its path.
        out: Where to write; None for the run file's name with .html.
        only: Names of results or traces to show; None shows all.
        max_mb: Refuse to write a page larger than this.
        redact: Replace texts by blocks of their length while numbers stay: "prompts", or "text" for
            all of them; see `redact.py`.
        refresh_s: The page reads itself again after so many seconds, for a run that is still being
            written; see `following.py`.

    Raises:
        RunFileError: The run file cannot be read.
        OptionError: `only` names what is not there, or the page is larger than `max_mb`.
        ChartError: A chart could not be drawn; the message names it.
    """
    opened = run if isinstance(run, Run) else open_run(run)
    target = opened.path.with_suffix(".html") if out is None else Path(out)
    _require_known(opened, only)
    if redact is not None:
        opened = RedactedRun(opened, redact)
    html = render(opened, only=only, refresh_s=refresh_s)
    size = len(html.encode()) / 1e6
    if size > max_mb:
        raise OptionError(
            f"The page would have {size:.1f} MB, more than max_mb={max_mb:g}. Show less with only=..., "
            "or raise max_mb."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as partial:
        partial.write_text(html, encoding="utf-8")
    return target


@dataclass(frozen=True)
class Shown:
    """A figure as it stands in the page."""

    figure: Figure
    layout: str
    body: Markup
    """Picture, caption and table; empty where the script makes them later."""


def render(run: Run, *, only: Sequence[str] | None = None, refresh_s: float | None = None) -> str:
    """The page's HTML.

    Args:
        run: The run, redacted or not.
        only: Names of results or traces to show; None shows all.
        refresh_s: The page reads itself again after so many seconds; None: it never does.
    """
    environment = _environment()
    sections = _distinct(_sections(run, environment, only))
    sections.sort(key=lambda section: CHAPTERS.index(section.chapter))
    pictures = to_svg([figure for section in sections for figure in section.figures])
    shown, blocks = {}, {}
    for section in sections:
        shown[section.id], blocks[section.id] = _shown_figures(section, pictures, environment)
    verdict, unsaid = _verdict(run, only)
    viewer = any(section.id == TRACE for section in sections)
    styles = [_static(name) for name in ("report.css", *(("trace.css",) if viewer else ()))]
    scripts = [
        _static(name)
        for name in ("report.js", *(("trace.js",) if viewer else ()), *_sorting(sections))
    ]
    return environment.get_template("page.html.j2").render(
        title=label(run.path.stem),
        run=run,
        summary=_summary(run),
        provenance=_provenance(run),
        provenance_json=inert(run.provenance.as_dict()),
        chapters=[(c, [s for s in sections if s.chapter == c]) for c in CHAPTERS],
        sections=sections,
        verdict=by_question(verdict),
        shown=shown,
        blocks=blocks,
        missing=_missing(run) if only is None else [],
        warnings=[*_warnings(run), *unsaid, *(w for s in sections for w in s.warnings)],
        styles=[Markup(style) for style in styles],
        scripts=[Markup(script) for script in scripts],
        style_hashes=[_hash(style) for style in styles],
        script_hashes=[_hash(script) for script in scripts],
        viewer=viewer,
        later=sum(not one.body for figures in shown.values() for one in figures),
        refresh_s=refresh_s,
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
    opened = run if isinstance(run, Run) else open_run(run)
    _require_known(opened, only)
    if redact is not None:
        opened = RedactedRun(opened, redact)
    sections = _distinct(_sections(opened, _environment(), only))
    sections.sort(key=lambda section: CHAPTERS.index(section.chapter))
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


def _shown_figures(
    section: Section, pictures: dict[str, Picture], environment: Environment
) -> tuple[list[Shown], dict[str, Markup]]:
    """A section's figures, and the compressed blocks that belong to them."""
    module: Any = environment.get_template("figure.html.j2").module
    shown = []
    spoken: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    later: dict[str, Any] = {}
    for at, (figure, css) in enumerate(zip(section.figures, layout(section.figures), strict=True)):
        fragment, tips = (None, None) if figure.html is None else take_tips(figure.html)
        picture = pictures.get(figure.id)
        body = module.body(
            figure=figure,
            picture=picture and picture.svg,
            fragment=fragment,
            right=figure.numeric(),
            rows=figure.rows(TABLE_ROWS),
            table_rows=TABLE_ROWS,
        )
        spoken[figure.id] = {
            "labels": picture.labels if picture else [],
            "names": tips.names if tips else [],
            "rows": tips.rows if tips else [],
        }
        kept[figure.id] = {
            "csv": figure.csv(),
            "spec": None if figure.chart is None else figure.vega_lite(),
        }
        if at >= STANDING:
            later[figure.id] = tree(body)
        shown.append(Shown(figure, css, Markup("") if at >= STANDING else body))
    parts = {"spoken": spoken, "kept": kept, "later": later}
    return shown, {kind: block(value) for kind, value in parts.items() if value}


def _sorting(sections: Sequence[Section]) -> tuple[str, ...]:
    """The script that sorts and filters, where there is a table to sort."""
    tables = (figure.html for section in sections for figure in section.figures)
    return ("sorting.js",) if any('class="sortable"' in (html or "") for html in tables) else ()


def _sections(run: Run, environment: Environment, only: Sequence[str] | None) -> Iterator[Section]:
    def macro(template: str, name: str, arguments: dict[str, Any]) -> Markup:
        module = environment.get_template(template).module
        return getattr(module, name)(**arguments)

    context = Context(run, run.vocabulary if run.has_vocabulary else None, macro)
    with run.reading() as file:
        shown = [name for name in run.traces if only is None or name in only]
        if len(shown) > 1:
            yield engines({name: subgroup(file, f"trace/{name}") for name in shown})
        if shown:
            yield traces({name: subgroup(file, f"trace/{name}") for name in shown}, context)
        for name in sorted(run.results, key=_place):
            if only is None or name in only:
                yield _section(_read(run, file, name), context)


def _read(run: Run, file: h5py.File, name: str) -> Stored:
    try:
        return read_stored(name, subgroup(file, f"results/{name}"))
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DamagedRunFileError(
            f"/results/{name} of {run.path.name} cannot be read ({error}). Run its analysis again, or "
            f"leave it out: --only, with the names of the others."
        ) from error


def _section(stored: Stored, context: Context) -> Section:
    """A result's section; as it is stored where its kind's renderer cannot make sense of it.

    An analysis of empty or broken text gives results without rows or without a finite number. A page
    that says so is worth more than none.
    """
    told = [f"{stored.name}: {what}." for what in _hollow(stored)]
    try:
        with warnings.catch_warnings():  # means over nothing are NaN here, and shown as such
            warnings.simplefilter("ignore", RuntimeWarning)
            made = RENDERERS.get(stored.kind, generic)(stored, context)
    except UNREADABLE as error:
        reason = label(f"{type(error).__name__}: {error}", longest=200)
        told.append(
            f"{stored.name} could not be shown as a result of kind {stored.kind} ({reason}); it is "
            "shown as it is stored."
        )
        made = generic(stored, context)
    return replace(
        made,
        figures=tuple(
            replace(one, reading=UNMEASURED if one.is_blank else _NAN.sub("–", one.reading))
            for one in made.figures
        ),
        tiles=tuple(replace(tile, value=_NAN.sub("–", tile.value)) for tile in made.tiles),
        verdict="" if _NAN.search(made.verdict) else made.verdict,
        warnings=(*made.warnings, *told),
    )


def _verdict(run: Run, only: Sequence[str] | None) -> tuple[tuple[Statement, ...], list[str]]:
    """What the run comes to, and a warning where its results are too broken to say."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return verdict_of(run, only), []
    except UNREADABLE as error:
        reason = label(f"{type(error).__name__}: {error}", longest=200)
        return (), [f"What the results come to could not be said ({reason})."]


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


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("fluoroscope.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def _printable(value: Any) -> Any:
    """What a template writes: strings without control and bidirectional characters."""
    return printable(value) if type(value) is str else value


def _static(name: str) -> str:
    return (resources.files("fluoroscope.reports") / "static" / name).read_text("utf-8")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return label(str(value), longest=200)


def layout(figures: Sequence[Figure]) -> list[str]:
    """CSS class per figure: "wide", "" for half of a row, or "alone" where its row has no other."""
    found: list[str] = []
    open_row = False
    for figure in figures:
        if figure.wide or (not figure.chart and not figure.html):
            found, open_row = [*_closed(found, open_row=open_row), "wide"], False
        else:
            found, open_row = [*found, ""], not open_row
    return _closed(found, open_row=open_row)


def _closed(classes: list[str], *, open_row: bool) -> list[str]:
    return [*classes[:-1], "alone"] if open_row else classes


def _provenance(run: Run) -> list[tuple[str, str]]:
    """The provenance table: flat, without the model's whole configuration."""
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


def _summary(run: Run) -> dict[str, str]:
    """The run's own summary, sites by kind rather than one by one."""
    found = {key: _shown(value) for key, value in run.summary().items()}
    kinds: dict[str, int] = {}
    for site in run.sites:
        kind = re.sub(r"\.\d+\.", ".*.", site)
        kinds[kind] = kinds.get(kind, 0) + 1
    found["sites"] = ", ".join(f"{_shown(k)} ({n})" for k, n in kinds.items()) or "none"
    return found


def _missing(run: Run) -> list[tuple[str, str]]:
    with run.reading() as file:
        names = members(file, "results")
        held = {str(subgroup(file, f"results/{name}").attrs.get("kind")) for name in names}
    absent = [
        (kind.replace("_", " "), command) for kind, command in ADDED_BY.items() if kind not in held
    ]
    if not run.traces:
        absent.append(("decode trace", "fluoroscope decode --prompt TEXT -o RUN"))
    return [(kind, command.replace("RUN", run.path.name)) for kind, command in absent]


def _warnings(run: Run) -> list[str]:
    found = []
    if isinstance(run, RedactedRun):
        hidden = "Prompts are" if run.what == "prompts" else "All texts are"
        found.append(f"{hidden} replaced by blocks of their length; numbers are as measured.")
    if not run.complete:
        found.append("The run is incomplete: capture was interrupted or is still under way.")
    rows = sum(entry["n_rows"] for entry in run.shards)
    if 0 < rows < 1000:
        found.append(f"Only {rows} tokens were captured; intervals are wide.")
    if run.provenance.settings.get("bos") not in (None, "auto"):
        found.append(f"Beginning-of-sequence policy: {run.provenance.settings['bos']}.")
    return found


def _require_known(run: Run, only: Sequence[str] | None) -> None:
    unknown = sorted(set(only or ()) - set(run.results) - set(run.traces))
    if unknown:
        held = ", ".join([*run.results, *run.traces]) or "nothing"
        raise OptionError(f"{run.path.name} holds no {', '.join(unknown)}; it holds {held}.")
