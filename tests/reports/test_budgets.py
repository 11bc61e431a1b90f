"""Budgets: bytes and elements are asserted; seconds depend on the machine, so they are printed.

`benchmarks/report.py` measures the demo run's page.
"""

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fluoroscope.probes import open_run
from fluoroscope.probes.results import Result
from fluoroscope.reports import build_report
from fluoroscope.reports.page import STANDING
from tests.reports.examples import EXAMPLES
from tests.reports.test_hostile import Page, Texts, run_with

STATIC = Path(__file__).resolve().parents[2] / "reports" / "static"


@pytest.fixture(scope="module")
def middling(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """The page of a run with every kind of result three times over: some 250 figures."""
    results: dict[str, Result] = {
        f"{kind}_{n}": make(n) for kind, make in EXAMPLES.items() for n in range(3)
    }
    run = run_with(tmp_path_factory.mktemp("middling") / "run.h5", results)
    started = time.monotonic()
    page = build_report(run)
    return page, time.monotonic() - started


def test_a_page_without_data_is_small(tmp_path: Path) -> None:
    page = build_report(run_with(tmp_path / "run.h5", {}))
    assert page.stat().st_size <= 120_000
    assert (STATIC / "report.js").stat().st_size <= 40_000


def test_bytes_and_elements_per_figure(middling: tuple[Path, float]) -> None:
    page, seconds = middling
    html = page.read_text()
    n_figures, n_elements = html.count("<figure"), len(Page(html).tags)
    told = (
        f"{n_figures} figures, {len(html) / 1e6:.2f} MB, {n_elements:,} elements, {seconds:.1f} s"
    )
    sys.stdout.write(f"middling page: {told}\n")
    assert n_figures > 200
    assert len(html) / n_figures < 15_000, "3 MB hold two hundred figures"
    assert n_elements / n_figures < 150


def test_what_the_script_needs_is_less_than_what_is_read(middling: tuple[Path, float]) -> None:
    """Labels, tooltips, CSV and specifications, compressed, against pictures and tables."""
    html = middling[0].read_text()
    packed = sum(len(part.partition("</script>")[0]) for part in html.split('data-kind="')[1:])
    assert packed < 0.4 * len(html)


@pytest.mark.browser
def test_a_middling_page_is_ready_soon(middling: tuple[Path, float], browser: Any) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    started = time.monotonic()
    tab.goto(middling[0].as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=30_000)
    sys.stdout.write(f"ready after {time.monotonic() - started:.2f} s\n")
    layouts = tab.evaluate(
        """() => { const s = performance.now(); document.body.getBoundingClientRect();
                 return performance.now() - s; }"""
    )
    assert layouts < 1000, "cards far away are not laid out"
    standing = tab.evaluate("document.querySelectorAll('*').length")
    written = len(Page(middling[0].read_text()).tags)
    sys.stdout.write(f"{standing} elements at load, {written} without script\n")
    assert standing < 0.8 * written, "closed tables stand as text"
    assert standing / tab.locator("figure").count() < 100
    tab.close()


@pytest.mark.browser
def test_figures_far_down_are_made_when_one_comes_near(tmp_path: Path, browser: Any) -> None:
    """Of 80 figures 64 stand in the page, the script makes the others, the search finds all."""
    fields = {f"field_{n:02d}": np.arange(3.0) + n for n in range(80)}
    run = run_with(
        tmp_path / "run.h5", {"many": Texts(words=np.array(["a"]), curve=np.ones(2), note="n")}
    )
    with run.edit() as file:
        del (
            file["results/many/words"],
            file["results/many/curve"],
            file["results/many"].attrs["note"],
        )
        for name, values in fields.items():
            file[f"results/many/{name}"] = values
    html = build_report(open_run(run.path)).read_text()
    assert html.count("<svg") == STANDING
    assert html.count("data-later") - html.count("[data-later]") >= 80 - STANDING
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(run.path.with_suffix(".html").as_uri())
    tab.wait_for_selector("body[data-ready]")
    last = tab.locator("#many-field_79")
    assert last.locator("svg").count() == 0
    last.scroll_into_view_if_needed()
    last.locator("svg [tabindex='0']").wait_for(state="attached")
    assert last.locator("tbody tr").count() == 3
    assert last.locator("svg").get_attribute("viewBox"), "attributes of SVG keep their case"
    with tab.expect_download() as download:
        last.locator("[data-save='csv']").click()
    assert Path(download.value.path()).read_text().splitlines()[1:] == [
        "0,79.0",
        "1,80.0",
        "2,81.0",
    ]
    tab.locator("#search").fill("field_70")
    tab.locator("#many-field_70 svg").wait_for(state="attached")
    assert not tab.locator("#many-field_69").is_visible()
    assert complaints == []
    tab.close()
