"""The figure: a question, an answer read off the numbers, a chart, and the numbers themselves."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
from markupsafe import Markup

from ..probes.errors import OptionError
from .theme import config

Column = list[Any]


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

    def csv(self) -> str:
        """The whole table as CSV, numbers in full."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.data)
        writer.writerows(zip(*self.data.values(), strict=True))
        return out.getvalue()

    def vega_lite(self) -> dict[str, Any]:
        """The chart's specification, themed.

        Raises:
            OptionError: The figure has no chart.
        """
        if self.chart is None:
            raise OptionError(f"Figure {self.id} has no chart; its numbers are in .csv().")
        spec = self.chart.to_dict()
        return spec | {"config": config()}

    def save(self, path: str | Path) -> Path:
        """Write the figure; the ending chooses: .svg .png .pdf .json (Vega-Lite) .csv.

        Raises:
            OptionError: Another ending, or a picture of a figure without chart.
        """
        import vl_convert

        path = Path(path)
        match path.suffix:
            case ".csv":
                path.write_text(self.csv(), encoding="utf-8")
            case ".json":
                path.write_text(json.dumps(self.vega_lite(), indent=1), encoding="utf-8")
            case ".svg":
                path.write_text(vl_convert.vegalite_to_svg(_printable(self)), encoding="utf-8")
            case ".png":
                path.write_bytes(vl_convert.vegalite_to_png(_printable(self), scale=2))
            case ".pdf":
                path.write_bytes(vl_convert.vegalite_to_pdf(_printable(self)))
            case other:
                raise OptionError(
                    f"A figure is saved as svg, png, pdf, json or csv, got {other!r}."
                )
        return path

    def _repr_html_(self) -> str:
        from .notebook import figure_html

        return figure_html(self)


def cell(value: Any) -> str:
    """A number or text as a table cell: four digits, without exponents where they are not needed."""
    if isinstance(value, float):
        if value != value:
            return "–"
        return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def _printable(figure: Figure) -> dict[str, Any]:
    """The specification with the page's colour variables replaced by the light theme's colours."""
    text = json.dumps(figure.vega_lite())
    light = ("#0072b2", "#d55e00", "#007a59", "#a8407a", "#111111")
    for number, colour in enumerate(light, start=1):
        text = text.replace(f"var(--series-{number})", colour)
    return json.loads(text.replace("currentColor", "#111111"))
