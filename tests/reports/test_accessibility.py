"""Accessibility in a real browser (axe-core) and by arithmetic (contrast of text on every shade).

axe-core (MPL-2.0) comes inside the test-time package axe-playwright-python (MIT); it is run from the
test, is no part of the page and of nothing that is installed.
"""

import re
from pathlib import Path
from typing import Any

import pytest

STATIC = Path(__file__).resolve().parents[2] / "reports" / "static"


SCHEMES = [("light", "none"), ("dark", "none"), ("light", "active")]


@pytest.mark.browser
@pytest.mark.parametrize(("scheme", "forced"), SCHEMES, ids=["light", "dark", "forced colours"])
def test_axe_finds_no_violation(
    browser: Any, page: Path, axe: str, scheme: str, forced: str
) -> None:
    """Every table and the key help open, so that nothing hides from the rules."""
    context = browser.new_context(color_scheme=scheme, forced_colors=forced)
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]")
    tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    tab.wait_for_selector("details[open] noscript", state="detached")
    tab.evaluate(axe)
    found = tab.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    told = [
        (v["impact"], v["id"], [n["html"][:120] for n in v["nodes"][:3]])
        for v in found["violations"]
    ]
    assert told == []
    assert len(found["passes"]) >= 30, "the rules did run"
    tab.locator("#help").click()
    dialog = tab.evaluate("axe.run('dialog')")
    assert dialog["violations"] == []
    context.close()


@pytest.mark.browser
def test_axe_sees_what_is_wrong(browser: Any, page: Path, axe: str) -> None:
    """A canary: were the rules not run, the test above would pass whatever the page holds."""
    tab = browser.new_page()
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]")
    tab.evaluate("document.documentElement.removeAttribute('lang')")
    tab.evaluate(
        "document.getElementById('search').closest('label').replaceChildren(document.getElementById('search'))"
    )
    tab.evaluate("document.getElementById('search').removeAttribute('placeholder')")
    tab.evaluate(axe)
    found = {v["id"] for v in tab.evaluate("axe.run(document)")["violations"]}
    assert {"html-has-lang", "label"} <= found
    tab.close()


@pytest.mark.browser
def test_tab_reaches_every_figure_once_and_focus_is_never_lost(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]")
    stops = tab.evaluate(
        """() => [...document.querySelectorAll('.chart svg, .stream, .grid')].map(
             (root) => root.querySelectorAll('[tabindex="0"]').length)"""
    )
    assert stops
    assert set(stops) == {1}, "one tab stop per figure; arrows move inside"
    seen = set()
    for _ in range(40):
        tab.keyboard.press("Tab")
        where = tab.evaluate(
            """() => { const e = document.activeElement; const s = getComputedStyle(e);
                 return [e.tagName, e === document.body, s.outlineStyle !== 'none']; }"""
        )
        assert not where[1], "focus was lost"
        assert where[2], f"{where[0]} shows no focus"
        seen.add(where[0])
    assert {"A", "BUTTON", "INPUT"} <= seen
    small = tab.evaluate(
        """() => [...document.querySelectorAll('button, select, summary, nav a')].filter((e) => {
             const b = e.getBoundingClientRect(); return b.height && (b.height < 24 || b.width < 24); })
           .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == [], "targets are at least 24 px"
    tab.close()


def colours(block: str) -> dict[str, str]:
    return dict(re.findall(r"--([\w-]+):\s*([^;]+);", block))


def luminance(rgb: tuple[float, ...]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """WCAG contrast ratio of two colours with channels from 0 to 1."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def rgb(text: str) -> tuple[float, ...]:
    return tuple(int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_contrast_on_every_shade_and_series_on_the_card(theme: str) -> None:
    """Text 4.5:1 on paper, card and each of the nine shades; marks 3:1. axe leaves shades undecided."""
    assert contrast((0, 0, 0), (1, 1, 1)) == pytest.approx(21)
    css = (STATIC / "report.css").read_text()
    blocks = re.findall(r"(:root[^{]*)\{([^}]*--paper[^}]*)\}", css)
    dark = [body for head, body in blocks if 'data-theme="dark"' in head and ":not" not in head]
    held = colours(dark[0] if theme == "dark" else blocks[0][1])
    ink, soft, card = (rgb(held[name]) for name in ("ink", "soft", "card"))
    heat = tuple(int(part) / 255 for part in held["heat"].split(","))
    for ground in ("paper", "card"):
        assert contrast(ink, rgb(held[ground])) >= 4.5
        assert contrast(soft, rgb(held[ground])) >= 4.5
        assert contrast(rgb(held["accent"]), rgb(held[ground])) >= 4.5
    shares = [float(share) for share in re.findall(r"heat-max\) \* ([\d.]+)\)", css)] + [1.0]
    assert len(shares) == 8
    for share in shares:
        alpha = float(held["heat-max"]) * share
        shade = tuple(alpha * h + (1 - alpha) * c for h, c in zip(heat, card, strict=True))
        assert contrast(ink, shade) >= 4.5, (theme, share, contrast(ink, shade))
    for number in range(1, 6):
        assert contrast(rgb(held[f"series-{number}"]), card) >= 3, (theme, number)


def test_both_dark_palettes_are_the_same() -> None:
    """One for a dark system, one for the switch; CSS cannot share them without a script."""
    css = (STATIC / "report.css").read_text()
    palettes = [
        colours(body) for body in re.findall(r":root[^{]*\{([^}]*color-scheme: dark[^}]*)\}", css)
    ]
    assert len(palettes) == 2
    assert palettes[0] == palettes[1]
