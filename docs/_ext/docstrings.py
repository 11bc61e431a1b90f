"""Google docstrings as they are written here, made safe for reStructuredText.

Backticks mean code, stars and bars mean themselves, and a paragraph that is indented in a docstring
without sections is a picture (a tree, a table, a formula) whose line breaks matter.
"""

import re
from itertools import groupby
from typing import Any

from sphinx.application import Sphinx

BEFORE_NAPOLEON = 400
CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
SECTION = re.compile(
    r"^(Args|Returns|Raises|Yields|Attributes|References|Example|Examples|Note):\s*$"
)
COLUMNS = re.compile(r"\S {3,}\S")
ITEM = re.compile(r"([-*]|\d+\.) ")


def _escaped(lines: list[str]) -> list[str]:
    """Lines of prose with their marks made harmless; doctests are left alone."""
    found: list[str] = []
    for is_code, group in groupby(lines, lambda line: line.lstrip().startswith((">>>", "... "))):
        text = "\n".join(group)
        found += (text if is_code else _prose(text)).split("\n")
    return found


def _prose(text: str) -> str:
    parts = CODE.split(text)
    return "".join(
        f"``{part.strip('`')}``" if number % 2 else _plain(part)
        for number, part in enumerate(parts)
    )


def _plain(part: str) -> str:
    part = re.sub(r"([*|])", r"\\\1", part)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", part)


def _with_pictures(lines: list[str]) -> list[str]:
    """Indented paragraphs after plain ones become literal blocks."""
    found: list[str] = []
    for is_picture, group in groupby(_paragraphs(lines), _is_picture):
        held = [line for paragraph in group for line in (*paragraph, "")]
        after_item = bool(found) and any(ITEM.match(line) for line in _last_paragraph(found))
        if is_picture and not after_item:
            found += ["::", "", *(f"    {line}".rstrip() for line in held)]
        else:
            found += _escaped(held)
    return found


def _is_picture(paragraph: list[str]) -> bool:
    in_columns = sum(bool(COLUMNS.search(line)) for line in paragraph)
    return paragraph[0].startswith("  ") or in_columns > 1


def _paragraphs(lines: list[str]) -> list[list[str]]:
    """Runs of lines without a blank between them; an indented run after a plain line is its own."""
    found: list[list[str]] = []
    fresh = True
    for line in lines:
        if not line.strip():
            fresh = True
            continue
        held = found[-1] if found else [line]
        leaves = held[0].startswith("  ") and not line.startswith("  ")
        enters = held[-1].endswith(":") and line.startswith("  ") and not ITEM.match(held[0])
        if fresh or leaves or enters:
            found.append([])
        found[-1].append(line)
        fresh = False
    return found


def _last_paragraph(lines: list[str]) -> list[str]:
    held = list(lines)
    while held and not held[-1].strip():
        held.pop()
    start = max((n for n, line in enumerate(held) if not line.strip()), default=-1)
    return held[start + 1 :]


def _process(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    has_sections = any(SECTION.match(line) for line in lines)
    lines[:] = _escaped(lines) if has_sections else _with_pictures(lines)


def setup(app: Sphinx) -> dict[str, Any]:
    """Work on docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", _process, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
