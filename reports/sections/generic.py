"""Any result no renderer knows, shown as it is stored: a new analysis appears before it has a page."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from ..charts import as_rows, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

MAX_ROWS, MAX_COLUMNS, MAX_CELLS, MAX_SIDE = 500, 16, 2000, 40


PATHS = re.compile(r"[.\[\]\\]")
"""What a chart would take for a path into its data."""


def generic(stored: Stored, context: Context) -> Section:
    """Section of an unknown result kind: a table of scalars and a figure per array."""
    scalars = {k: v for k, v in stored.values.items() if not isinstance(v, np.ndarray)}
    arrays = {k: v for k, v in stored.values.items() if isinstance(v, np.ndarray)}
    empty = [label(name, longest=60) for name, array in arrays.items() if not array.size]
    figures = [_array(stored, name, array) for name, array in arrays.items() if array.size]
    if scalars:
        figures.insert(0, _scalars(stored, scalars))
    left_out = f" Empty: {', '.join(empty)}." if empty else ""
    kind = label(stored.kind, longest=60) or "unknown"
    return Section(
        id=stored.name,
        title=label(stored.name, longest=60),
        chapter="Other results",
        intro=f"A result of kind {kind}, shown as it is stored.{left_out}",
        figures=tuple(figures),
    )


def _scalars(stored: Stored, scalars: dict[str, Any]) -> Figure:
    first, value = next(iter(scalars.items()))
    n = "1 value" if len(scalars) == 1 else f"{len(scalars)} values"
    return Figure(
        id=f"{stored.name}-values",
        question="Which single values are stored?",
        reading=f"{n}; {label(first, longest=60)} is {label(str(value), longest=80)}.",
        data={
            "name": [label(name, longest=60) for name in scalars],
            "value": [label(str(value), longest=80) for value in scalars.values()],
            "meaning": [
                label(doc, longest=None) if (doc := stored.docs.get(name)) else ""
                for name in scalars
            ],
        },
        n=n,
        source=stored.source,
    )


def _array(stored: Stored, name: str, array: np.ndarray) -> Figure:
    unit, shown_name = stored.units.get(name, ""), label(name, longest=60)
    title = f"{shown_name} ({unit})" if unit else shown_name
    numeric = array.dtype.kind in "iufb"
    finite = array[np.isfinite(array)] if numeric else array[:0]
    shape = " x ".join(map(str, array.shape))
    reading = f"{shape} values"
    if finite.size:
        reading += f" from {finite.min():.4g} to {finite.max():.4g}, mean {finite.mean():.4g}"
    chart, drawn = _chart(PATHS.sub(" ", title), array) if finite.size > 1 else (None, "")
    columns, cut = _table(title, array)
    missing = array.size - finite.size if numeric else 0
    notes = (cut, drawn, f"{missing} of {array.size} values are not finite" if missing else "")
    axes = ", ".join(json.loads(stored.axes.get(name) or "[]"))
    return Figure(
        id=re.sub(r"\s+", "-", f"{stored.name}-{name}"),
        question=_question(stored.docs.get(name, ""), shown_name),
        reading=f"{reading}.",
        chart=chart,
        data=columns,
        n=f"{shape} values" + (f"; axes: {label(axes, longest=80)}" if axes else ""),
        source=f"{stored.source}/{name.partition(':')[0]}",
        notes=tuple(note for note in notes if note),
    )


def _question(doc: str, name: str) -> str:
    """What the array is said to be, asked; its name where nothing is said."""
    return f"What is {name}: {label(doc, longest=None)}?" if doc else f"What is {name}?"


def _table(title: str, array: np.ndarray) -> tuple[dict[str, list[Any]], str]:
    """The first rows and columns, later axes laid out in columns; and what is left out."""
    flat = array.reshape(array.shape[0], -1)
    shown = flat[:MAX_ROWS, :MAX_COLUMNS]
    numeric = array.dtype.kind in "iufb"
    columns: dict[str, list[Any]] = {"index": list(range(len(shown)))}
    for at in range(shown.shape[1]):
        values = shown[:, at].tolist()
        place = np.unravel_index(at, array.shape[1:]) if array.ndim > 1 else ()
        head = f"{title}[{', '.join(str(int(i)) for i in place)}]" if flat.shape[1] > 1 else title
        columns[head] = values if numeric else [label(str(v), longest=80) for v in values]
    return columns, "" if shown.size == flat.size else f"showing {shown.size} of {flat.size} values"


def _chart(title: str, array: np.ndarray) -> tuple[Any, str]:
    """A line over one axis, a map over two, nothing over more; and how it is thinned."""
    values = array.astype(float)
    values[~np.isfinite(values)] = np.nan
    if values.ndim == 1:
        index = _ends(values)
        rows = as_rows(index=index, **{title: values[index]})
        thinned = "drawn: the least and the largest value of every part of the axis"
        drawn = [row for row in rows if row[title] is not None]
        return lines(drawn, x="index", y=title), thinned if len(index) < len(values) else ""
    if values.ndim == 2:
        table, rows_each, columns_each = _blocks(values)
        n_rows, n_columns = table.shape
        rows = as_rows(
            row=np.repeat(np.arange(n_rows) * rows_each, n_columns),
            column=np.tile(np.arange(n_columns) * columns_each, n_rows),
            **{title: table.ravel()},
        )
        drawn = [row for row in rows if row[title] is not None]
        each = f"drawn: means over {rows_each} x {columns_each} values"
        thinned = each if rows_each * columns_each > 1 else ""
        return heat(drawn, x="column", y="row", value=title), thinned
    return None, "no chart of more than two axes"


def _ends(values: Float[np.ndarray, " values"]) -> Int[np.ndarray, " kept"]:
    """Places of the least and largest value of every part of a long axis: spikes stay."""
    if len(values) <= MAX_ROWS:
        return np.arange(len(values))
    kept: set[int] = set()
    for part in np.array_split(np.arange(len(values)), MAX_ROWS // 2):
        known = part[~np.isnan(values[part])]
        if len(known):
            kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])}
    return np.array(sorted(kept), dtype=np.int64)


def _blocks(
    values: Float[np.ndarray, "rows columns"],
) -> tuple[Float[np.ndarray, "few_rows few_columns"], int, int]:
    """A table of at most `MAX_CELLS` means of blocks, and how many rows and columns a block has."""
    n_rows, n_columns = values.shape
    most_columns = max(MAX_CELLS // min(n_rows, MAX_SIDE), 1)
    rows_each, columns_each = -(-n_rows // MAX_SIDE), -(-n_columns // most_columns)
    if rows_each * columns_each == 1:
        return values, 1, 1
    means = [
        [
            _mean(values[i : i + rows_each, j : j + columns_each])
            for j in range(0, n_columns, columns_each)
        ]
        for i in range(0, n_rows, rows_each)
    ]
    return np.array(means), rows_each, columns_each


def _mean(block: np.ndarray) -> float:
    known = block[~np.isnan(block)]
    return float(known.mean()) if known.size else float("nan")
