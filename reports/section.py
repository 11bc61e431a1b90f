"""What a section of the page is, and what renderers get to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from markupsafe import Markup

from ..probes.errors import DamagedRunFileError
from ..probes.runfile import Run
from ..probes.runfile.h5 import subgroup
from ..probes.vocabulary import Vocabulary
from .figure import Figure
from .tokens import label, token_text, visible

UNREADABLE = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What is raised on a result or a trace without the parts, rows or numbers that were counted on."""


def told(error: BaseException) -> str:
    """Kind and text of an error, short, as it is told on the page."""
    return label(f"{type(error).__name__}: {error}", longest=200)


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A key figure at the top of the page."""

    label: str
    value: str
    meaning: str
    """Definition, shown on focus."""
    href: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page."""

    id: str
    title: str
    chapter: str
    """Which chapter it belongs to; chapters have a fixed order."""
    intro: str = ""
    figures: tuple[Figure, ...] = ()
    html: Markup = Markup("")
    tiles: tuple[Tile, ...] = ()
    verdict: str = ""
    """What the section comes to, a plain sentence with a number in it, shown above its figures."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """What renderers may use besides their own group."""

    run: Run
    vocabulary: Vocabulary | None
    macros: Callable[[str, str, dict[str, Any]], Markup]
    """Renders a macro: (template, macro, arguments)."""

    def token(self, token: int | np.integer) -> str:
        """A token as it is shown."""
        return token_text(self.vocabulary, int(token))


@dataclass(frozen=True)
class Stored:
    """A result group read whole: arrays, numbers and texts by name, with units."""

    name: str
    kind: str
    values: dict[str, Any]
    units: dict[str, str] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    docs: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(f"result {self.name} holds no {name}") from None

    @property
    def source(self) -> str:
        """Path in the run file."""
        return f"/results/{self.name}"


def read_stored(name: str, group: h5py.Group) -> Stored:
    """Read a result group, whatever it holds: groups inside it and fields of records by their path."""
    stored = Stored(name, str(group.attrs.get("kind", "")), {})
    _read_into(stored, group, "")
    return stored


def read_result(run: Run, file: h5py.File, name: str) -> Stored:
    """A result of a run.

    Args:
        run: The run.
        file: Its open file.
        name: The result's name.

    Raises:
        DamagedRunFileError: It cannot be read; the message names it.
    """
    try:
        return read_stored(name, subgroup(file, f"results/{name}"))
    except (*UNREADABLE, RuntimeError) as error:
        raise DamagedRunFileError(
            f"/results/{name} of {run.path.name} cannot be read ({error}). Run its analysis again, or "
            f"leave it out: --only, with the names of the others."
        ) from error


def _read_into(stored: Stored, group: h5py.Group, path: str) -> None:
    for key, value in group.attrs.items():
        if path or key != "kind":
            stored.values[path + key] = _text(value)
    for key, held in group.items():
        if isinstance(held, h5py.Group):
            _read_into(stored, held, f"{path}{key}/")
        elif isinstance(held, h5py.Dataset):
            for part, value in _columns(held):
                whole = path + key + part
                stored.values[whole] = value
                stored.units[whole] = str(held.attrs.get("unit", ""))
                stored.axes[whole] = str(held.attrs.get("axes", ""))
                stored.docs[whole] = str(held.attrs.get("doc", ""))


def _columns(held: h5py.Dataset) -> list[tuple[str, Any]]:
    """A dataset's value; of records one per field, after a colon."""
    if held.shape is None:
        return [("", None)]
    if h5py.check_string_dtype(held.dtype) is not None:
        found = np.asarray(held.asstr(errors="backslashreplace")[()], dtype=object)
        return [("", _text(str(found[()])) if not held.shape else found.astype(str))]
    found = np.asarray(held[()])
    if found.dtype.names:
        return [(f":{name}", found[name]) for name in found.dtype.names]
    return [("", found if found.shape else found.item())]


Renderer = Callable[[Stored, Context], Section]


def _text(value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, np.ndarray):
        return value.astype(str) if value.dtype.kind in "OSU" else value
    if isinstance(value, str):
        return visible(value, longest=None) if not value.isprintable() else value
    return value.item() if isinstance(value, np.generic) else value
