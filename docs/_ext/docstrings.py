"""Google docstrings as they are written here, made safe for reStructuredText.

Backticks mean code, stars and bars mean themselves, and a paragraph that is indented in a docstring
without sections is a picture (a tree, a table) whose line breaks matter.
"""

import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

BEFORE_NAPOLEON = 400
CODE = re.compile(r"(``.+?``|`[^`]+`)")
SECTION = re.compile(
    r"^(Args|Returns|Raises|Yields|Attributes|References|Example|Examples|Note):\s*$"
)


def _escape(line: str) -> str:
    if line.lstrip().startswith(">>>") or line.lstrip().startswith("... "):
        return line
    parts = CODE.split(line)
    return "".join(_code(part) if CODE.fullmatch(part) else _plain(part) for part in parts)


def _code(part: str) -> str:
    inside = part.strip("`")
    return f"``{inside}``"


def _plain(part: str) -> str:
    part = re.sub(r"([*|])", r"\\\1", part)
    return re.sub(r"(\w)_(?!\w)", r"\1\\_", part)


def _with_pictures(lines: list[str]) -> Iterator[str]:
    """Indented paragraphs after plain ones become literal blocks."""
    literal = False
    for number, line in enumerate(lines):
        indented = line.startswith("    ")
        after_blank = number > 0 and not lines[number - 1].strip()
        if indented and after_blank and not literal and _follows_plain(lines, number):
            literal = True
            yield from ("::", "")
        if line.strip() and not indented:
            literal = False
        yield line if literal else _escape(line)


def _follows_plain(lines: list[str], number: int) -> bool:
    before = [line for line in lines[:number] if line.strip()]
    last = before[-1] if before else ""
    return not last.startswith((" ", "- ", "* ")) and not re.match(r"\d+\. ", last)


def _process(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    if any(SECTION.match(line) for line in lines):
        lines[:] = [_escape(line) for line in lines]
    else:
        lines[:] = list(_with_pictures(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Work on docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", _process, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
