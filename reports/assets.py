"""Styles and scripts of the page: which ones it needs, whole, and their hashes for its policy.

The viewer's script is kept in parts of one concept each (`static/trace/`) and joined here in one
closure, for a page has no modules of its own: it loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from importlib import resources

from .section import Section
from .sections.trace import ID as TRACE
from .sections.trace import SCRIPTS


def styles(sections: Sequence[Section]) -> list[str]:
    """The style sheets of a page with these sections."""
    return [static("report.css"), *([static("trace.css")] if has_viewer(sections) else [])]


def scripts(sections: Sequence[Section]) -> list[str]:
    """The scripts of a page with these sections: each one that something on the page needs."""
    tables = (figure.html or "" for section in sections for figure in section.figures)
    return [
        static("report.js"),
        *([viewer_script()] if has_viewer(sections) else []),
        *([static("sorting.js")] if any('class="sortable"' in html for html in tables) else []),
    ]


def has_viewer(sections: Sequence[Section]) -> bool:
    """Whether the decode-trace viewer is among the sections."""
    return any(section.id == TRACE for section in sections)


@cache
def viewer_script() -> str:
    """The viewer's script, its parts joined in one closure."""
    parts = "\n".join(static(f"trace/{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{parts}}})();\n'


def static(name: str) -> str:
    """A file of the page's own."""
    return (resources.files("fluoroscope.reports") / "static" / name).read_text("utf-8")


def digest(text: str) -> str:
    """A script's or style's hash as the page's policy names it."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
