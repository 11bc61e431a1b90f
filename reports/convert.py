"""Charts to SVG, PDF and PNG, in child processes.

The converter aborts the whole process on some characters; in a child that becomes an error that names
the figure. What comes back as SVG for a page is parsed, reduced to an allow-list and made small before
it gets there.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from xml.etree import ElementTree

from markupsafe import Markup

from ..probes.errors import FluoroscopeError
from .slim import Label, slim

if TYPE_CHECKING:
    from .figure import Figure

SVG = "http://www.w3.org/2000/svg"
ELEMENTS = {
    "svg", "g", "path", "line", "rect", "circle", "text", "tspan", "title", "defs", "clipPath",
    "linearGradient", "stop", "image",
}  # fmt: skip
ATTRIBUTES = {
    "class", "width", "height", "viewBox", "version", "id", "d", "transform", "fill", "stroke",
    "stroke-width", "stroke-dasharray", "stroke-opacity", "fill-opacity", "opacity", "x", "y", "x1",
    "x2", "y1", "y2", "cx", "cy", "r", "text-anchor", "font-family", "font-size", "font-weight",
    "clip-path", "offset", "stop-color", "role", "aria-label", "aria-roledescription", "aria-hidden",
    "stroke-miterlimit", "stroke-linecap", "preserveAspectRatio", "href", "dx", "dy", "rx", "ry",
}  # fmt: skip
Kind = Literal["svg", "pdf", "png"]
PNG_SCALE = 2
MOST_CHILDREN, CHARTS_PER_CHILD = 4, 12
"""A child takes most of a second to start, which is what a dozen charts take."""
CHILD = """
import base64, json, sys
import vl_convert
draw = {
    "svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
    "pdf": lambda spec: vl_convert.vegalite_to_pdf(spec),
    "png": lambda spec: vl_convert.vegalite_to_png(spec, scale=float(sys.argv[2])),
}[sys.argv[1]]
for line in sys.stdin:
    print(">" + base64.b64encode(draw(json.loads(line))).decode(), flush=True)
"""


class ChartError(FluoroscopeError, RuntimeError):
    """A chart could not be drawn; the message names the figure."""


class Picture(NamedTuple):
    """A chart as a page takes it."""

    svg: Markup
    """Small, safe SVG: one image with a text in its place."""
    labels: list[Label]
    """What its marks and axes say, for the script to put back."""


def to_svg(figures: Sequence[Figure]) -> dict[str, Picture]:
    """Pictures by figure id, safe to put in a page.

    Raises:
        ChartError: The converter failed on a figure.
    """
    drawn = [figure for figure in figures if figure.chart is not None]
    pictures = draw([(figure, figure.vega_lite()) for figure in drawn], "svg")
    return {
        figure.id: page_svg(
            picture.decode(), label=figure.alt or figure.reading, prefix=f"picture-{at}"
        )
        for at, (figure, picture) in enumerate(zip(drawn, pictures, strict=True))
    }


def draw(
    charts: Sequence[tuple[Figure, dict[str, Any]]], kind: Kind, *, scale: float = PNG_SCALE
) -> list[bytes]:
    """Charts drawn by the converter, in their order.

    Args:
        charts: Figures (to name them in errors) and their specifications.
        kind: What to draw them as.
        scale: Pixels of a PNG per unit of the chart.

    Raises:
        ChartError: The converter failed on a figure.
    """
    if not charts:
        return []
    most = min(os.cpu_count() or 1, MOST_CHILDREN, -(-len(charts) // CHARTS_PER_CHILD))
    size = -(-len(charts) // most)
    parts = [charts[start : start + size] for start in range(0, len(charts), size)]
    with ThreadPoolExecutor(len(parts)) as pool:
        drawn = list(pool.map(lambda part: _draw(part, kind, scale), parts))
    return [picture for part in drawn for picture in part]


def _draw(charts: Sequence[tuple[Figure, dict[str, Any]]], kind: Kind, scale: float) -> list[bytes]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(scale)],
        input="\n".join(json.dumps(spec) for _, spec in charts),
        capture_output=True,
        text=True,
        check=False,
    )
    pictures = [base64.b64decode(l[1:]) for l in done.stdout.splitlines() if l.startswith(">")]
    if len(pictures) < len(charts):
        failed = charts[len(pictures)][0]
        raise ChartError(
            f"Figure {failed.id} ({failed.question}) could not be drawn: the converter ended with "
            f"code {done.returncode}. {done.stderr.strip()[-300:]}"
        )
    return pictures


def page_svg(svg: str, *, label: str, prefix: str) -> Picture:
    """SVG for a page: known elements and attributes only, ids unique, small, sized by its view box.

    Args:
        svg: What the converter drew.
        label: What stands in the picture's place.
        prefix: Put before every id.
    """
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    _clean(root, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    labels = slim(root)
    root.set("role", "img")
    root.set("aria-label", label)
    return Picture(Markup(ElementTree.tostring(root, encoding="unicode")), labels)


def _clean(element: ElementTree.Element, prefix: str) -> None:
    for child in list(element):
        if child.tag.removeprefix(f"{{{SVG}}}") not in ELEMENTS:
            element.remove(child)
        else:
            _clean(child, prefix)
    for name, value in list(element.attrib.items()):
        bare = name.rpartition("}")[2]
        external = bare == "href" and not value.startswith(("data:image/png", "#"))
        if bare not in ATTRIBUTES or external:
            del element.attrib[name]
        elif bare == "id":
            element.set(name, f"{prefix}-{value}")
        elif "url(#" in value:
            element.set(name, value.replace("url(#", f"url(#{prefix}-"))
