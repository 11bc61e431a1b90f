"""The page: one self-contained HTML file from one run file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from ..probes.errors import OptionError
from ..probes.runfile import Run
from ..probes.runfile.atomic import replacing
from .assets import digest, has_viewer, scripts, styles
from .columns import inert
from .contents import CHAPTERS, contents, opened
from .convert import Picture, to_svg
from .figure import Figure
from .origin import provenance_rows, summary_rows
from .packed import block, take_tips, tree
from .redact import Redact
from .remarks import missing_from, warnings_of
from .section import Section
from .templating import environment
from .tokens import label
from .verdict import by_question, verdict_of

TABLE_ROWS = 50
MAX_MB = 10.0
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
    shown = opened(run, only=only, redact=redact)
    target = shown.path.with_suffix(".html") if out is None else Path(out)
    html = render(shown, only=only, refresh_s=refresh_s)
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
    templates = environment()
    sections = contents(run, only)
    pictures = to_svg([figure for section in sections for figure in section.figures])
    shown, blocks = {}, {}
    for section in sections:
        shown[section.id], blocks[section.id] = _shown_figures(section, pictures, templates)
    dress, code = styles(sections), scripts(sections)
    return templates.get_template("page.html.j2").render(
        title=label(run.path.stem),
        run=run,
        summary=summary_rows(run),
        provenance=provenance_rows(run),
        provenance_json=inert(run.provenance.as_dict()),
        chapters=[(c, [s for s in sections if s.chapter == c]) for c in CHAPTERS],
        sections=sections,
        verdict=by_question(verdict_of(run, only)),
        shown=shown,
        blocks=blocks,
        missing=missing_from(run) if only is None else [],
        warnings=[*warnings_of(run), *(w for s in sections for w in s.warnings)],
        styles=[Markup(style) for style in dress],
        scripts=[Markup(script) for script in code],
        style_hashes=[digest(style) for style in dress],
        script_hashes=[digest(script) for script in code],
        viewer=has_viewer(sections),
        later=sum(not one.body for figures in shown.values() for one in figures),
        refresh_s=refresh_s,
    )


def _shown_figures(
    section: Section, pictures: dict[str, Picture], templates: Environment
) -> tuple[list[Shown], dict[str, Markup]]:
    """A section's figures, and the compressed blocks that belong to them."""
    module: Any = templates.get_template("figure.html.j2").module
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
