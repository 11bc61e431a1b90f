"""Fields of an options dataclass with the docstrings that stand under them in the source."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Field:
    """One option."""

    name: str
    type: str
    default: Any
    meaning: str


def described_fields(options: type[Any]) -> list[Field]:
    """Fields of a dataclass, those it inherits included, in order.

    Args:
        options: A dataclass whose fields are each followed by a string, as everywhere here.
    """
    meanings: dict[str, str] = {}
    for base in reversed(options.__mro__):
        if dataclasses.is_dataclass(base):
            meanings |= _strings_after_fields(base)
    return [
        Field(
            name=field.name,
            type=str(field.type),
            default=_default(field),
            meaning=meanings.get(field.name, ""),
        )
        for field in dataclasses.fields(options)
    ]


def _strings_after_fields(cls: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
            continue
        text = after.value if isinstance(after, ast.Expr) else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            found[field.target.id] = " ".join(text.value.split())
    return found


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None
