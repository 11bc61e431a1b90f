"""The page: from a run file alone, the same bytes each time, and safe in a real browser."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluoroscope.probes import create_run, open_run
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.runfile import Provenance
from fluoroscope.reports import build_report
from fluoroscope.reports.figure import Figure
from fluoroscope.reports.packed import blocks
from fluoroscope.reports.page import layout
from fluoroscope.reports.section import read_stored
from tests.reports.conftest import Opened


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
    assert html.count("<script>") == 2, "the page's and the viewer's"
    inert = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.DOTALL)
    assert inert
    assert not any("<" in block for block in inert)
    packed = list(blocks(html))
    assert {kind for _, kind, _ in packed} == {"spoken", "kept"}
    assert html.count("<script") == 2 + len(inert) + len(packed), "no other script element"


def test_budgets(page: Path) -> None:
    assert page.stat().st_size < 3e6
    static = Path(__file__).resolve().parents[2] / "reports" / "static"
    assert (static / "report.js").stat().st_size <= 40_000
    assert sum(path.stat().st_size for path in static.rglob("*.*")) <= 120_000


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


def test_a_figure_without_a_neighbour_takes_the_row() -> None:
    """Half-width figures come in pairs; a wide one closes a row that is still open."""
    from markupsafe import Markup

    half = Figure(id="h", question="q", reading="r", data={}, html=Markup("x"))
    wide = Figure(id="w", question="q", reading="r", data={}, html=Markup("x"), wide=True)
    table = Figure(id="t", question="q", reading="r", data={"a": [1]})
    assert layout([half]) == ["alone"]
    assert layout([half, half, half]) == ["", "", "alone"]
    assert layout([half, half, wide, half]) == ["", "", "wide", "alone"]
    assert layout([half, table, half, half]) == ["alone", "wide", "", ""]
    assert layout([]) == []


def test_provenance_can_be_typed_again(run_path: Path) -> None:
    html = build_report(run_path, run_path.with_name("provenance.html")).read_text()
    table = html.partition('class="facts"')[2]
    assert "made by" in table
    assert re.search(r"layers\.\*\.resid_post \(\d\)", table), "sites by kind, not one by one"


def test_an_unknown_attribute_of_a_result_is_an_error(run_path: Path) -> None:
    run = open_run(run_path)
    with run.reading() as file:
        stored = read_stored("strange", file["results/strange"])
    with pytest.raises(AttributeError, match="result strange holds no colour"):
        _ = stored.colour


# In a browser ------------------------------------------------------------------------------------


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
    opened.page.wait_for_timeout(200)  # cards far away are laid out when they come near
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
    tab.locator("#v-quantity").select_option("none")
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
    opened.page.locator("#logit_lens-kl summary").click()
    opened.page.wait_for_selector("#logit_lens-kl .numbers")
    cells = opened.page.evaluate(
        "[...document.querySelectorAll('#logit_lens-kl tbody tr')].map(r => r.cells[1].textContent)"
    )
    np.testing.assert_allclose([float(cell) for cell in cells], stored, rtol=1e-3)


@pytest.mark.browser
def test_opened_tables_are_those_that_stand_without_script(
    opened: Opened, browser: Any, page: Path
) -> None:
    """The script makes closed tables from text; every element, class and hostile cell is the same."""
    tables = "() => [...document.querySelectorAll('.numbers')].map((t) => t.outerHTML)"
    context = browser.new_context(java_script_enabled=False)
    still = context.new_page()
    still.goto(page.as_uri())
    expected = still.evaluate(tables)
    assert len(expected) > 15
    assert any("alert(1)" in table for table in expected), "hostile text is among the cells"
    context.close()
    tab = opened.page
    assert len(tab.evaluate(tables)) < len(expected), "closed ones are not made"
    before = tab.evaluate("document.querySelectorAll('*').length")
    tab.evaluate("document.querySelectorAll('details.table').forEach((d) => { d.open = true; })")
    tab.wait_for_selector("details.table noscript", state="detached")
    assert tab.evaluate(tables) == expected
    assert tab.evaluate("document.querySelectorAll('*').length") > 1.2 * before
    assert opened.complaints == []


@pytest.mark.browser
def test_the_search_reads_closed_tables_but_not_their_markup(opened: Opened) -> None:
    tab = opened.page
    figure = tab.locator("#logit_lens-kl")
    held = figure.locator("noscript").text_content()
    number = re.findall(r"<td>(\d\.\d{3})</td>", held)[0]
    tab.locator("#search").fill(number)
    assert figure.is_visible()
    tab.locator("#search").fill(f"{number}12")
    assert not figure.is_visible()
    tab.locator("#search").fill("scope=")
    assert tab.locator("figure:visible").count() == 0


@pytest.mark.browser
def test_printing_opens_tables_a_page_can_hold(opened: Opened) -> None:
    tab = opened.page
    short, long_ = tab.locator("#layer_stats-norms"), tab.locator("#next_token-positions")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert short.locator("details").evaluate("(d) => d.open")
    assert 1 <= short.locator("tbody tr").count() <= 30
    assert not long_.locator("details").evaluate("(d) => d.open")
    assert long_.locator("tbody tr").count() == 0


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
