"""Templates that escape whatever they are given, and write no control or bidirectional character."""

from __future__ import annotations

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from .tokens import printable


@cache
def environment() -> Environment:
    """The templates of the page: autoescaping, and an undefined name is an error."""
    return Environment(
        loader=PackageLoader("fluoroscope.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )


def macro(template: str, name: str, arguments: dict[str, Any]) -> Markup:
    """What a macro of a template writes.

    Args:
        template: The template's file.
        name: The macro in it.
        arguments: By name.
    """
    return getattr(environment().get_template(template).module, name)(**arguments)


def _printable(value: Any) -> Any:
    """What a template writes: strings without control and bidirectional characters."""
    return printable(value) if type(value) is str else value
