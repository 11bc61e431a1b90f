"""Rows for charts: no more marks than a page bears, extremes kept, and said what is left out."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.reports.charts import as_rows, bars, dots, heat, lines, points
from fluoroscope.reports.convert import to_svg
from fluoroscope.reports.figure import BLANK, Figure
from fluoroscope.reports.thinning import (
    MAX_BARS,
    MAX_MARKS,
    MAX_NAMED,
    N_OUTLIERS,
    drawable,
    thin_bars,
    thin_cells,
    thin_lines,
    thin_points,
)


def test_a_spike_in_a_long_line_stays() -> None:
    values = [math.sin(n / 900) for n in range(50_000)]
    values[31_234], values[31_236] = 9.0, -9.0
    rows = as_rows(x=list(range(50_000)), y=values, which=["a", "b"] * 25_000)
    kept, told = thin_lines(rows, "x", "y", "which")
    assert MAX_MARKS * 0.9 < len(kept) <= MAX_MARKS
    assert {9.0, -9.0} <= {row["y"] for row in kept}
    for name in "ab":
        mine = [row["x"] for row in kept if row["which"] == name]
        assert mine == sorted(mine), "in the order of the line"
    assert f"{len(kept):,} of 50,000 points are drawn" in told[0]


@settings(max_examples=50, deadline=None)
@given(st.integers(MAX_MARKS + 1, 9000), st.integers(1, 5), st.integers(0, 9))
def test_thinned_lines_keep_every_series_and_its_extremes(n: int, n_series: int, seed: int) -> None:
    values = [math.sin(seed + k * k) for k in range(n)]
    rows = as_rows(x=list(range(n)), y=values, which=[k % n_series for k in range(n)])
    kept, _ = thin_lines(rows, "x", "y", "which")
    assert len(kept) <= MAX_MARKS + 2 * n_series
    for which in range(n_series):
        mine, theirs = ([r["y"] for r in some if r["which"] == which] for some in (kept, rows))
        assert (min(mine), max(mine)) == (min(theirs), max(theirs))


def test_clouds_keep_their_outliers() -> None:
    rows = as_rows(x=[float(n % 100) for n in range(5000)], y=[float(n % 7) for n in range(5000)])
    for n in range(N_OUTLIERS):
        rows[n]["y"] = 1000.0 + n
    kept, told = thin_points(rows, "x", "y")
    assert len(kept) == MAX_MARKS
    assert sum(row["y"] >= 1000 for row in kept) == N_OUTLIERS
    assert "uniform sample (seed 0)" in told[0]
    assert thin_points(rows, "x", "y")[0] == kept


def test_blocks_keep_their_largest() -> None:
    heights = as_rows(bar=list(range(1000)), y=[float(n) for n in range(1000)])
    kept, told = thin_bars(heights, "y")
    assert len(kept) <= MAX_BARS
    assert [row["y"] for row in kept[:2]] == [2.0, 5.0]
    assert "largest of 3 neighbours" in told[0]
    cells = as_rows(
        layer=[n // 100 for n in range(100_000)], head=[n % 100 for n in range(100_000)],
        v=[float(n) for n in range(100_000)],
    )  # fmt: skip
    fewer, told = thin_cells(cells, "layer", "head", "v")
    assert MAX_MARKS / 2 < len(fewer) <= MAX_MARKS
    assert fewer[-1]["v"] == 99_999.0
    assert "largest of a block of" in told[0]
    assert thin_cells(cells[:1500], "layer", "head", "v") == (cells[:1500], [])


def test_what_has_no_place_is_told() -> None:
    rows = as_rows(x=[0, 1, 2, 3], y=[1.0, 0.0, -1.0, math.nan])
    assert drawable(rows, ["x", "y"]) == (rows[:3], [])
    kept, told = drawable(rows, ["x", "y"], positive="y")
    assert kept == rows[:1]
    assert told == ["2 of 3 values are zero or less: no place on a log scale"]


@pytest.mark.parametrize("values", [[], [math.nan, math.nan]], ids=["no rows", "all NaN"])
def test_nothing_to_draw_is_no_chart(values: list[float]) -> None:
    rows = as_rows(x=list(range(len(values))), y=values, low=values, high=values)
    assert lines(rows, x="x", y="y", band=("low", "high"), log=True) is None
    assert points(rows, x="x", y="y") is None
    assert bars(rows, x="x", y="y") is None
    assert dots(rows, y="x", x="y", low="low", high="high") is None
    assert heat(rows, x="x", y="x", value="y", log=True) is None


def test_captions_say_what_a_picture_leaves_out() -> None:
    n = MAX_NAMED + 5
    rows = as_rows(name=[f"n{k}" for k in range(n)], x=[1.0] * n, low=[0.5] * n, high=[2.0] * n)
    figure = Figure(id="f", question="q", reading="r", data={"x": [1.0]}, notes=("a note",),
                    chart=dots(rows, y="name", x="x", low="low", high="high"))  # fmt: skip
    assert figure.caveats == ("a note", f"the first {MAX_NAMED} of {n} are drawn; the CSV has all")
    blank = Figure(id="f", question="q", reading="r", data={"n": [1], "x": [math.nan]})
    assert blank.caveats == (BLANK,)
    assert blank.is_blank
    assert not Figure(id="f", question="q", reading="r", data={"n": [1]}).is_blank
    assert blank.rows() == [("1", "–")]
    assert Figure(id="f", question="q", reading="r", data={"x": [math.inf]}).rows() == [("+∞",)]


def test_column_names_are_names_and_no_paths_and_gaps_stay_gaps() -> None:
    """Dots and brackets in a field's name would be read as a path, and nothing drawn."""
    odd = "p[0.1] 'of' ab"
    rows = as_rows(**{"x.y": [0, 1, 2, 3], odd: [1.0, 2.0, math.nan, 4.0], "s[0]": ["a"] * 4})
    chart = lines(rows, x="x.y", y=odd, series="s[0]")
    (picture,) = to_svg([Figure(id="f", question="q", reading="r", data={}, chart=chart)]).values()
    said = [label.text for label in picture.labels if label.kind == "point"]
    assert said[0] == f"x.y: 0; {odd}: 1; s[0]: a"
    paths = [part.partition('"')[0] for part in picture.svg.split(' d="')[1:]]
    (line,) = (path for path in paths if "L" in path)
    assert line.count("M") == 2, "the line has a gap where a value is missing"


def test_titles_cannot_bring_hidden_characters_back() -> None:
    """The converter evaluates titles as text of a script, where \\u{202e} is the character again."""
    rows = as_rows(x=[0, 1], **{"\u202eevil\x07": [1.0, 2.0]})
    chart = lines(rows, x="x", y="\u202eevil\x07")
    (picture,) = to_svg([Figure(id="f", question="q", reading="r", data={}, chart=chart)]).values()
    told = [picture.svg, *(label.text for label in picture.labels)]
    assert all(c.isprintable() or c == "\n" for text in told for c in text)
    assert "evil" in picture.svg
