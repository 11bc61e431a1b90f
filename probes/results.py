"""Results: what an analysis found, as a frozen dataclass that writes itself to one HDF5 group.

An analysis returns a `Result`. Its arrays, numbers and strings become datasets and attributes of
`/results/<name>`; the class' `kind` tells the report which renderer draws it. A field describes
itself once, through `described`: its meaning, unit and axes are stored beside the numbers, so that
a reader of the file (a person, or the generic renderer of the reports room) needs no source code.

Example:
    >>> @dataclass(frozen=True, kw_only=True)
    ... class Norms(Result):
    ...     kind: ClassVar[str] = "norms"
    ...     mean: np.ndarray = described("mean L2 norm", axes=("layers",), unit="")
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import h5py
import numpy as np

from .errors import DamagedRunFileError
from .markup import table_html
from .storable import storable, text_array

_DESCRIPTION = "fluoroscope"

R = TypeVar("R", bound="Result")


def described(
    doc: str, *, axes: tuple[str, ...] = (), unit: str = "", default: Any = dataclasses.MISSING
) -> Any:
    """A dataclass field that carries its own meaning into the run file.

    Args:
        doc: What the field holds, one sentence.
        axes: Names of the array's axes, outermost first; empty for scalars and strings.
        unit: Unit of the values ("nats", "tokens", "s"); empty where there is none.
        default: Default value of the field, if it has one.
    """
    metadata = {_DESCRIPTION: {"doc": doc, "axes": axes, "unit": unit}}
    if default is dataclasses.MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Base of every stored result. Subclasses are frozen, keyword-only dataclasses.

    Fields may be numpy arrays (numeric, bool or str), numbers, strings, None, or anything JSON
    can hold (dicts and lists, stored as JSON text).
    """

    kind: ClassVar[str]
    """Which renderer draws it; unique per result class."""

    def save(self, group: h5py.Group) -> None:
        """Write every field into `group`, which should be empty."""
        group.attrs["kind"] = self.kind
        for field in dataclasses.fields(self):
            _write(group, field, getattr(self, field.name))

    @classmethod
    def load(cls: type[R], group: h5py.Group) -> R:
        """Read a result back.

        Raises:
            DamagedRunFileError: A field is missing, or the group holds another kind.
        """
        kind = group.attrs.get("kind")
        if kind != cls.kind:
            raise DamagedRunFileError(
                f"{group.name} must hold a result of kind {cls.kind!r}, got {kind!r}; "
                "read it with the class of that kind."
            )
        return cls(**{field.name: _read(group, field) for field in dataclasses.fields(cls)})

    def _repr_html_(self) -> str:
        fields = dataclasses.fields(self)
        rows = [_row(field, getattr(self, field.name)) for field in fields]
        return table_html(
            f"{type(self).__name__} ({self.kind})", rows, head=("field", "what it is", "value")
        )


def _row(field: dataclasses.Field[Any], value: Any) -> tuple[str, str, str]:
    """A field in a notebook: name, meaning with axes and unit, value or size with a sample."""
    description = field.metadata.get(_DESCRIPTION, {"doc": "", "axes": (), "unit": ""})
    axes, unit = " x ".join(description["axes"]), description["unit"]
    meaning = f"{description['doc']}{f' ({axes})' if axes else ''}{f', {unit}' if unit else ''}"
    return field.name, meaning, _brief(value)


def _brief(value: Any) -> str:
    if not isinstance(value, np.ndarray):
        return f"{value:.6g}" if isinstance(value, float) else str(value)
    size = f"{'x'.join(map(str, value.shape)) or 'single'} {value.dtype}"
    if value.dtype.kind in "fiu" and np.isfinite(value).any():
        finite = value[np.isfinite(value)]
        size += f", {finite.min():.4g} to {finite.max():.4g}"
        if finite.size < value.size:
            size += f", {value.size - finite.size} not finite"
    sample = ", ".join(_brief(one.item()) for one in value.ravel()[:3])
    return (
        f"{size}: {sample}{', ...' if value.size > 3 else ''}" if value.size else f"{size}, empty"
    )


def _write(group: h5py.Group, field: dataclasses.Field[Any], value: Any) -> None:
    description = field.metadata.get(_DESCRIPTION, {"doc": "", "axes": (), "unit": ""})
    if isinstance(value, np.ndarray):
        stored = (
            text_array(value.ravel()).reshape(value.shape) if value.dtype.kind in "UO" else value
        )
        dataset = group.create_dataset(field.name, data=stored)
        dataset.attrs["axes"] = json.dumps(list(description["axes"]))
        dataset.attrs["unit"] = description["unit"]
        dataset.attrs["doc"] = description["doc"]
    elif isinstance(value, str):
        group.attrs[field.name] = storable(value)
    elif isinstance(value, bool | int | float | np.generic):
        group.attrs[field.name] = value
    else:
        group.attrs[field.name] = h5py.Empty("f") if value is None else _Json.mark(value)


def _read(group: h5py.Group, field: dataclasses.Field[Any]) -> Any:
    if field.name in group:
        dataset = group[field.name]
        assert isinstance(dataset, h5py.Dataset)
        if h5py.check_string_dtype(dataset.dtype) is not None:
            return np.asarray(dataset.asstr()[()], dtype=str)
        return dataset[()]
    if field.name in group.attrs:
        value = group.attrs[field.name]
        if isinstance(value, h5py.Empty):
            return None
        if isinstance(value, str):
            return _Json.unmark(value)
        return value.item() if isinstance(value, np.generic) else value
    if field.default is not dataclasses.MISSING:
        return field.default
    raise DamagedRunFileError(
        f"{group.name} must hold {field.name!r}; it does not. Run the analysis again to rewrite it."
    )


class _Json:
    """JSON inside a string attribute, told from plain strings by a prefix."""

    PREFIX = "json:"

    @classmethod
    def mark(cls, value: Any) -> str:
        return cls.PREFIX + json.dumps(value, sort_keys=True)

    @classmethod
    def unmark(cls, value: str) -> Any:
        return json.loads(value[len(cls.PREFIX) :]) if value.startswith(cls.PREFIX) else value
