"""The skyline: a bar per size that counts, as high as it says, from two sides."""

import re

import numpy as np
import pytest

from fluoroscope.reports.skyline import LEAST, TALL, n_bars, skyline


def drawn(sizes: np.ndarray) -> str:
    names = [[f"<{side}{i}>" for i in range(n)] for side, n in zip("rc", sizes.shape, strict=True)]
    return str(skyline(sizes, *names, row_title="token", column_title="dim"))


def heights(svg: str) -> list[float]:
    """Height of every bar: its first side's ground corner over its roof corner."""
    sides = re.findall(r'<g data-tip[^>]*><path d="M([^"]*)Z', svg)
    found = []
    for side in sides:
        corners = [tuple(map(float, corner.split())) for corner in side.split("L")]
        found.append(corners[0][1] - corners[3][1])
    return found


def test_bars_are_as_high_as_their_numbers() -> None:
    sizes = np.array([[100.0, 50.0, 0.9], [0.0, 25.0, 1.1]])
    views = drawn(sizes).split("</svg>")[:2]
    assert n_bars(sizes) == 4, "0.9 of 100 is under one per cent"
    for view in views:
        np.testing.assert_allclose(
            sorted(heights(view)), [TALL * share for share in (0.011, 0.25, 0.5, 1.0)], atol=0.11
        )
    assert LEAST == 0.01


def test_near_bars_are_drawn_last() -> None:
    """Of two bars in line the nearer one hides the farther, so it comes later."""
    tips = re.findall(r'data-tip="([^"]*)"', drawn(np.ones((2, 2))))
    assert [tip.partition(":")[0] for tip in tips[:4]] == [
        "token &lt;r0&gt;, dim &lt;c0&gt;", "token &lt;r0&gt;, dim &lt;c1&gt;",
        "token &lt;r1&gt;, dim &lt;c0&gt;", "token &lt;r1&gt;, dim &lt;c1&gt;",
    ]  # fmt: skip
    assert tips[4].startswith("token &lt;r1&gt;, dim &lt;c1&gt;"), "turned by half a turn"


@pytest.mark.parametrize("sizes", [np.zeros((2, 3)), np.zeros((0, 3)), np.full((1, 1), 7.0)])
def test_odd_tables_are_drawn(sizes: np.ndarray) -> None:
    svg = drawn(sizes)
    assert svg.count("<svg") == 2
    assert "nan" not in svg
    assert svg.count("<g data-tip") == 2 * n_bars(sizes)
