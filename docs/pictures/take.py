"""Pictures of a page for the documentation: light, dark, narrow, on paper.

    python docs/pictures/take.py out/report.html --out docs/pictures

Takes the top of the page at 1280 px in light and dark, at 390 px (a telephone's width), and the first
sheet as it is printed; further sections by their address (`--section logit_lens`). A Chromium must be
installed (or named with FLUOROSCOPE_CHROMIUM), and playwright (`make setup` brings it).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from fluoroscope.reports.pdf import find_browser

SHEET = {"width": 794, "height": 1123}
"""A4 at 96 pixels per inch."""
N_COLOURS = 64
VIEWS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 1600}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 1600}, "color_scheme": "dark"},
    "narrow": {"viewport": {"width": 390, "height": 1600}, "color_scheme": "light"},
    "print": {"viewport": SHEET, "color_scheme": "light"},
}


def take(page: Path, folder: Path, *, sections: list[str], views: list[str]) -> list[Path]:
    """Take the pictures.

    Args:
        page: The report.
        folder: Where the PNG files go.
        sections: Ids of sections to take besides the top.
        views: Names among `VIEWS`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    taken = []
    with _browser() as browser:
        for view in views:
            context = browser.new_context(**VIEWS[view], device_scale_factor=1)
            tab = context.new_page()
            if view == "print":
                tab.emulate_media(media="print")
            tab.goto(page.resolve().as_uri())
            tab.wait_for_selector("body[data-ready]")
            for section in ["", *sections]:
                if section:
                    tab.evaluate(
                        "(id) => document.getElementById(id).scrollIntoView({ behavior: 'instant' })",
                        section,
                    )
                tab.wait_for_timeout(400)  # what has come near is laid out and painted
                path = folder / f"{'-'.join(filter(None, ('report', section, view)))}.png"
                tab.screenshot(path=path)
                with Image.open(path) as picture:
                    # A third of the bytes, and no difference to be seen on pages of few colours.
                    picture.convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE).save(
                        path, optimize=True
                    )
                taken.append(path)
            context.close()
    return taken


@contextmanager
def _browser() -> Iterator[Any]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=["--no-sandbox", "--hide-scrollbars"]
        )
        yield browser
        browser.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--section", action="append", default=[])
    parser.add_argument("--view", action="append", choices=sorted(VIEWS))
    given = parser.parse_args()
    views = given.view or list(VIEWS)
    for path in take(given.page, given.out, sections=given.section, views=views):
        print(path)  # noqa: T201 - a script's result


if __name__ == "__main__":
    main()
