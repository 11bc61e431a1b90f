"""What notebooks show: static tables and images that a sanitiser leaves alone, small, and escaped."""

import base64
import re
from collections.abc import Callable
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.decoding import Stopping, make_engine
from fluoroscope.probes import open_run, wrap_model
from fluoroscope.probes.markup import MOST_ROWS, table_html
from fluoroscope.probes.results import Result, described
from fluoroscope.reports import Figure
from fluoroscope.reports.charts import as_rows, heat, lines
from fluoroscope.reports.notebook import MOST_BYTES
from tests.families import tiny_module
from tests.reports.test_following import add, start
from tests.tokenizers_ import byte_tokenizer

TAGS = {"h4", "p", "table", "thead", "tbody", "tr", "th", "td", "img", "code"}
"""What the sanitisers of JupyterLab, VS Code and GitHub all let through."""
ATTRIBUTES = {"alt", "src"}
HOSTILE = "</script><script>alert(1)</script>\x00\u202e<img src=x onerror=y>{{ 7*7 }}]]>"


class Sanitiser(HTMLParser):
    """Collects what an allow-list would strip, and the text that is read."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.stripped: list[str] = []
        self.text = ""
        self.feed(fragment)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stripped += [tag] if tag not in TAGS else []
        for name, value in attrs:
            if name not in ATTRIBUTES or (
                name == "src" and not (value or "").startswith("data:image/")
            ):
                self.stripped.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


@dataclass(frozen=True, kw_only=True)
class Odd(Result):
    kind: ClassVar[str] = "odd"
    values: np.ndarray = described("some values", axes=("layers", "heads"), unit="nats")
    words: np.ndarray = described(HOSTILE, axes=("words",))
    note: str = described("a note")
    large: Any = described("anything")


def odd(text: str) -> Odd:
    values = np.arange(6.0).reshape(2, 3)
    values[0, 0] = np.nan
    return Odd(values=values, words=np.array([text] * 3), note=text, large={"a": list(range(9999))})


def figure(n: int, text: str = "a") -> Figure:
    rows = as_rows(x=list(range(n)), y=[float(i % 7) for i in range(n)], which=[text] * n)
    return Figure(id="f", question=text, reading=text, data={"x": list(range(n)), text: [text] * n},
                  chart=lines(rows, x="x", y="y", series="which"), n=f"{n} rows",
                  source="/results/f")  # fmt: skip


def shown_run(folder: Path) -> str:
    add(start(folder / "run.h5"), "curve") if not (folder / "run.h5").exists() else None
    return open_run(folder / "run.h5")._repr_html_()


def shown_generation(folder: Path) -> str:
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny")
    rules = Stopping(max_new_tokens=5, ignore_eos=True)
    return make_engine(model, "plain").generate(HOSTILE, stopping=rules)[0]._repr_html_()


SHOWN: dict[str, Callable[[Path], str]] = {
    "run": shown_run,
    "generation": shown_generation,
    "result": lambda folder: odd(HOSTILE)._repr_html_(),
    "figure": lambda folder: figure(50, HOSTILE)._repr_html_(),
    "large figure": lambda folder: figure(1500)._repr_html_(),
}


@pytest.mark.parametrize("what", SHOWN)
def test_what_a_notebook_shows_passes_a_sanitiser_whole(what: str, tmp_path: Path) -> None:
    fragment = SHOWN[what](tmp_path)
    found = Sanitiser(fragment)
    assert found.stripped == []
    assert len(fragment.encode()) <= MOST_BYTES
    assert found.text.strip()
    assert "\x00" not in fragment
    assert "\u202e" not in fragment
    for source in re.findall(r'src="data:image/svg\+xml;base64,([^"]*)"', fragment):
        root = ElementTree.fromstring(base64.b64decode(source))
        assert root.get("width"), "an image has a size of its own"
        assert b"var(--" not in base64.b64decode(source)


def test_a_result_says_what_its_fields_are() -> None:
    text = Sanitiser(odd("plain")._repr_html_()).text
    for told in ("some values (layers x heads), nats", "2x3 float64, 1 to 5, 1 not finite: nan, 1, 2",
                 "letters)", "plain"):  # fmt: skip
        assert told in text, told


def test_figures_without_chart_or_rows_show_what_they_have() -> None:
    bare = Figure(id="b", question="why", reading="so", data={})
    assert "<h4>why</h4><p>so</p>" in bare._repr_html_()
    wide = heat(as_rows(x=[0], y=[0], v=[1.0]), x="x", y="y", value="v")
    assert "<img" in Figure(id="b", question="q", reading="r", data={}, chart=wide)._repr_html_()
    many = Figure(id="b", question="q", reading="r", data={"a": list(range(1000))})
    assert "... and 990 more rows" in many._repr_html_()


@settings(deadline=None)
@given(st.text(), st.lists(st.tuples(st.text(), st.text()), max_size=60))
def test_any_text_is_only_ever_text(title: str, rows: list[tuple[str, str]]) -> None:
    fragment = table_html(title, rows)
    assert Sanitiser(fragment).stripped == []
    fragment.encode()
    assert fragment.count("<tr>") == min(len(rows), MOST_ROWS)
    assert all(c.isprintable() or c == "\n" for c in fragment)
