"""What the page holds compressed, for its script: labels, tooltips, CSV, specifications, late figures.

Everything a reader sees stands in the HTML itself. What only the script uses would double the page,
and says much the same again and again; so it goes into blocks of gzip in base64, up to three per
section, which the script opens with the browser's own `DecompressionStream`. The same input gives the
same bytes.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any, NamedTuple

from markupsafe import Markup

from .columns import as_json

_ELEMENT = re.compile(r'<[a-z]\w*(?: [^<>]*)? data-tip="[^<>]*>')
_DATA = re.compile(r' data-([a-z]+)="([^"]*)"')
_BLOCK = re.compile(r'<script type="text/plain" data-of="([^"]*)" data-kind="([a-z]+)">([^<]*)<')
_VOID = {"br", "hr", "img", "input"}
_CASES = {
    name.lower(): name for name in ("viewBox", "clipPath", "linearGradient", "preserveAspectRatio")
}
"""Names of SVG that are not lower case; the HTML parser forgets that."""


def block(value: Any) -> Markup:
    """A value as text for a data block; nothing in it can be markup."""
    return Markup(base64.b64encode(gzip.compress(as_json(value).encode(), 9, mtime=0)).decode())


def blocks(page: str) -> Iterator[tuple[str, str, Any]]:
    """The blocks of a page, opened: section, what it is, value."""
    for section, kind, text in _BLOCK.findall(page):
        opened = json.loads(gzip.decompress(base64.b64decode(text)))
        yield html.unescape(section), kind, opened


class Tips(NamedTuple):
    """Tooltips of a fragment, and what else its elements tell the script, as columns."""

    names: list[str]
    """Names of the data attributes."""
    rows: list[list[str | None]]
    """Values per element, in document order; None where an element lacks one."""


def take_tips(fragment: Markup) -> tuple[Markup, Tips]:
    """A fragment without its tooltips, and the tooltips.

    Elements with a `data-tip` lose it and their other data attributes; an empty `data-t` marks them.

    Args:
        fragment: HTML whose attributes are escaped, as templates write it.
    """
    held: list[dict[str, str]] = []

    def mark(found: re.Match[str]) -> str:
        held.append({name: html.unescape(value) for name, value in _DATA.findall(found[0])})
        bare = _DATA.sub("", found[0])
        return f"{bare[:-1]} data-t>"

    marked = Markup(_ELEMENT.sub(mark, fragment))
    names = sorted({name for values in held for name in values})
    return marked, Tips(names, [[values.get(name) for name in names] for values in held])


def tree(fragment: Markup) -> list[Any]:
    """HTML as nested lists, for a script that may not write HTML: [tag, attributes, *children]."""
    reader = _Reader()
    reader.feed(fragment)
    reader.close()
    return reader.root[2:]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root: list[Any] = ["", {}]
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = [
            _CASES.get(tag, tag),
            {_CASES.get(name, name): value or "" for name, value in attrs},
        ]
        self._open[-1].append(node)
        if tag not in _VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        self._open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip():
            self._open[-1].append(data)
        elif data and len(self._open[-1]) > 2:
            self._open[-1].append(" ")
