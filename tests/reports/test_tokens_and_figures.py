"""Tokens and figures: hostile text is shown, numbers stay numbers."""

import json
import math
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluoroscope.probes.errors import OptionError
from fluoroscope.reports.charts import as_rows, bars, dots, heat, lines
from fluoroscope.reports.convert import ELEMENTS, SVG, page_svg, to_svg
from fluoroscope.reports.figure import Figure
from fluoroscope.reports.tokens import label, plain, visible

HOSTILE = ["\x00", "\x1b[31m", "\u202eabc", "</script><script>alert(1)</script>", "]]>", "{{ x }}",
           "\ufffe", "<img onerror=x>", "\u2028", "​", "\ud800"]  # fmt: skip


@given(st.text() | st.binary() | st.sampled_from(HOSTILE))
def test_nothing_invisible_survives(text: str | bytes) -> None:
    shown = visible(text, longest=None)
    assert shown
    assert all(character.isprintable() for character in shown)
    ElementTree.fromstring(f"<a>{escape(shown)}</a>")
    assert len(visible(text)) <= 24


def test_tokens_read_as_the_legend_says() -> None:
    assert visible(" the") == "·the"
    assert visible("\n\t") == "\\n\\t"
    assert visible(b"\xff") == "\\xff"
    assert visible("\u202e") == "\\u{202e}"
    assert visible("") == "∅"
    assert visible("a" * 100) == "a" * 11 + "…" + "a" * 11
    assert label("two words") == "two words"
    assert plain("a b\nc\x00") == "a b\nc\\x00"


def figure(text: str = "x") -> Figure:
    rows = as_rows(layer=[0, 1, 2], nats=[1.0, 2.0, 3.0], which=[text, text, "b"])
    return Figure(
        id="f", question="q", reading="r", data={"layer": [0, 1, 2], "nats": [1.0, 2.0, math.nan]},
        chart=lines(rows, x="layer", y="nats", series="which"),
    )  # fmt: skip


def test_figures_save_as_every_kind(tmp_path: Path) -> None:
    starts = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF", "csv": b"layer,nats", "json": b"{"}
    for ending, start in starts.items():
        data = figure().save(tmp_path / f"f.{ending}").read_bytes()
        assert data.lstrip().startswith(start), ending
    assert json.loads((tmp_path / "f.json").read_text())["$schema"]
    with pytest.raises(OptionError, match=r"got '\.gif'"):
        figure().save(tmp_path / "f.gif")
    with pytest.raises(OptionError, match="has no chart"):
        Figure(id="t", question="q", reading="r", data={}).vega_lite()
    assert figure().rows()[2] == ("2", "–")
    assert "<script" not in figure()._repr_html_()


def test_all_kinds_of_chart_become_clean_svg() -> None:
    rows = as_rows(name=["a", "b"], x=[1.0, 2.0], y=[3, 4], low=[0.5, 1], high=[2, 3])
    charts = {
        "line": lines(rows, x="x", y="y", band=("low", "high"), log=True),
        "bar": bars(rows, x="name", y="y"),
        "dot": dots(rows, y="name", x="x", low="low", high="high"),
        "heat": heat(rows, x="x", y="y", value="low"),
    }
    figures = [
        Figure(id=key, question=key, reading=key, data={}, chart=chart)
        for key, chart in charts.items()
    ]
    for key, picture in to_svg(figures).items():
        root = ElementTree.fromstring(str(picture.svg))
        assert all(node.tag.removeprefix(f"{{{SVG}}}") in ELEMENTS for node in root.iter())
        assert root.get("aria-label") == key
        assert root.get("role") == "img"
        assert len(picture.labels) >= 2, "marks have labels for tooltips and screen readers"
        parts = list(root.iter())[1:]
        for label_ in picture.labels:
            assert parts[label_.element].tag.removeprefix(f"{{{SVG}}}") in {
                "g",
                "path",
                "circle",
                "line",
            }


def test_svg_is_reduced_to_what_is_known() -> None:
    bad = (
        f'<svg xmlns="{SVG}" onload="x()"><script>x()</script><foreignObject/>'
        '<image href="http://x/y.png"/><defs id="a" style="x"/><path d="M0,0h1" fill="url(#a)"/></svg>'
    )
    cleaned = str(page_svg(bad, label="l", prefix="p").svg)
    for gone in ("script", "foreignObject", "onload", "http://x/", "style"):
        assert gone not in cleaned
    assert 'id="p-a"' in cleaned
    assert "url(#p-a)" in cleaned


def test_numbers_become_plain_and_nan_becomes_nothing() -> None:
    import numpy as np

    assert as_rows(a=np.array([1.5, np.nan]), b=["x", "y"]) == [
        {"a": 1.5, "b": "x"},
        {"a": None, "b": "y"},
    ]


def test_the_table_shows_the_first_rows_and_the_csv_holds_all_in_full() -> None:
    long = Figure(
        id="t",
        question="q",
        reading="r",
        data={"x": [1, 2, 3], "y": [0.123456789, 12345.678, 1.5e10]},
    )
    assert long.rows(2) == [("1", "0.1235"), ("2", "12,346")]
    assert long.rows()[2] == ("3", "1.5e+10")
    assert long.csv() == "x,y\n1,0.123456789\n2,12345.678\n3,15000000000.0\n"
    assert long.numeric() == [True, True]
    assert Figure(id="t", question="q", reading="r", data={"x": ["a", 1]}).numeric() == [False]


def test_a_saved_picture_has_colours_of_its_own(tmp_path: Path) -> None:
    """Outside the page there are no CSS variables: SVG files carry the light palette."""
    text = figure().save(tmp_path / "f.svg").read_text()
    assert "#0072b2" in text
    assert "var(--" not in text
    assert "currentColor" not in text
    assert "var(--series-1)" in json.dumps(figure().vega_lite())


def test_legends_axes_and_names_can_be_read() -> None:
    """Every series has its legend entry; axes thin their labels evenly; long names have room."""
    rows = as_rows(x=[0, 1, 0, 1], y=[1, 2, 3, 4], which=["one", "one", "two", "two"])
    heights = as_rows(bar=list(range(40)), y=[1.0] * 40)
    names = as_rows(name=["a name of some length"], x=[1.0], low=[0.5], high=[1.5])
    drawn = to_svg([
        Figure(id="l", question="q", reading="r", data={},
               chart=lines(rows, x="x", y="y", series="which")),
        Figure(id="b", question="q", reading="r", data={}, chart=bars(heights, x="bar", y="y")),
        Figure(id="d", question="q", reading="r", data={},
               chart=dots(names, y="name", x="x", low="low", high="high")),
    ])  # fmt: skip
    legend = ElementTree.fromstring(str(drawn["l"].svg))
    shown = [node.text for node in legend.iter(f"{{{SVG}}}text")]
    assert {"one", "two"} <= set(shown)
    bar = ElementTree.fromstring(str(drawn["b"].svg))
    labels = [node.text for node in bar.iter(f"{{{SVG}}}text") if (node.text or "").isdigit()]
    assert labels[:4] == ["0", "4", "8", "12"]
    dot = ElementTree.fromstring(str(drawn["d"].svg))
    assert "a name of some length" in [node.text for node in dot.iter(f"{{{SVG}}}text")]
    sizes = [float(svg.get("viewBox", "").split()[2]) for svg in (legend, dot)]
    assert abs(sizes[0] - sizes[1]) < 90, "names and plot together are about one width"
