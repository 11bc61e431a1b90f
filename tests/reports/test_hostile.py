"""Hostile, empty, broken and huge runs: a page that reads, or an error that says what is wrong."""

import dataclasses
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fluoroscope.probes import Provenance, Run, create_run, open_run
from fluoroscope.probes.errors import DamagedRunFileError, NotARunFileError, RunFileError
from fluoroscope.probes.readings.layer_stats import LayerStats
from fluoroscope.probes.readings.sinks import AttentionSinks
from fluoroscope.probes.results import Result, described
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports import build_report, figures_of
from fluoroscope.reports.columns import inert
from fluoroscope.reports.figure import BLANK, cell
from fluoroscope.reports.packed import block, blocks
from tests.reports import examples
from tests.reports.examples import EXAMPLES, N_WORDS

NASTY = [
    "</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "]]>", "{{ 7*7 }}",
    "{% raw %}", "\x00\x07\x1b[31m", "\u202edlrow\u2066", "\ud800", "\ufffe", "\u2028", "&lt;b&gt;",
    "\" onload=\"x()", "'`${7}`", "<!--follow-->", "\u05d0\u05d1 \u0661", "a.b[c]\\d", "=1+1", "",
    "x" * 5000,
]  # fmt: skip
"""Texts that break pages."""
COUNTED = {"information_predictions"}
"""Kinds whose tables are histograms, counted when the page is drawn."""
OURS = {"json", "text/plain", "application/json"}


@dataclass(frozen=True, kw_only=True)
class Texts(Result):
    kind: ClassVar[str] = "texts"
    words: np.ndarray = described("words", axes=("n",))
    curve: np.ndarray = described("a curve", axes=("n",))
    note: str = described("a note")


class Page(HTMLParser):
    """Scripts, handlers and ids of a page, and its numeric cells by figure."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.scripts: list[dict[str, str | None]] = []
        self.bad: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        self.tags.append(tag)
        if tag == "script":
            self.scripts.append(held)
        self.bad += [f"{tag} {name}" for name in held if name.startswith("on")]
        self.bad += (
            [tag] if tag in {"iframe", "object", "embed", "link", "base", "form img"} else []
        )
        if held.get("id"):
            self.ids.append(str(held["id"]))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def run_with(path: Path, results: dict[str, Result], **origin: Any) -> Run:
    """A run file of results alone."""
    with create_run(path, provenance=Provenance(**origin)) as writer:
        writer.set_vocabulary(
            Vocabulary(tuple(f" w{n}".encode() for n in range(N_WORDS)), frozenset())
        )
        writer.close()
    run = open_run(path)
    for name, result in results.items():
        run.add_result(name, result)
    return open_run(path)


def spoiled(result: Result, how: str, text: str = "") -> Result:
    """A result without finite numbers, without rows, or with other texts."""
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        is_text = isinstance(value, np.ndarray) and value.dtype.kind == "U"
        if how == "nan" and isinstance(value, np.ndarray) and value.dtype.kind == "f":
            changed[field.name] = np.full_like(value, np.nan)
        elif how == "nan" and isinstance(value, float):
            changed[field.name] = float("nan")
        elif how == "empty" and isinstance(value, np.ndarray):
            changed[field.name] = value[:0]
        elif how == "text" and is_text:
            changed[field.name] = np.array([f"{text}{at}" for at in range(value.size)]).reshape(
                value.shape
            )
        elif how == "text" and isinstance(value, str):
            changed[field.name] = text
    return dataclasses.replace(result, **changed)


def check(html: str) -> Page:
    """What holds of every page, whatever its run holds."""
    page = Page(html)
    running = [s for s in page.scripts if s.get("type") not in OURS]
    assert len(running) == 1, "one script, ours"
    assert page.bad == []
    assert len(page.ids) == len(set(page.ids)), "ids are unique"
    ours = html.partition("<style>")[0] + html.partition("</style>")[2].rpartition("<script>")[0]
    odd = {c for c in ours if not c.isprintable() and c != "\n"}
    assert odd == set()
    list(blocks(html))
    return page


TEXT = (
    st.text(min_size=1, max_size=40)
    | st.sampled_from(NASTY)
    | st.lists(st.sampled_from(NASTY), max_size=4).map("".join)
)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(text=TEXT)
@example(text="".join(NASTY[:-1]))
def test_any_text_anywhere_is_only_ever_text(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    """In results, names of results, the model's and the corpus' name, the command, the vocabulary."""
    folder = tmp_path_factory.mktemp("hostile")
    name = re.sub(r"[/\x00]|^\.*$", "_", text.encode(errors="replace").decode())[:60] or "x"
    results: dict[str, Result] = {
        name: Texts(words=np.array([text, text, "b"]), curve=np.arange(3.0), note=text)
    }
    for kind in ("ablation_story", "sae_comparison", "self_check"):
        results[kind] = spoiled(EXAMPLES[kind](0), "text", text)
    run = run_with(
        folder / "run.h5", results, model={"name": text}, corpus={"description": text},
        command=["fluoroscope", text],
    )  # fmt: skip
    html = build_report(run, folder / "page.html").read_text(encoding="utf-8")
    check(html)
    assert "alert(1)</script>" not in html
    assert not re.search(r"<img\b", html)


def test_texts_that_look_like_markup_can_be_read(tmp_path: Path) -> None:
    text = "<filename>&lt;{{ 7*7 }}"
    run = run_with(
        tmp_path / "run.h5", {"texts": Texts(words=np.array([text]), curve=np.ones(1), note=text)}
    )
    page = check(build_report(run).read_text())
    assert "".join(page.text).count(text) >= 2


@pytest.fixture(scope="module")
def hollow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Run, str]]:
    """Pages of every kind of result, all NaN and all empty."""
    folder = tmp_path_factory.mktemp("hollow")
    made = {}
    for how in ("nan", "empty"):
        results = {kind: spoiled(make(0), how) for kind, make in EXAMPLES.items()}
        run = run_with(folder / f"{how}.h5", results)
        made[how] = (run, build_report(run).read_text())
    return made


@pytest.mark.parametrize("how", ["nan", "empty"])
def test_results_without_numbers_give_a_page_that_says_so(hollow: Any, how: str) -> None:
    _, html = hollow[how]
    page = check(html)
    for kind in EXAMPLES:
        assert kind in page.ids, f"{kind} has its section"
    told = " ".join(page.text)
    if how == "nan":
        assert told.count("none of its measured numbers is finite") >= 25
        assert BLANK in told
    else:
        assert "all of its arrays are empty" in told
    for part in re.findall(r'<p class="(?:reading|finding)">(.*?)</p>|<b>(.*?)</b>', html):
        assert not re.search(r"\bnan\b", " ".join(part)), part


def test_empty_runs(tmp_path: Path) -> None:
    page = check(build_report(run_with(tmp_path / "run.h5", {})).read_text())
    assert "What could be added" in page.text


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused_and_leaves_no_page(tmp_path: Path, share: float) -> None:
    path = tmp_path / "run.h5"
    run_with(path, {"layer_stats": EXAMPLES["layer_stats"](0)})
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises((DamagedRunFileError, NotARunFileError), match="run.h5"):
        build_report(path)
    assert not path.with_suffix(".html").exists()


@pytest.mark.parametrize("number", range(8))
def test_a_corrupt_file_is_refused_or_drawn_but_never_half(tmp_path: Path, number: int) -> None:
    """Bytes overwritten at random: an error of ours or a whole page, and nothing else in the folder."""
    path = run_with(
        tmp_path / "run.h5", {"texts": Texts(words=np.array(["a"]), curve=np.ones(2), note="n")}
    ).path
    generator = np.random.default_rng(number)
    data = np.frombuffer(path.read_bytes(), dtype=np.uint8).copy()
    at = int(generator.integers(0, len(data) - 200))
    data[at : at + 200] = generator.integers(0, 256, 200)
    path.write_bytes(data.tobytes())
    page = tmp_path / "page.html"
    try:
        build_report(path, page)
    except RunFileError:
        assert not page.exists()
    else:
        check(page.read_text())
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["truncated", "text", "missing"])
def test_the_command_ends_with_code_3_and_says_why(tmp_path: Path, what: str) -> None:
    path = tmp_path / "run.h5"
    if what == "truncated":
        run_with(path, {})
        path.write_bytes(path.read_bytes()[:3000])
    elif what == "text":
        path.write_text("no run")
    command = [sys.executable, "-m", "fluoroscope", "report", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    assert "run.h5" in done.stderr
    assert not path.with_suffix(".html").exists()


def test_a_thousand_layers_are_a_page_within_bounds(tmp_path: Path, monkeypatch: Any) -> None:
    """Curves and maps over 1,000 layers: pictures are thinned and say so; the CSV holds every row."""
    for axis in ("layers", "attention layers", "decoder layers"):
        monkeypatch.setitem(examples.SIZES, axis, 1000)
    many = np.arange(1000)
    results: dict[str, Result] = {
        "layer_stats": examples.example(LayerStats, 0, layers=many),
        "attention_sinks": examples.example(AttentionSinks, 0, layers=many),
        "wide": Texts(
            words=np.array([f"w{n}" for n in range(20_000)]), curve=np.arange(1e6), note=""
        ),
    }
    run = run_with(tmp_path / "run.h5", results)
    started = time.monotonic()
    html = build_report(run).read_text()
    seconds = time.monotonic() - started
    told = f"{len(html) / 1e6:.2f} MB, {seconds:.1f} s, {len(Page(html).tags)} elements"
    sys.stdout.write(f"1,000 layers: {told}\n")
    check(html)
    assert len(html) < 4e6
    assert seconds < 60, "five seconds on an idle machine"
    assert len(Page(html).tags) < 30_000
    assert "the lowest and highest of each stretch; the CSV has all" in html
    kept = {section: value for section, kind, value in blocks(html) if kind == "kept"}
    assert kept["layer_stats"]["layer_stats-norms"]["csv"].count("\n") == 1001


def numbers(html: str) -> Iterator[tuple[str, list[list[str]]]]:
    """Cells of every figure's table, by figure."""
    for figure, body in re.findall(
        r'<figure class="[^"]*" id="([^"]*)".*?>(.*?)</figure>', html, re.DOTALL
    ):
        table = re.search(r'<table class="numbers">.*?<tbody>(.*?)</tbody>', body, re.DOTALL)
        if table:
            rows = re.findall(r"<tr>(.*?)</tr>", table[1])
            cells = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows]
            # A number may lead to a figure of its own.
            yield figure, [[re.sub(r"</?a\b[^>]*>", "", one) for one in row] for row in cells]


@pytest.mark.parametrize("kind", EXAMPLES)
def test_what_is_shown_is_what_is_stored(shown: tuple[Run, str], kind: str) -> None:
    """Every cell is the figure's own value, and the numbers of at least one column of every kind stand
    in the run file as shown; other columns may be derived (indices, shares, differences)."""
    run, html = shown
    with run.reading() as file:
        held = stored_numbers(file[f"results/{kind}"])
    tables = {figure: rows for figure, rows in numbers(html) if figure.startswith(f"{kind}-")}
    figures = [f for f in figures_of(run, only=[kind]) if f.n_rows]
    assert {f.id for f in figures} == set(tables)
    n_stored = 0
    for figure in figures:
        expected = [[_inert_text(value) for value in row] for row in figure.rows(50)]
        assert tables[figure.id] == expected
        for column in figure.data.values():
            floats = [v for v in column if isinstance(v, float) and np.isfinite(v)]
            n_stored += sum(cell(v) in held for v in floats) == len(floats) > 0
    with_floats = any(isinstance(v, float) for f in figures for c in f.data.values() for v in c)
    assert n_stored or not with_floats or kind in COUNTED, "some column is stored as it is shown"


def _inert_text(value: str) -> str:
    return (
        value
        .replace("&", "&amp;")
        .replace("<", "&lt;")
        .replace(">", "&gt;")
        .replace("'", "&#39;")
        .replace('"', "&#34;")
    )


def stored_numbers(group: h5py.Group) -> set[str]:
    """Every number of a group as a table would show it."""
    found: set[str] = set()
    for value in [*group.values(), *group.attrs.values()]:
        array = value[()] if isinstance(value, h5py.Dataset) else value
        if (
            isinstance(array, np.ndarray | np.generic | float | int)
            and np.asarray(array).dtype.kind in "fiu"
        ):
            found |= {cell(one) for one in np.asarray(array).ravel().tolist()}
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, str]:
    """A run with an example of every kind, and its page."""
    path = tmp_path_factory.mktemp("shown") / "run.h5"
    run = run_with(path, {kind: make(1) for kind, make in EXAMPLES.items()})
    return run, build_report(run).read_text()


def test_json_holds_what_a_browser_reads() -> None:
    """NaN and Infinity are no JSON: one of them made the whole block unreadable."""
    held = {"a": [1.0, float("nan"), (float("inf"), -2)], "b": {"c": float("-inf"), "d": "NaN"}}
    read = {"a": [1.0, None, [None, -2]], "b": {"c": None, "d": "NaN"}}
    assert json.loads(str(inert(held)), parse_constant=pytest.fail) == read
    text = f'<script type="text/plain" data-of="s" data-kind="kept">{block(held)}</script>'
    assert list(blocks(text)) == [("s", "kept", read)]


def test_json_blocks_cannot_end_their_element() -> None:
    text = str(inert({"a": "</script><!--\u2028"}))
    assert "<" not in text
    assert "\u2028" not in text
