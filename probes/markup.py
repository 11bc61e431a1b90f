"""Objects in notebooks: small static tables that need no script, no style and nothing to load.

A notebook that is not trusted strips scripts and styles and leaves blanks where they did the work. What
is written here is plain tables of escaped text, which every sanitiser lets through; the rooms above use
it for their own objects.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

MOST_ROWS, MOST_LETTERS = 40, 500
"""Rows of a table and letters of a cell; the rest is counted, so that nothing huge is printed."""


def table_html(
    title: str, rows: Iterable[Sequence[str]], *, head: Sequence[str] = (), note: str = ""
) -> str:
    """A heading and a table.

    Args:
        title: The heading, usually the object's one-line representation.
        rows: Cells of each row; the first names it.
        head: Names of the columns, if they need any.
        note: A line below.
    """
    held = list(rows)
    parts = [f"<h4>{shown(title)}</h4>", "<table>"]
    if head:
        cells = "".join(f"<th>{shown(name)}</th>" for name in head)
        parts.append(f"<thead><tr>{cells}</tr></thead>")
    parts.append("<tbody>")
    for first, *others in held[:MOST_ROWS]:
        cells = "".join(f"<td>{shown(cell)}</td>" for cell in others)
        parts.append(f"<tr><th>{shown(first)}</th>{cells}</tr>")
    parts.append("</tbody></table>")
    if len(held) > MOST_ROWS:
        parts.append(f"<p>... and {len(held) - MOST_ROWS:,} more rows.</p>")
    if note:
        parts.append(f"<p>{shown(note)}</p>")
    return "".join(parts)


def shown(text: str) -> str:
    """Text as HTML: escaped, cut where it is long, invisible characters written out."""
    if len(text) > MOST_LETTERS:
        text = f"{text[:MOST_LETTERS]}... ({len(text):,} letters)"
    visible = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
    return html.escape(visible)
