"""Kinds of chart, as functions from rows to an Altair chart; None where there is nothing to draw.

What is left out of a picture (`thinning.py`) is noted in the chart's `usermeta` and stands in the
figure's caption.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import altair as alt

from .theme import HEAT, HEIGHT, SERIES, WIDTH
from .thinning import (
    MAX_MARKS,
    MAX_NAMED,
    Rows,
    drawable,
    thin_bars,
    thin_cells,
    thin_lines,
    thin_points,
)

Chart = alt.TopLevelMixin | None


def lines(
    rows: Rows,
    *,
    x: str,
    y: str,
    series: str | None = None,
    band: tuple[str, str] | None = None,
    log: bool = False,
    width: int = WIDTH,
) -> Chart:
    """Lines with points (points carry labels and focus) and, where given, a band.

    Args:
        rows: The data.
        x: Column on the x axis.
        y: Column on the y axis.
        series: Column that tells lines apart, by colour, dash and point shape.
        band: Columns of the lower and upper bound.
        log: Whether y is logarithmic.
        width: Width in pixels.
    """
    kept, told = drawable(rows, [x, y], positive=y if log else "")
    if not kept:
        return None
    if len(kept) > MAX_MARKS:
        rows, thinned = thin_lines(kept, x, y, series)
        told += thinned
    else:  # a row without a value is a gap in its line
        placed = {id(row) for row in kept}
        rows = [row if id(row) in placed else row | {y: None} for row in rows]
    base = alt.Chart(alt.Data(values=rows), width=width, height=HEIGHT)
    scale = alt.Scale(type="log") if log else alt.Scale(zero=False)
    axis = alt.Axis(tickCount=5) if log else alt.Axis()
    where = [
        alt.X(
            field=_field(x), type="quantitative", title=x, scale=alt.Scale(nice=False, zero=False)
        ),
        alt.Y(field=_field(y), type="quantitative", title=y, scale=scale, axis=axis),
    ]
    told_apart = [] if series is None else _by_series(rows, series)
    line = base.mark_line(strokeWidth=1.8, color=SERIES[0]).encode(*where, *told_apart[:2])
    points = base.mark_point(filled=True, size=22, opacity=1, color=SERIES[0])
    layers = [line, points.encode(*where, *told_apart[::2])]
    # Dashes stay out of the legend: a dashed outline round a small mark is a blot.
    if band is not None:
        low = alt.Y(field=_field(band[0]), type="quantitative", title=y, scale=scale, axis=axis)
        area = base.mark_area(opacity=0.18, color=SERIES[0])
        layers.insert(0, area.encode(where[0], low, alt.Y2(field=_field(band[1])), *told_apart[:1]))
    return _noted(alt.layer(*layers).resolve_legend(strokeDash="independent"), told)


def _by_series(rows: Rows, series: str) -> list[Any]:
    """Colour, dash and shape by series, all with the names in order of appearance."""
    names = list(dict.fromkeys(row[series] for row in rows))
    colours = alt.Scale(domain=names, range=list(SERIES[: len(names)]))
    held, untitled = _field(series), alt.Legend(title=None)
    return [
        alt.Color(field=held, type="nominal", title=series, scale=colours, legend=untitled),
        alt.StrokeDash(
            field=held, type="nominal", title=series, scale=alt.Scale(domain=names), legend=None
        ),
        alt.Shape(
            field=held,
            type="nominal",
            title=series,
            scale=alt.Scale(domain=names),
            legend=untitled,
        ),
    ]


def points(rows: Rows, *, x: str, y: str, series: str | None = None, width: int = WIDTH) -> Chart:
    """Points without lines, told apart by colour and shape."""
    rows, _ = drawable(rows, [x, y])
    rows, told = thin_points(rows, x, y)
    if not rows:
        return None
    base = alt.Chart(alt.Data(values=rows), width=width, height=HEIGHT)
    told_apart = [] if series is None else _by_series(rows, series)[::2]
    chart = base.mark_point(filled=True, size=22, opacity=0.8, color=SERIES[0]).encode(
        alt.X(field=_field(x), type="quantitative", title=x, scale=alt.Scale(zero=False)),
        alt.Y(field=_field(y), type="quantitative", title=y, scale=alt.Scale(zero=False)),
        *told_apart,
    )
    return _noted(chart, told)


def bars(rows: Rows, *, x: str, y: str, width: int = WIDTH) -> Chart:
    """Bars over named or numbered things, in the order of the rows."""
    rows, _ = drawable(rows, [x, y])
    rows, told = thin_bars(rows, y)
    if not rows:
        return None
    kind = "ordinal" if isinstance(rows[0][x], int | float) else "nominal"
    axis = _thinned([row[x] for row in rows])
    chart = (
        alt
        .Chart(alt.Data(values=rows), width=width, height=HEIGHT)
        .mark_bar(color=SERIES[0])
        .encode(
            alt.X(field=_field(x), type=kind, title=x, sort=None, axis=axis),
            alt.Y(field=_field(y), type="quantitative", title=y),
        )
    )
    return _noted(chart, told)


def dots(rows: Rows, *, y: str, x: str, low: str, high: str, width: int = WIDTH) -> Chart:
    """Dots with intervals, one line per named thing; without an interval a dot alone."""
    rows, _ = drawable(rows, [x])
    n_all, rows = len(rows), rows[:MAX_NAMED]
    told = [f"the first {MAX_NAMED} of {n_all:,} are drawn; the CSV has all"] * (n_all > MAX_NAMED)
    if not rows:
        return None
    extent = _name_extent([row[y] for row in rows])
    plot = max(width - extent, width // 2)  # names and plot together are about one width
    base = alt.Chart(alt.Data(values=rows), width=plot, height=max(40 * len(rows), 90))
    named = alt.Axis(labelLimit=MOST_NAME, minExtent=extent)
    vertical = alt.Y(field=_field(y), type="nominal", title=None, sort=None, axis=named)
    scale = alt.Scale(zero=False)
    rule = base.mark_rule(color=SERIES[0], strokeWidth=1.5).encode(
        vertical,
        alt.X(
            field=_field(low), type="quantitative", title=x, scale=scale, axis=alt.Axis(tickCount=6)
        ),
        alt.X2(field=_field(high)),
    )
    dot = base.mark_point(filled=True, size=70, color=SERIES[0], opacity=1).encode(
        vertical,
        alt.X(
            field=_field(x), type="quantitative", title=x, scale=scale, axis=alt.Axis(tickCount=6)
        ),
    )
    return _noted(alt.layer(rule, dot), told)


def heat(
    rows: Rows,
    *,
    x: str,
    y: str,
    value: str,
    log: bool = False,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> Chart:
    """A heat map; above 2,000 cells the largest of each block is drawn."""
    rows, told = drawable(rows, [x, y, value], positive=value if log else "")
    rows, thinned = thin_cells(rows, x, y, value)
    if not rows:
        return None
    scale = alt.Scale(scheme=HEAT, type="log" if log else "linear")
    chart = (
        alt
        .Chart(alt.Data(values=rows), width=width, height=height)
        .mark_rect()
        .encode(
            alt.X(
                field=_field(x),
                type="ordinal",
                title=x,
                axis=_thinned([row[x] for row in rows]),
                sort=None,
            ),
            alt.Y(
                field=_field(y),
                type="ordinal",
                title=y,
                axis=_thinned(sorted({row[y] for row in rows}), most=24),
            ),
            alt.Color(
                field=_field(value),
                type="quantitative",
                scale=scale,
                legend=alt.Legend(title=value, gradientLength=160),
            ),
        )
    )
    return _noted(chart, told + thinned)


MAX_LABELS = 12
"""Labels on a discrete axis; browsers' letters are wider than those the converter measures with."""
LETTER = 7.2
"""Width a letter of an axis label may need, in pixels."""
MOST_NAME = 260
"""Most pixels a name may take."""


def _noted(chart: Any, told: Sequence[str]) -> alt.TopLevelMixin:
    """The chart with a note of what it leaves out."""
    return chart.properties(usermeta={"drawn": list(told)}) if told else chart


def _field(name: str) -> str:
    """A column's name as a field: dots and brackets in it are no path into the row."""
    return re.sub(r"([.\[\]\\'\"])", r"\\\1", name)


def _thinned(values: Iterable[Any], *, most: int = MAX_LABELS) -> alt.Axis:
    """An axis over discrete values, in their order, that labels at most `most` of them, evenly."""
    names = list(dict.fromkeys(values))
    step = max(-(-len(names) // most), 1)
    return alt.Axis(labelAngle=0, labelOverlap=False, values=names[::step])


def _name_extent(names: Iterable[Any]) -> int:
    """Pixels beside an axis over names that hold the longest of them in any font."""
    longest = max((len(str(name)) for name in names), default=0)
    return min(round(longest * LETTER), MOST_NAME)


def as_rows(**columns: Iterable[Any]) -> Rows:
    """Columns to rows, numbers as plain Python ones; NaN and infinities become null."""
    names = list(columns)
    lists = [[_plain(value) for value in column] for column in columns.values()]
    return [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value
