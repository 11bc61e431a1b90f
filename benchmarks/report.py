"""The page's budgets on a run file: seconds to draw it, bytes, seconds until a browser has it ready.

    python benchmarks/report.py out/run.h5

Draws the page `--times` times in this process (imports apart) and opens it as often in headless
Chromium from disk, in a tab of its own each time; prints medians with the range. The budgets (3 MB,
15 s on two cores, 1 s) are those of the demo run.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from fluoroscope.reports import build_report
from fluoroscope.reports.pdf import find_browser

MB, DRAW_S, LOAD_S = 3.0, 15.0, 1.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        drawn = []
        for _ in range(given.times):
            started = time.perf_counter()
            build_report(given.run, page)
            drawn.append(time.perf_counter() - started)
        loaded, elements = _load(page, given.times)
        size = page.stat().st_size / 1e6
    print(f"{platform.machine()}, Python {platform.python_version()}, {given.times} times each")
    print(f"size    {size:6.2f} MB   (budget {MB:g})")
    print(f"draw    {_told(drawn)}   (budget {DRAW_S:g})")
    print(f"ready   {_told(loaded)}   (budget {LOAD_S:g})")
    print(f"elements when ready: {elements:,}")


def _load(page: Path, times: int) -> tuple[list[float], int]:
    """Seconds from navigation to `data-ready`, by the page's own clock, and elements then."""
    loaded, elements = [], 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        for _ in range(times):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.add_init_script(
                "addEventListener('DOMContentLoaded', () => new MutationObserver(() => {"
                " self.readyAt ??= performance.now(); }).observe(document.body,"
                " { attributeFilter: ['data-ready'] }));"
            )
            tab.goto(page.as_uri())
            tab.wait_for_selector("body[data-ready]")
            loaded.append(tab.evaluate("self.readyAt ?? performance.now()") / 1000)
            elements = tab.evaluate("document.querySelectorAll('*').length")
            tab.close()
        browser.close()
    return loaded, elements


def _told(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):6.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"


if __name__ == "__main__":
    main()
