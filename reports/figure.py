"""The figure: a question, an answer read off the numbers, a chart, and the numbers themselves."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from ..probes.errors import OptionError
from ..probes.runfile.atomic import replacing
from .convert import Kind, draw
from .spreadsheets import write_csv
from .theme import LIGHT, config
from .tokens import printable

Column = list[Any]
FORMATS = ("svg", "pdf", "png", "csv", "vega-lite")
"""What a figure can be written as."""
BLANK = "none of the measured numbers is finite, so there is nothing to draw"
ENDINGS = {"vega-lite": "vl.json"}
"""Endings of files that are not the name of their format."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One answer. All renderers return these; nothing else touches the chart library."""

    id: str
    """Stable id, from the run-file path."""
    question: str
    """What the figure answers; its heading."""
    reading: str
    """One sentence, computed from the numbers."""
    data: dict[str, Column]
    """The numbers, by column title (with unit)."""
    chart: alt.TopLevelMixin | None = None
    """The chart, if there is one."""
    html: Markup | None = None
    """What is shown instead of a chart: a token grid, say."""
    n: str = ""
    """How much was measured, in words."""
    interval: str = "no interval"
    """What intervals mean, or that there are none."""
    alt: str = ""
    """Text in place of the picture."""
    source: str = ""
    """Where in the run file the numbers are."""
    wide: bool = False
    """Whether it takes the page's whole width."""
    notes: tuple[str, ...] = field(default=())
    """Anything sampled, cut or approximated."""

    @property
    def n_rows(self) -> int:
        """Rows of the table."""
        return len(next(iter(self.data.values()), []))

    def rows(self, limit: int | None = None) -> list[tuple[str, ...]]:
        """The table's rows as text."""
        columns = [column[:limit] for column in self.data.values()]
        return [tuple(cell(value) for value in row) for row in zip(*columns, strict=True)]

    def numeric(self) -> list[bool]:
        """Whether each column holds numbers, which stand to the right."""
        return [
            all(isinstance(value, int | float) for value in column) for column in self.data.values()
        ]

    @cached_property
    def caveats(self) -> tuple[str, ...]:
        """What stands in the caption: the notes, what the picture leaves out, that nothing is there."""
        meta = {} if self.chart is None else self._specification.get("usermeta", {})
        blank = (BLANK,) if self.is_blank else ()
        return (*self.notes, *meta.get("drawn", ()), *blank)

    @property
    def is_blank(self) -> bool:
        """Whether there are measured numbers and none of them is finite."""
        held = [value for column in self.data.values() for value in column]
        measured = [value for value in held if isinstance(value, float)]
        return bool(measured) and not any(math.isfinite(value) for value in measured)

    def csv(self) -> str:
        """The whole table as CSV, numbers in full; no cell of it is a formula to a spreadsheet."""
        out = io.StringIO()
        write_csv(out, self.data, zip(*self.data.values(), strict=True))
        return out.getvalue().encode(errors="backslashreplace").decode()

    @cached_property
    def _specification(self) -> dict[str, Any]:
        if self.chart is None:
            raise OptionError(f"Figure {self.id} has no chart; its numbers are in .csv().")
        return _drawable(self.chart.to_dict(validate=False)) | {"config": config()}

    def vega_lite(self) -> dict[str, Any]:
        """The chart's specification, themed; its texts without characters that cannot be drawn.

        Raises:
            OptionError: The figure has no chart.
        """
        return dict(self._specification)

    def save(self, path: str | Path) -> Path:
        """Write the figure; the ending chooses: .svg .png .pdf .json (Vega-Lite) .csv.

        The file appears whole or not at all. Pictures are drawn in the light palette.

        Raises:
            OptionError: Another ending, or a picture of a figure without chart.
            ChartError: The converter failed.
        """
        path = Path(path)
        match path.suffix:
            case ".csv":
                data = self.csv().encode()
            case ".json":
                data = json.dumps(self.vega_lite(), indent=1).encode()
            case ".svg" | ".png" | ".pdf" as ending:
                kind: Kind = "svg" if ending == ".svg" else "png" if ending == ".png" else "pdf"
                data = draw([(self, self.on_paper(white=kind == "png"))], kind)[0]
            case other:
                raise OptionError(
                    f"A figure is saved as svg, png, pdf, json or csv, got {other!r}."
                )
        with replacing(path) as partial:
            partial.write_bytes(data)
        return path

    def on_paper(self, *, white: bool = False) -> dict[str, Any]:
        """The specification with the light theme's colours in place of the page's variables.

        Args:
            white: Whether the ground is painted; it is left out otherwise.

        Raises:
            OptionError: The figure has no chart.
        """
        text = json.dumps(self.vega_lite())
        for number, colour in enumerate(LIGHT, start=1):
            text = text.replace(f"var(--series-{number})", colour)
        spec = json.loads(text.replace("currentColor", LIGHT[-1]))
        return spec | {"background": "white"} if white else spec

    def _repr_html_(self) -> str:
        from .notebook import figure_html

        return figure_html(self)


def cell(value: Any) -> str:
    """A number or text as a table cell: four digits, without exponents where they are not needed."""
    if isinstance(value, float):
        if not math.isfinite(value):
            return "–" if value != value else f"{value:+}".replace("inf", "∞")
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _drawable(value: Any) -> Any:
    """A specification whose texts hold no character that aborts the converter or mirrors a label."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(str(key)): _drawable(held) for key, held in value.items()}
    return [_drawable(held) for held in value] if isinstance(value, list | tuple) else value
