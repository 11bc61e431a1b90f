"""Figures of a run as files: pictures for papers and slides, numbers for other tools."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import cast

from ..probes.errors import OptionError
from ..probes.runfile.atomic import replacing
from .convert import Kind, draw
from .figure import ENDINGS, FORMATS, Figure

LONGEST_NAME = 120


def save_figures(
    figures: Sequence[Figure], folder: str | Path, *, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write figures to a folder, one file per figure and format.

    Everything is drawn before the first file is written. A figure without a chart (a table, a grid of
    tokens) is written as CSV only.

    Args:
        figures: As `figures_of` gives them.
        folder: Made if it is not there; files of the same names are replaced.
        formats: Some of svg, pdf, png, csv, vega-lite.

    Returns:
        The files, figure by figure.

    Raises:
        OptionError: A format that is not known.
        ChartError: A chart could not be drawn; the message names it.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise OptionError(f"Figures are written as {', '.join(FORMATS)}; got {', '.join(unknown)}.")
    charts = [figure for figure in figures if figure.chart is not None]
    contents: dict[tuple[str, str], bytes] = {}
    for kind in formats:
        if kind == "csv":
            made = {figure.id: figure.csv().encode() for figure in figures if figure.n_rows}
        elif kind == "vega-lite":
            made = {f.id: json.dumps(f.vega_lite(), indent=1).encode() for f in charts}
        else:
            specs = [(figure, figure.on_paper(white=kind == "png")) for figure in charts]
            drawn = draw(specs, cast("Kind", kind))
            made = {figure.id: data for figure, data in zip(charts, drawn, strict=True)}
        contents |= {(name, kind): data for name, data in made.items()}
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for figure, name in zip(figures, file_names(figures), strict=True):
        for kind in formats:
            if (figure.id, kind) in contents:
                path = target / f"{name}.{ENDINGS.get(kind, kind)}"
                with replacing(path) as partial:
                    partial.write_bytes(contents[figure.id, kind])
                written.append(path)
    return written


def choose(figures: Sequence[Figure], patterns: Sequence[str]) -> list[Figure]:
    """The figures whose id matches one of the patterns; all of them without patterns.

    Args:
        figures: As `figures_of` gives them.
        patterns: Globs over figure ids, such as "attention_sinks-*".

    Raises:
        OptionError: A pattern fits no figure.
    """
    for pattern in patterns:
        if not any(fnmatchcase(figure.id, pattern) for figure in figures):
            raise OptionError(
                f"No figure fits {pattern!r}. The run has {len(figures)} figures, such as "
                f"{', '.join(figure.id for figure in figures[:3]) or 'none'}; without a pattern "
                "they are listed."
            )
    return [f for f in figures if not patterns or any(fnmatchcase(f.id, p) for p in patterns)]


def file_names(figures: Sequence[Figure]) -> list[str]:
    """A name per figure that every file system takes, all different, also where case is ignored."""
    seen: Counter[str] = Counter()
    names = []
    for figure in figures:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", figure.id).strip(".")[:LONGEST_NAME] or "figure"
        while seen[name.lower()]:
            seen[name.lower()] += 1
            name = f"{name}-{seen[name.lower()]}"
        seen[name.lower()] += 1
        names.append(name)
    return names
