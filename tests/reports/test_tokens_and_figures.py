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
from fluoroscope.reports.convert import ELEMENTS, SVG, clean_svg, to_svg
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
    for key, svg in to_svg(figures).items():
        root = ElementTree.fromstring(str(svg))
        assert all(node.tag.removeprefix(f"{{{SVG}}}") in ELEMENTS for node in root.iter())
        assert root.get("aria-label") == key
        marks = [n for n in root.iter() if n.get("aria-roledescription") and n.get("aria-label")]
        assert len(marks) >= 2, "marks carry labels for tooltips and screen readers"


def test_svg_is_reduced_to_what_is_known() -> None:
    bad = (
        f'<svg xmlns="{SVG}" onload="x()"><script>x()</script><foreignObject/>'
        '<image href="http://x/y.png"/><g id="a" style="x"/><path fill="url(#a)"/></svg>'
    )
    cleaned = str(clean_svg(bad, label="l", prefix="p"))
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
