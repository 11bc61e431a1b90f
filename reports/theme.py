"""The look of charts: colours are CSS variables, so light and dark are the page's business.

Series colours are Okabe-Ito's in an order per theme that keeps 3:1 contrast (see report.css); never
more than five series, and a dash or shape besides the colour.
"""

from __future__ import annotations

from typing import Any

SERIES = tuple(f"var(--series-{number})" for number in range(1, 6))
LIGHT = ("#0072b2", "#c24e00", "#007a59", "#a8407a", "#111111")
"""The series' colours on white, as in report.css; the last is also the colour of text."""
HEAT = "viridis"
WIDTH, HEIGHT = 440, 220
"""Near the width of half a row, so that labels come out at the size they are set in."""
FONT = "system-ui, sans-serif"


def config() -> dict[str, Any]:
    """The Vega-Lite configuration of every chart."""
    text = {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "labelFont": FONT,
        "titleFont": FONT,
        "labelFontSize": 12,
        "titleFontSize": 12.5,
        "titleFontWeight": "normal",
    }
    return {
        "background": None,
        "padding": {"left": 6, "right": 18, "top": 8, "bottom": 6},
        "view": {"stroke": None},
        "axis": {
            **text,
            "domainColor": "currentColor",
            "domainOpacity": 0.4,
            "tickColor": "currentColor",
            "tickOpacity": 0.4,
            "gridColor": "currentColor",
            "gridOpacity": 0.1,
            "titlePadding": 8,
        },
        "legend": {
            **text,
            "orient": "top",
            "title": None,
            "symbolStrokeWidth": 2,
            "columnPadding": 26,
        },
        "header": {"labelColor": "currentColor", "titleColor": "currentColor"},
        "title": {"color": "currentColor", "font": FONT},
        "range": {"category": list(SERIES)},
    }
