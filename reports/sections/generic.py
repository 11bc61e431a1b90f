"""Any result no renderer knows, shown as it is stored: a new analysis appears before it has a page."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, heat, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label

MAX_ROWS, MAX_CELLS = 500, 2000


def generic(stored: Stored, context: Context) -> Section:
    """Section of an unknown result kind: a table of scalars and a figure per array."""
    scalars = {k: v for k, v in stored.values.items() if not isinstance(v, np.ndarray)}
    arrays = {k: v for k, v in stored.values.items() if isinstance(v, np.ndarray) and v.size}
    figures = [_array(stored, name, array) for name, array in arrays.items()]
    if scalars:
        figures.insert(
            0,
            Figure(
                id=f"{stored.name}-values",
                question="Single values",
                reading=f"{len(scalars)} values.",
                data={
                    "name": [label(k, longest=60) for k in scalars],
                    "value": [label(str(v), longest=80) for v in scalars.values()],
                },
                source=stored.source,
            ),
        )
    return Section(
        id=stored.name,
        title=label(stored.name, longest=60),
        chapter="Other results",
        intro=f"A result of kind {label(stored.kind, longest=60)}, shown as it is stored.",
        figures=tuple(figures),
    )


def _array(stored: Stored, name: str, array: np.ndarray) -> Figure:
    unit = stored.units.get(name, "")
    title = f"{name} ({unit})" if unit else name
    flat = array.reshape(array.shape[0], -1) if array.ndim > 1 else array[:, None]
    numeric = array.dtype.kind in "iufb"
    shown = flat[:MAX_ROWS, :16]
    notes = () if shown.size == flat.size else (f"showing {shown.size} of {flat.size} values",)
    columns: dict[str, list[Any]] = {"index": list(range(len(shown)))}
    for column in range(shown.shape[1]):
        values = shown[:, column].tolist()
        head = title if flat.shape[1] == 1 else f"{title}[{column}]"
        columns[head] = values if numeric else [label(str(v), longest=80) for v in values]
    reading = f"{'x'.join(map(str, array.shape))} values"
    if numeric and np.isfinite(array.astype(float)).any():
        finite = array.astype(float)[np.isfinite(array.astype(float))]
        reading += f" from {finite.min():.4g} to {finite.max():.4g}"
    return Figure(
        id=f"{stored.name}-{name}",
        question=label(stored.docs.get(name) or name, longest=None),
        reading=f"{reading}.",
        chart=_chart(title, array) if numeric else None,
        data=columns,
        n=stored.axes.get(name, ""),
        source=f"{stored.source}/{name}",
        notes=notes,
    )


def _chart(title: str, array: np.ndarray) -> Any:
    values = array.astype(float)
    if not np.isfinite(values).any():
        return None
    if values.ndim == 1:
        step = max(len(values) // MAX_ROWS, 1)
        index = np.arange(0, len(values), step)
        rows = as_rows(index=index, **{title: values[index]})
        return lines([row for row in rows if row[title] is not None], x="index", y=title)
    if values.ndim == 2 and values.size <= MAX_CELLS:
        n_rows, n_columns = values.shape
        rows = as_rows(
            row=np.repeat(np.arange(n_rows), n_columns),
            column=np.tile(np.arange(n_columns), n_rows),
            **{title: values.ravel()},
        )
        return heat(rows, x="row", y="column", value=title)
    return None
