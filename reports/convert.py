"""Charts to SVG, in one child process.

The converter aborts the whole process on some characters; in a child that becomes an error that names
the figure. What comes back is parsed and reduced to an allow-list of SVG before it reaches a page.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from ..probes.errors import FluoroscopeError
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


class ChartError(FluoroscopeError, RuntimeError):
    """A chart could not be drawn; the message names the figure."""


def to_svg(figures: Sequence[Figure]) -> dict[str, Markup]:
    """SVG by figure id, safe to put in a page.

    Raises:
        ChartError: The converter failed on a figure.
    """
    drawn = [figure for figure in figures if figure.chart is not None]
    if not drawn:
        return {}
    lines = "\n".join(json.dumps(figure.vega_lite()) for figure in drawn)
    code = (
        "import sys, json, vl_convert\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps(vl_convert.vegalite_to_svg(json.loads(line))), flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=False
    )
    pictures = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('"')]
    if len(pictures) < len(drawn):
        failed = drawn[len(pictures)]
        raise ChartError(
            f"Figure {failed.id} ({failed.question}) could not be drawn: the converter ended with "
            f"code {done.returncode}. {done.stderr.strip()[-300:]}"
        )
    return {
        figure.id: clean_svg(picture, label=figure.alt or figure.reading, prefix=figure.id)
        for figure, picture in zip(drawn, pictures, strict=True)
    }


def clean_svg(svg: str, *, label: str, prefix: str) -> Markup:
    """SVG reduced to known elements and attributes, ids made unique, sized by its view box."""
    ElementTree.register_namespace("", SVG)
    root = ElementTree.fromstring(svg)
    _clean(root, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "group")
    root.set("aria-label", label)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


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
