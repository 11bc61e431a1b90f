"""The page: from a run file alone, the same bytes each time, and safe in a real browser."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.probes import (
    capture_corpus,
    check_sites,
    create_run,
    from_texts,
    open_run,
    wrap_model,
)
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.readings import (
    attention_sinks,
    find_massive,
    layer_stats,
    linear_probe,
    logit_lens,
    next_token,
    texts_of,
)
from fluoroscope.probes.results import Result, described
from fluoroscope.probes.runfile import Provenance
from fluoroscope.reports import build_report
from fluoroscope.reports.section import read_stored
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(1)> \u202e{{ 7*7 }} \x00"


@dataclass(frozen=True, kw_only=True)
class Unknown(Result):
    kind: ClassVar[str] = "nobody_draws_this"
    curve: np.ndarray = described("some curve", axes=("steps",), unit="nats")
    words: np.ndarray = described("hostile words", axes=("words",))
    empty: np.ndarray = described("nothing", axes=("none",))
    note: str = described("a note")


@pytest.fixture(scope="module")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of result, hostile text in prompts and names."""
    folder = tmp_path_factory.mktemp("page")
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="<b>tiny</b>")
    texts = [f"def f{n}(x):\n    return x + {n}  # number {n}\n" * 3 for n in range(10)]
    run = capture_corpus(
        model,
        from_texts(texts, "<i>texts</i>"),
        "layers.*.resid_post",
        folder / "run.h5",
        context=96,
    )
    some = texts_of(run, n_tokens=400)
    massive = find_massive(model, some, absolute=None, ratio=5.0)
    for name, result in {
        "self_check": check_sites(model),
        "layer_stats": layer_stats(model, some),
        "next_token": next_token(model, some),
        "massive_activations": massive,
        "attention_sinks": attention_sinks(model, texts_of(run, n_tokens=256, cut=64)),
        "logit_lens": logit_lens(model, some),
        "linear_probe": linear_probe(run, "python-class", ["layers.1.resid_post"], max_tokens=900),
        "strange": Unknown(
            curve=np.array([1.0, np.nan, 3.0]),
            words=np.array([HOSTILE]),
            empty=np.zeros((0, 2)),
            note=HOSTILE,
        ),
    }.items():
        run.add_result(name, result)
    engine = make_engine(model, "plain")
    rules = Stopping(max_new_tokens=30, ignore_eos=True)
    save_generations(run, engine, engine.generate([HOSTILE, "ab"], stopping=rules))
    return folder / "run.h5"


@pytest.fixture(scope="module")
def page(run_path: Path) -> Path:
    return build_report(run_path, run_path.with_name("page.html"))


def test_the_same_run_gives_the_same_bytes(run_path: Path, page: Path, tmp_path: Path) -> None:
    assert build_report(run_path, tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_everything_is_there_without_script(page: Path) -> None:
    html = page.read_text()
    for heading in ("Next-token loss", "Logit lens", "Massive activations", "Attention sinks",
                    "Linear probe: python-class", "Generation: plain", "strange"):  # fmt: skip
        assert f">{heading}</h2>" in html, heading
    assert "tuned lens" in html.partition('id="missing"')[2], "what is missing names its command"
    assert "fluoroscope lens run.h5 --tuned" in html


def test_hostile_text_is_only_ever_text(page: Path) -> None:
    html = page.read_text()
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "<b>tiny</b>" not in html
    assert "\u202e" not in html
    assert "\x00" not in html
    assert "7*7" in html
    assert html.count("<script>") == 1
    inert = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert inert
    assert not any("<" in block for block in inert)


def test_budgets(page: Path) -> None:
    assert page.stat().st_size < 3e6
    static = Path(__file__).resolve().parents[2] / "reports" / "static"
    assert (static / "report.js").stat().st_size <= 40_000
    assert sum(path.stat().st_size for path in static.iterdir()) <= 120_000


def test_templates_never_switch_escaping_off() -> None:
    folder = Path(__file__).resolve().parents[2] / "reports" / "templates"
    for template in folder.glob("*.j2"):
        text = template.read_text()
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text


def test_odd_runs_still_give_a_page(tmp_path: Path, run_path: Path) -> None:
    with create_run(tmp_path / "empty.h5", provenance=Provenance()) as writer:
        writer.close()
    html = build_report(tmp_path / "empty.h5").read_text()
    assert "What could be added" in html
    only = build_report(run_path, tmp_path / "only.html", only=["next_token"]).read_text()
    assert "Attention sinks</h2>" not in only
    with pytest.raises(OptionError, match="holds no nonsense; it holds"):
        build_report(run_path, only=["nonsense"])
    with pytest.raises(OptionError, match="more than max_mb=0.01"):
        build_report(run_path, tmp_path / "large.html", max_mb=0.01)
    assert not (tmp_path / "large.html").exists()


def test_an_unknown_attribute_of_a_result_is_an_error(run_path: Path) -> None:
    run = open_run(run_path)
    with run.reading() as file:
        stored = read_stored("strange", file["results/strange"])
    with pytest.raises(AttributeError, match="result strange holds no colour"):
        _ = stored.colour


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = os.environ.get("FLUOROSCOPE_CHROMIUM") or shutil.which("chromium")
    if not found:
        if os.environ.get("FLUOROSCOPE_REQUIRE_ALL") == "1":
            pytest.fail("Chromium must be installed here")
        pytest.skip("no Chromium: install it, or set FLUOROSCOPE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Opened:
    page: Any
    complaints: list[str]
    requests: list[str]


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Opened]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=20_000)
    yield Opened(tab, complaints, requests)
    tab.close()


@pytest.mark.browser
def test_the_page_is_silent_and_asks_for_nothing(opened: Opened) -> None:
    assert opened.complaints == []
    assert all(url.startswith(("file:", "data:")) for url in opened.requests)
    assert opened.page.evaluate("document.querySelectorAll('*').length") < 30_000
    assert opened.page.locator(".chart svg").count() >= 8
    sizes = opened.page.evaluate(
        "[...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().height)"
    )
    assert min(sizes) > 60, "every plot is drawn"


@pytest.mark.browser
def test_the_policy_stops_what_is_injected(opened: Opened) -> None:
    blocked = opened.page.evaluate(
        """() => { try { document.body.innerHTML = '<p>x</p>'; return 'written'; }
                   catch (error) { return error.name; } }"""
    )
    assert blocked == "TypeError", "strings cannot become markup"
    handler = opened.page.evaluate(
        """() => { try { document.createElement('img').setAttribute('onerror', 'x()'); return 'set'; }
                   catch (error) { return error.name; } }"""
    )
    assert handler == "TypeError", "nor handlers"
    opened.page.evaluate(
        """() => { const s = document.createElement('script');
                   try { s.textContent = 'document.title = "owned"'; } catch (error) { }
                   document.body.append(s); }"""
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.title() != "owned"


@pytest.mark.browser
@pytest.mark.parametrize("where", [".stream .tok", ".grid td", ".chart svg [tabindex='0']"])
def test_hover_and_focus_say_the_same(opened: Opened, where: str) -> None:
    item = opened.page.locator(where).first
    item.scroll_into_view_if_needed()
    item.hover(force=True)
    hovered = opened.page.locator("#tip").text_content()
    assert hovered
    opened.page.mouse.move(0, 0)
    item.focus()
    assert opened.page.locator("#tip").text_content() == hovered


@pytest.mark.browser
def test_arrow_keys_walk_a_stream_and_a_grid(opened: Opened) -> None:
    opened.page.locator(".stream .tok").first.focus()
    label = "document.activeElement.dataset.tip"
    seen = [opened.page.evaluate(label)]
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"):
        opened.page.keyboard.press(key)
        seen.append(opened.page.evaluate(label))
    assert seen[0] != seen[1] != seen[2]
    assert seen[3] == seen[1]
    opened.page.locator(".grid td").first.focus()
    before = opened.page.evaluate(label)
    opened.page.keyboard.press("ArrowDown")
    after = opened.page.evaluate(label)
    assert before.split(",")[1] == after.split(",")[1], "same column"
    assert before.split(",")[0] != after.split(",")[0], "another layer"


@pytest.mark.browser
def test_switches_search_and_help_work(opened: Opened) -> None:
    tab = opened.page
    token = tab.locator(".stream .tok").first
    before = token.get_attribute("class")
    tab.locator("#prompt-0 select.channel").select_option("none")
    assert " q" not in token.get_attribute("class")
    assert before != token.get_attribute("class")
    light = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    tab.locator("#theme").click()
    tab.locator("#theme").click()
    assert tab.locator("html").get_attribute("data-theme") == "dark"
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != light
    tab.keyboard.press("/")
    tab.keyboard.type("sinks")
    assert not tab.locator("#logit_lens").is_visible()
    assert tab.locator("#attention_sinks").is_visible()
    tab.locator("#search").fill("")
    tab.locator("#help").click()
    assert tab.locator("dialog#keys").is_visible()
    tab.keyboard.press("Escape")
    with tab.expect_download() as download:
        tab.locator("[data-save='csv'][data-name='next_token-positions']").click()
    text = Path(download.value.path()).read_text()
    assert text.startswith("position,loss (nats)")


@pytest.mark.browser
def test_what_is_shown_is_what_is_stored(opened: Opened, run_path: Path) -> None:
    run = open_run(run_path)
    with run.reading() as file:
        stored = file["results/logit_lens/kl"][()]
        ids = file["trace/plain/tokens/id"][()]
        probs = file["trace/plain/tokens/prob"][()]
    cells = opened.page.evaluate(
        "[...document.querySelectorAll('#logit_lens-kl tbody tr')].map(r => r.cells[1].textContent)"
    )
    np.testing.assert_allclose([float(cell) for cell in cells], stored, rtol=1e-3)
    tips = opened.page.evaluate(
        "[...document.querySelectorAll('.stream .tok')].map(t => t.dataset.tip)"
    )
    assert [int(re.search(r"\(id (\d+)", tip)[1]) for tip in tips] == ids.tolist()
    shown = [float(re.search(r"probability ([\d.]+)%", tip)[1]) / 100 for tip in tips]
    np.testing.assert_allclose(shown, probs, atol=6e-4)


@pytest.mark.browser
@pytest.mark.parametrize("width", [320, 1600])
def test_no_sideways_scrolling(browser: Any, page: Path, width: int) -> None:
    tab = browser.new_page(viewport={"width": width, "height": 800})
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


@pytest.mark.browser
def test_the_page_reads_with_scripts_off(browser: Any, page: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(page.as_uri())
    for heading in tab.locator("h2").all():
        if not heading.evaluate("h => !!h.closest('dialog')"):
            assert heading.is_visible()
    assert tab.locator(".chart svg").first.is_visible()
    assert tab.locator("noscript p").first.is_visible()
    context.close()
