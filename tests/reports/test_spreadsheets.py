"""CSV that spreadsheets read as text and numbers, never as formulas."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluoroscope.reports.spreadsheets import FORMULA, as_text, write_csv


def written(rows: list[list[object]]) -> list[list[str]]:
    out = io.StringIO()
    write_csv(out, ["=name", "value"], rows)
    return list(csv.reader(io.StringIO(out.getvalue(), newline="")))


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ('=HYPERLINK("x")', '\'=HYPERLINK("x")'),
        ("+1+1", "'+1+1"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("＝1+1", "'＝1+1"),
        ("-", "'-"),
        ("-1.5", "-1.5"),
        ("+3e-4", "+3e-4"),
        ("a=b", "a=b"),
        (" =1", " =1"),
        ("", ""),
        (-1.5, "-1.5"),
        (-3, "-3"),
        (float("-inf"), "-inf"),
        (None, ""),
    ],
)
def test_only_text_that_looks_like_a_formula_is_changed(value: object, cell: str) -> None:
    assert written([[value, 0]])[1] == [cell, "0"]


def test_titles_are_text_too() -> None:
    assert written([])[0] == ["'=name", "value"]


@given(st.text())
def test_no_text_is_a_formula_and_all_can_be_read_back(text: str) -> None:
    cell = as_text(text)
    assert cell in (text, f"'{text}")
    if cell.startswith(FORMULA):
        float(cell)
