"""A result of two runs, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..charts import as_rows, lines
from ..figure import Figure
from ..section import Context, Section, Stored
from ..tokens import label


def compared_runs(stored: Stored, context: Context) -> Section:
    """Section of the result kind `compared_runs`."""
    first, second = label(stored.first), label(stored.second)
    parts = [_Part(stored, k) for k in range(len(stored.quantities))]
    curves = [part for part in parts if part.size > 1]
    single = [part for part in parts if part.size == 1]
    figures = [part.figure(first, second) for part in curves]
    if single:
        figures.insert(0, _table(stored, single, first, second))
    origins = "; ".join(label(str(text), longest=120) for text in stored.origins)
    return Section(
        id=stored.name,
        title=f"{label(stored.of)}: {first} and {second}",
        chapter="Other results",
        intro=(
            f"Differences are {second} less {first}; their intervals join those of both runs as if "
            f"independent (Zou and Donner 2008). The runs differ in: {origins or 'nothing recorded'}."
        ),
        figures=tuple(figures),
        warnings=tuple(
            f"{label(stored.of)}: {label(str(why), longest=160)}." for why in stored.refused
        ),
    )


class _Part:
    """One quantity's values."""

    def __init__(self, stored: Stored, number: int) -> None:
        rows = slice(*stored.offsets[number : number + 2])
        self.id = f"{stored.name}-{number}"
        self.name = label(str(stored.quantities[number]))
        self.doc = label(str(stored.meanings[number]), longest=None)
        self.unit, self.axis = str(stored.in_units[number]), str(stored.coordinates[number])
        self.places = stored.places[rows]
        self.a, self.b, self.difference = stored.a[rows], stored.b[rows], stored.difference[rows]
        self.source = f"{stored.source}/difference"

    @property
    def size(self) -> int:
        return len(self.places)

    @property
    def clear(self) -> np.ndarray:
        """Where the difference's interval leaves out zero."""
        with np.errstate(invalid="ignore"):
            return (self.difference[:, 1] > 0) | (self.difference[:, 2] < 0)

    def figure(self, first: str, second: str) -> Figure:
        """Both curves, and the difference in the table."""
        both = np.concatenate([self.a, self.b])
        bounded = bool(np.isfinite(both).all())
        axis = self.axis or "index"
        rows = as_rows(
            **{axis: np.tile(self.places, 2), self.name: both[:, 0]},
            low=both[:, 1],
            high=both[:, 2],
            run=np.repeat([first, second], self.size),
        )
        widest = int(np.nanargmax(np.abs(self.difference[:, 0])))
        reading = (
            f"They differ most at {axis} {self.places[widest]:g}: {self.a[widest, 0]:.4g} and "
            f"{self.b[widest, 0]:.4g}."
        )
        if bounded:
            reading += (
                f" At {int(self.clear.sum())} of {self.size} places the difference's interval leaves "
                "out zero."
            )
        return Figure(
            id=self.id,
            question=f"Do the runs differ in this: {self.doc or self.name}?",
            reading=reading,
            chart=lines(
                rows, x=axis, y=self.name, series="run", band=("low", "high") if bounded else None
            ),
            data=self._columns(axis, first, second),
            n=f"{self.size} places" + (f"; unit: {self.unit}" if self.unit else ""),
            interval="95 %, both runs' joined" if bounded else "no interval",
            source=self.source,
        )

    def _columns(self, axis: str, first: str, second: str) -> dict[str, list[Any]]:
        return {
            axis: self.places.tolist(),
            first: self.a[:, 0].tolist(),
            second: self.b[:, 0].tolist(),
            "difference": self.difference[:, 0].tolist(),
            "low": self.difference[:, 1].tolist(),
            "high": self.difference[:, 2].tolist(),
        }


def _table(stored: Stored, parts: list[_Part], first: str, second: str) -> Figure:
    data: dict[str, list[Any]] = {"quantity": [part.name for part in parts]}
    for head, pick in ((first, "a"), (second, "b"), ("difference", "difference")):
        data[head] = [float(getattr(part, pick)[0, 0]) for part in parts]
    data["low"] = [float(part.difference[0, 1]) for part in parts]
    data["high"] = [float(part.difference[0, 2]) for part in parts]
    data["unit"] = [part.unit for part in parts]
    clear = [part.name for part in parts if part.clear.any()]
    bounded = sum(bool(np.isfinite(part.difference).all()) for part in parts)
    reading = f"{len(parts)} values; {bounded} have an interval of their difference"
    if bounded:
        named = f": {', '.join(clear[:4])}" if clear else ""
        reading += f", which leaves out zero for {len(clear)}{named}"
    return Figure(
        id=f"{stored.name}-values",
        question="Which single values differ?",
        reading=f"{reading}.",
        data=data,
        n=f"{len(parts)} values of both runs",
        interval="95 %, both runs' joined" if bounded else "no interval",
        source=f"{stored.source}/difference",
    )
