"""What a section of the page is, and what renderers get to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from markupsafe import Markup

from ..probes.runfile import Run
from ..probes.runfile.h5 import array, texts
from ..probes.vocabulary import Vocabulary
from .figure import Figure
from .tokens import token_text, visible


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
    """Read a result group."""
    values: dict[str, Any] = {}
    units, axes, docs = {}, {}, {}
    for key, value in group.attrs.items():
        if key != "kind":
            values[key] = _text(value)
    for key, held in group.items():
        if isinstance(held, h5py.Dataset):
            is_text = h5py.check_string_dtype(held.dtype) is not None
            values[key] = np.array(texts(group, key), dtype=str) if is_text else array(group, key)
            units[key] = str(held.attrs.get("unit", ""))
            axes[key] = str(held.attrs.get("axes", ""))
            docs[key] = str(held.attrs.get("doc", ""))
    return Stored(name, str(group.attrs.get("kind", "")), values, units, axes, docs)


Renderer = Callable[[Stored, Context], Section]


def _text(value: Any) -> Any:
    if isinstance(value, h5py.Empty):
        return None
    if isinstance(value, str):
        return visible(value, longest=None) if not value.isprintable() else value
    return value.item() if isinstance(value, np.generic) else value
