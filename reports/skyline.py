"""A skyline: a table of sizes as bars in three dimensions, drawn as static SVG.

The view in which massive activations are published (token x channel x |h|, arXiv 2402.17762, Figure 1).
Three dimensions persuade, two inform: where a skyline stands, the map and the table stand beside it.
Heights are linear; bars under a share of the largest are left out, which the caption must say. There
are two fixed angles, since one may hide a bar behind another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from markupsafe import Markup

from .figure import cell
from .theme import FONT

LEAST = 0.01
"""Share of the largest size from which on a bar is drawn."""
ACROSS, DEEP, TALL = 9.0, 5.0, 170.0
"""Half a cell's width and height on the ground, and the highest bar, in pixels."""
THICK = 0.8
"""Width of a bar as a share of its cell."""
_Place = Callable[..., tuple[float, float]]


def skyline(
    sizes: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    row_title: str,
    column_title: str,
) -> Markup:
    """Two views of a table of sizes, the second turned by half a turn.

    Args:
        sizes: What bars show; none below zero.
        rows: Names along the first side.
        columns: Names along the second.
        row_title: What rows are.
        column_title: What columns are.
    """
    views = [(sizes, rows, columns), (sizes[::-1, ::-1], rows[::-1], columns[::-1])]
    drawn = [
        _view(table, first, second, row_title, column_title, turned=bool(number))
        for number, (table, first, second) in enumerate(views)
    ]
    return Markup('<div class="skyline">{}{}</div>').format(*drawn)


def n_bars(sizes: Float[np.ndarray, "rows columns"]) -> int:
    """How many bars a skyline of the table has."""
    return int((sizes > LEAST * sizes.max(initial=0.0)).sum())


def _view(
    sizes: Float[np.ndarray, "rows columns"],
    rows: Sequence[str],
    columns: Sequence[str],
    row_title: str,
    column_title: str,
    *,
    turned: bool,
) -> Markup:
    n, m = sizes.shape
    largest = max(float(sizes.max(initial=0.0)), 1e-12)
    left, top = m * ACROSS + 60, TALL + 26
    width, height = (n + m) * ACROSS + 120, (n + m) * DEEP + top + 34

    def at(x: float, y: float, up: float = 0.0) -> tuple[float, float]:
        return left + (x - y) * ACROSS, top + (x + y) * DEEP - up

    parts = [_face([at(0, 0), at(n, 0), at(n, m), at(0, m)], "currentColor", 0.06)]
    # Back to front: cells of one diagonal do not hide each other.
    for i, j in sorted(np.ndindex(n, m), key=sum):
        if sizes[i, j] > LEAST * largest:
            up = TALL * float(sizes[i, j]) / largest
            tip = f"{row_title} {rows[i]}, {column_title} {columns[j]}: {cell(float(sizes[i, j]))}"
            parts.append(_bar(i, j, up, tip, at))
    parts += [
        *(_text(*at(i + 0.5, m + 0.6), rows[i], "end") for i in range(0, n, max(n // 6, 1))),
        *(_text(*at(n + 0.6, j + 0.5), columns[j], "start") for j in range(0, m, max(m // 6, 1))),
        _text(*at(n * 0.6, m + 5), row_title, "end"),
        _text(*at(n + 5, m * 0.6), column_title, "start"),
    ]
    view = "from the other side" if turned else "from the front"
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="skyline {}: {} by {}, highest {}">{}</svg>'
    ).format(
        round(width), round(height), view, row_title, column_title, cell(largest),
        Markup("").join(parts),
    )  # fmt: skip


def _bar(i: int, j: int, up: float, tip: str, at: _Place) -> Markup:
    """Two sides and a roof; sides are darkened, so that edges are seen in any colour."""
    low, high = (1 - THICK) / 2, (1 + THICK) / 2
    corners = [(i + high, j + low), (i + high, j + high), (i + low, j + high), (i + low, j + low)]
    ground = [at(x, y) for x, y in corners]
    roof = [at(x, y, up) for x, y in corners]
    colour = "var(--series-1)"
    sides = [
        [ground[0], ground[1], roof[1], roof[0]],
        [ground[1], ground[2], roof[2], roof[1]],
    ]
    faces = [_face(side, colour, 1.0) for side in sides]
    shades = [_face(side, "#000", dark) for side, dark in zip(sides, (0.25, 0.45), strict=True)]
    return Markup('<g data-tip="{}">{}{}</g>').format(
        tip, Markup("").join([*faces, *shades]), _face(roof, colour, 1.0)
    )


def _face(corners: Sequence[tuple[float, float]], colour: str, opacity: float) -> Markup:
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in corners) + "Z"
    return Markup('<path d="{}" fill="{}" fill-opacity="{}"/>').format(path, colour, f"{opacity:g}")


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup(
        '<text x="{}" y="{}" font-size="11" font-family="{}" fill="currentColor" '
        'text-anchor="{}">{}</text>'
    ).format(f"{x:.1f}", f"{y:.1f}", FONT, anchor, text)
