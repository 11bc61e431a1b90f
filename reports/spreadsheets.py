"""Tables as CSV that a spreadsheet reads as text and numbers, never as formulas.

Spreadsheets run a cell that begins with = + - @ as a formula, also in a file someone else made, and
what a model said may begin with any of them. Such text gets an apostrophe in front, as OWASP advises
("CSV injection"). Numbers, and text that is a number, stay as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from io import TextIOBase
from typing import Any

FORMULA = tuple("=+-@\t\r\n＝＋－＠")
"""First characters of what a spreadsheet may take for a formula; wide forms in some locales."""


def as_text(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that looks like a formula begins with an apostrophe.

    Args:
        value: The cell; what is no string is given back as it is.
    """
    if isinstance(value, str) and value.startswith(FORMULA) and not _is_number(value):
        return f"'{value}"
    return value


def write_csv(out: TextIOBase, names: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table.

    Args:
        out: Where to; a file is opened with newline="".
        names: Titles of the columns.
        rows: Its rows.
    """
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([as_text(name) for name in names])
    writer.writerows([as_text(value) for value in row] for row in rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()
