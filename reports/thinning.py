"""Rows for a chart: what can be drawn, and no more marks than a page bears; what is left out is told.

Above about 2,000 marks a picture is slow and its marks lie on one another. Long lines keep the lowest
and the highest row of each stretch (a stride would lose spikes), clouds of points keep their outliers,
maps and bars the largest value of each block. The table and the CSV hold every row.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

Rows = list[dict[str, Any]]
MAX_MARKS = 2000
"""Marks of a picture; above, half a megabyte and 80 ms each (measured in headless Chromium)."""
MAX_BARS, MAX_NAMED = 400, 60
"""Bars in a plot; named rows under one another."""
N_OUTLIERS = 500


def drawable(rows: Rows, fields: Iterable[str], *, positive: str = "") -> tuple[Rows, list[str]]:
    """Rows that have a place in the picture, and what is said of the others.

    Args:
        rows: The data.
        fields: Columns that must hold something; NaN and infinities are None already.
        positive: Column on a logarithmic scale, where only numbers above zero have a place.
    """
    names = list(fields)
    whole = [row for row in rows if all(row.get(name) is not None for name in names)]
    kept = [row for row in whole if not positive or row[positive] > 0]
    hidden = len(whole) - len(kept)
    told = [
        f"{hidden:,} of {len(whole):,} values are zero or less and have no place on a log scale"
    ]
    return kept, told if hidden else []


def thin_lines(rows: Rows, x: str, y: str, series: str | None) -> tuple[Rows, list[str]]:
    """The lowest and the highest row of each stretch along x, per series."""
    lines = _grouped(rows, lambda row: row[series] if series else None)
    kept: Rows = []
    for line in lines:
        held = sorted(line, key=lambda row: row[x])
        size = math.ceil(2 * len(held) * len(lines) / MAX_MARKS)
        for start in range(0, len(held), size):
            stretch = held[start : start + size]
            ends = {id(pick(stretch, key=lambda row: row[y])) for pick in (min, max)}
            kept += [row for row in stretch if id(row) in ends]
    told = (
        f"{len(kept):,} of {len(rows):,} points are drawn, the lowest and highest of each stretch"
    )
    return kept, [f"{told}; the CSV has all"]


def thin_points(rows: Rows, x: str, y: str) -> tuple[Rows, list[str]]:
    """The points farthest out, and a uniform sample of the others."""
    if len(rows) <= MAX_MARKS:
        return rows, []
    spans = [(name, _span([row[name] for row in rows])) for name in (x, y)]

    def far(row: dict[str, Any]) -> float:
        return max(abs(row[name] - middle) / width for name, (middle, width) in spans)

    by_distance = sorted(range(len(rows)), key=lambda at: -far(rows[at]))
    others = random.Random(0).sample(by_distance[N_OUTLIERS:], MAX_MARKS - N_OUTLIERS)
    kept = sorted([*by_distance[:N_OUTLIERS], *others])
    told = f"{MAX_MARKS:,} of {len(rows):,} points are drawn, the {N_OUTLIERS} farthest out"
    return [rows[at] for at in kept], [f"{told} and a uniform sample (seed 0); the CSV has all"]


def thin_bars(rows: Rows, y: str) -> tuple[Rows, list[str]]:
    """The largest bar of each block of neighbours."""
    if len(rows) <= MAX_BARS:
        return rows, []
    size = math.ceil(len(rows) / MAX_BARS)
    kept = [
        max(rows[start : start + size], key=lambda row: row[y])
        for start in range(0, len(rows), size)
    ]
    return kept, [f"each bar is the largest of {size} neighbours; the CSV has all"]


def thin_cells(rows: Rows, x: str, y: str, value: str) -> tuple[Rows, list[str]]:
    """The largest cell of each block of a map."""
    columns, lines = (list(dict.fromkeys(row[name] for row in rows)) for name in (x, y))
    if len(columns) * len(lines) <= MAX_MARKS:
        return rows, []
    wide, high = _blocks(len(columns), len(lines))
    block_x = {name: columns[at - at % wide] for at, name in enumerate(columns)}
    block_y = {name: lines[at - at % high] for at, name in enumerate(lines)}
    blocks = _grouped(rows, lambda row: (block_x[row[x]], block_y[row[y]]))
    kept = [
        max(block, key=lambda row: row[value]) | {x: block_x[block[0][x]], y: block_y[block[0][y]]}
        for block in blocks
    ]
    told = f"each cell is the largest of a block of {wide} x {high}, named after its first"
    return kept, [f"{told}; the CSV has all"]


def _blocks(n_columns: int, n_lines: int) -> tuple[int, int]:
    """Size of a block, as square as the map allows."""
    wide = high = 1
    while math.ceil(n_columns / wide) * math.ceil(n_lines / high) > MAX_MARKS:
        if n_columns / wide > n_lines / high:
            wide += 1
        else:
            high += 1
    return wide, high


def _grouped(rows: Rows, key: Callable[[dict[str, Any]], Any]) -> list[Rows]:
    groups: dict[Any, Rows] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _span(values: list[float]) -> tuple[float, float]:
    """Median and a width around it."""
    held = sorted(values)
    middle = held[len(held) // 2]
    return middle, (held[len(held) * 3 // 4] - held[len(held) // 4]) or 1.0
