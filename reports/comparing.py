"""Two run files side by side: what both hold, how it differs, and what cannot be compared.

A result is compared with the one of the same name and kind, quantity by quantity: single numbers and
curves whose coordinates agree, larger arrays as means over their later axes. Settings that shape a
number (the length of texts, a threshold) must agree, else the result is refused with the reason. The
interval of a difference comes from both intervals by the method of variance estimates recovery (Zou
and Donner, Statistics in Medicine 27, 2008), as if the runs were independent; where both read the
same texts it is too wide, never too narrow, as long as their errors do not oppose each other.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..probes.errors import OptionError
from ..probes.results import Result, described
from ..probes.runfile import Run
from ..probes.runfile.h5 import array, subgroup
from .section import Stored, read_stored

SETTINGS = frozenset({
    "epsilon", "label", "metric", "n_classes", "n_sinks", "n_source", "n_target", "quantile", "ratio",
    "task", "window",
})  # fmt: skip
"""Single values that shape others: results that differ in one of them are not compared."""
LOW, HIGH = "_low", "_high"
MOST_DIFFERENCE = 3
"""Differences in provenance named on the page."""


@dataclass(frozen=True, kw_only=True)
class ComparedRuns(Result):
    """One result, or one engine's trace, of two runs."""

    kind: ClassVar[str] = "compared_runs"
    of: str = described("name of the result, or trace/ENGINE")
    first: str = described("what the first run is called")
    second: str = described("what the second run is called")
    origins: np.ndarray = described("where the runs differ in origin", axes=("origins",))
    quantities: np.ndarray = described("names of what is compared", axes=("quantities",))
    meanings: np.ndarray = described("what each is", axes=("quantities",))
    in_units: np.ndarray = described("unit of each", axes=("quantities",))
    coordinates: np.ndarray = described("name of each curve's axis, if any", axes=("quantities",))
    offsets: np.ndarray = described("where each quantity's values begin", axes=("bounds",))
    places: np.ndarray = described("coordinate of each value", axes=("values",))
    a: np.ndarray = described("first run: value, lower and upper bound", axes=("values", "three"))
    b: np.ndarray = described("second run", axes=("values", "three"))
    difference: np.ndarray = described(
        "second less first, with its 95 % bounds; NaN without intervals", axes=("values", "three")
    )
    refused: np.ndarray = described("what is not compared, and why", axes=("refused",))


def compare_runs(
    first: Run, second: Run, *, names: tuple[str, str] | None = None
) -> dict[str, ComparedRuns]:
    """Compare everything two runs have in common.

    Args:
        first: A run.
        second: Another.
        names: What to call them; None for the files' names.

    Returns:
        A comparison per result and per traced engine, by name, ready to be put into a run file.

    Raises:
        OptionError: They have nothing in common.
    """
    called = names or (first.path.stem, second.path.stem)
    if called[0] == called[1]:
        called = (f"{called[0]} (first)", f"{called[1]} (second)")
    shared = [name for name in first.results if name in second.results]
    engines = [name for name in first.traces if name in second.traces]
    if not shared and not engines:
        held = "; ".join(
            f"{run.path.name} holds {', '.join([*run.results, *run.traces]) or 'nothing'}"
            for run in (first, second)
        )
        raise OptionError(
            f"The runs must have a result or a traced engine in common; {held}. Run the same analysis "
            "on both."
        )
    origins = _origins(first, second)
    found: dict[str, ComparedRuns] = {}
    with first.reading() as one, second.reading() as other:
        for name in shared:
            pair = tuple(read_stored(name, subgroup(f, f"results/{name}")) for f in (one, other))
            found[f"compared_{name}"] = _compared(name, called, origins, pair[0], pair[1])
        for name in engines:
            pair = tuple(_trace(name, subgroup(f, f"trace/{name}")) for f in (one, other))
            found[f"compared_trace_{name}"] = _compared(
                f"trace/{name}", called, origins, pair[0], pair[1]
            )
    return found


@dataclass
class _Quantity:
    name: str
    doc: str
    unit: str
    axis: str
    places: np.ndarray
    a: np.ndarray
    b: np.ndarray


def _compared(
    name: str, called: tuple[str, str], origins: list[str], one: Stored, other: Stored
) -> ComparedRuns:
    quantities, refused = _quantities(one, other)
    a = _stack([q.a for q in quantities])
    b = _stack([q.b for q in quantities])
    sizes = [len(q.places) for q in quantities]
    return ComparedRuns(
        of=name,
        first=called[0],
        second=called[1],
        origins=np.array(origins, dtype=str),
        quantities=np.array([q.name for q in quantities], dtype=str),
        meanings=np.array([q.doc for q in quantities], dtype=str),
        in_units=np.array([q.unit for q in quantities], dtype=str),
        coordinates=np.array([q.axis for q in quantities], dtype=str),
        offsets=np.cumsum([0, *sizes]),
        places=np.concatenate([q.places for q in quantities]) if quantities else np.zeros(0),
        a=a,
        b=b,
        difference=difference_with_bounds(a, b),
        refused=np.array(refused, dtype=str),
    )


def difference_with_bounds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Second less first, with bounds recovered from both intervals.

    Args:
        a: Value, lower and upper bound in the last axis; bounds NaN where unknown.
        b: The same of the second run.
    """
    value = b[..., 0] - a[..., 0]
    low = value - np.hypot(b[..., 0] - b[..., 1], a[..., 2] - a[..., 0])
    high = value + np.hypot(b[..., 2] - b[..., 0], a[..., 0] - a[..., 1])
    return np.stack([value, low, high], axis=-1)


def _stack(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, 3))


def _quantities(one: Stored, other: Stored) -> tuple[list[_Quantity], list[str]]:
    if one.kind != other.kind:
        return [], [f"one is of kind {one.kind!r}, the other of kind {other.kind!r}"]
    unlike = [
        f"{key} is {one.values[key]} in the first and {other.values[key]} in the second"
        for key in sorted(SETTINGS & one.values.keys() & other.values.keys())
        if not np.array_equal(one.values[key], other.values[key])
    ]
    if unlike:
        return [], unlike
    found: list[_Quantity] = []
    refused: list[str] = []
    for key in one.values:
        if key.endswith((LOW, HIGH)) or key in SETTINGS or key not in other.values:
            continue
        made = _quantity(key, one, other)
        if isinstance(made, str):
            refused.append(made)
        elif made is not None:
            found.append(made)
    return found, refused


def _quantity(key: str, one: Stored, other: Stored) -> _Quantity | str | None:
    """One quantity; a reason why it cannot be compared; or None for what is no quantity."""
    a, b = _number(one.values[key]), _number(other.values[key])
    if a is None or b is None:
        return None
    axes = json.loads(one.axes.get(key) or "[]")
    axis = axes[0] if axes else ""
    if a.shape != b.shape:
        return f"{key} has shape {a.shape} in the first and {b.shape} in the second"
    if axis == key:  # a coordinate
        return None
    n = len(a) if a.ndim else 1
    places = _places(one, axis, n)
    if not np.array_equal(places, _places(other, axis, n)):
        return f"{key} stands over other {axis} in the second"
    doc = one.docs.get(key, "")
    if a.ndim > 1:
        doc = f"{doc}; mean over {', '.join(axes[1:]) or 'the other axes'}"
    return _Quantity(
        key, doc, one.units.get(key, ""), axis, places, _bounded(one, key), _bounded(other, key)
    )


def _number(value: Any) -> np.ndarray | None:
    held = np.asarray(value)
    if isinstance(value, bool) or held.dtype.kind not in "iuf" or not held.size:
        return None
    return held.astype(float)


def _places(stored: Stored, axis: str, n: int) -> np.ndarray:
    """Coordinates along an axis: the result's own array of that name, else counted."""
    own = _number(stored.values[axis]) if axis in stored.values else None
    return own if own is not None and own.shape == (n,) else np.arange(n, dtype=float)


def _bounded(stored: Stored, key: str) -> np.ndarray:
    columns = []
    for name in (key, key + LOW, key + HIGH):
        held = _number(stored.values[name]) if name in stored.values else None
        if held is None:
            columns.append(np.full_like(columns[0], np.nan))
        else:
            flat = held.reshape(held.shape[0], -1) if held.ndim else held.reshape(1, 1)
            columns.append(flat.mean(1))
    return np.stack(columns, axis=1)


def _trace(name: str, group: Any) -> Stored:
    """An engine's trace as a result of single numbers, comparable where the prompts are the same."""
    n_tokens = len(array(group, "tokens/id"))
    drafted = int(array(group, "steps/n_drafted").sum())
    accepted = int(array(group, "steps/n_accepted").sum())
    passes = max(int(array(group, "generations/n_forward").sum()), 1)
    seconds = max(float(array(group, "generations/seconds").sum()), 1e-9)
    values: dict[str, Any] = {
        "tokens": n_tokens,
        "tokens_per_pass": n_tokens / passes,
        "tokens_per_second": n_tokens / seconds,
    }
    if drafted:
        values["acceptance_rate"] = accepted / drafted
    docs = {
        "tokens": "tokens emitted",
        "tokens_per_pass": "tokens emitted per forward pass of the target",
        "tokens_per_second": "tokens emitted per second",
        "acceptance_rate": "share of drafted tokens that were accepted",
    }
    return Stored(name, "trace", values, docs=docs)


def _origins(first: Run, second: Run) -> list[str]:
    found = first.provenance.differences(second.provenance)
    more = len(found) - MOST_DIFFERENCE
    return [*found[:MOST_DIFFERENCE], *([f"and {more} more"] if more > 0 else [])]
