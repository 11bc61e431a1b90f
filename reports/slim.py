"""SVG from the converter made small: the same picture in a fifth of the bytes and elements.

The converter writes for every mark and every grid line an element with all of its attributes, numbers
to 16 digits, and the label a screen reader says; a page of a hundred charts is then mostly that. Here
numbers are rounded to what a screen can show, attributes that neighbours share move to their group,
grid lines become one path, circles circles, and groups that say nothing go. The labels of marks and
axes are handed back apart: the page keeps them compressed and its script puts them where they were.
Without the script the picture is one image with a text in its place, and its table stands below.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple
from xml.etree.ElementTree import Element

from .tokens import printable

SVG = "{http://www.w3.org/2000/svg}"
INHERITED = (
    "fill", "stroke", "stroke-width", "stroke-opacity", "fill-opacity", "stroke-dasharray",
    "font-family", "font-size", "font-weight", "text-anchor",
)  # fmt: skip
_SPOKEN = ("role", "aria-label", "aria-roledescription", "aria-hidden", "class", "version")
_NUMBER = re.compile(r"-?\d*\.\d+(?:e-?\d+)?")
_RGB = re.compile(r"rgb\((\d+), (\d+), (\d+)\)")
_SHIFT = re.compile(r"translate\((-?[\d.]+),(-?[\d.]+)\)")
_CIRCLE = re.compile(r"M([\d.]+),0A\1,\1,0,1,1,-\1,0A\1,\1,0,1,1,\1,0")
_MOVED = ("path", "line", "circle", "text")


class Label(NamedTuple):
    """What a mark or an axis says."""

    element: int
    """Number of the element among the picture's descendants, in document order."""
    kind: str
    """What it is: "point", "axis", "bar" ..."""
    text: str
    """Its label: names and values."""


def slim(root: Element) -> list[Label]:
    """Make a picture small, in place.

    Args:
        root: The `svg` element.

    Returns:
        The labels taken out, in document order.
    """
    said: dict[Element, tuple[str, str]] = {}
    for element in root.iter():
        kind, text = element.get("aria-roledescription"), element.get("aria-label")
        if kind and text and element is not root:
            said[element] = (kind, printable(text))
        for name in _SPOKEN:
            element.attrib.pop(name, None)
        _round(element)
    _flatten(root, said)
    for group in root.iter(f"{SVG}g"):
        if not any(child in said for child in group):
            _join_lines(group)
        _hoist(group)
    _hoist_fonts(root)
    numbers = {element: number for number, element in enumerate(root.iter())}
    return [Label(numbers[element] - 1, *text) for element, text in said.items()]


def _tag(element: Element) -> str:
    return element.tag.removeprefix(SVG)


def _round(element: Element) -> None:
    """Numbers to a tenth of a pixel (areas to a hundredth, or they gape), colours to hex."""
    tag = _tag(element)
    for name, value in element.attrib.items():
        if name in ("fill", "stroke", "stop-color"):
            value = _RGB.sub(lambda m: "#{:02x}{:02x}{:02x}".format(*map(int, m.groups())), value)
        elif name in ("d", "transform", "x", "y", "x1", "x2", "y1", "y2"):
            shorten = _area if name == "d" and value.endswith("Z") else _place
            value = _NUMBER.sub(shorten, value)
        element.set(name, value.removesuffix("px") if name == "font-size" else value)
    circle = _CIRCLE.fullmatch(element.get("d", ""))
    if tag == "path" and circle:
        element.tag, tag = f"{SVG}circle", "circle"
        del element.attrib["d"]
        element.set("r", circle[1])
    place = _SHIFT.fullmatch(element.get("transform", ""))
    if place and tag in ("circle", "text"):
        names = ("cx", "cy") if tag == "circle" else ("x", "y")
        del element.attrib["transform"]
        element.attrib.update(zip(names, place.groups(), strict=True))
    if place and place[1] == place[2] == "0":
        element.attrib.pop("transform", None)
    for name in ("opacity", "fill-opacity", "stroke-opacity"):
        if element.get(name) == "1":
            del element.attrib[name]
    if tag in _MOVED and "stroke" not in element.attrib:
        element.attrib.pop("stroke-width", None)
    if tag == "text" and element.get("font-weight") == "normal":
        del element.attrib["font-weight"]


def _place(number: re.Match[str]) -> str:
    return _short(f"{float(number[0]):.1f}")


def _area(number: re.Match[str]) -> str:
    return _short(f"{float(number[0]):.2f}")


def _short(number: str) -> str:
    text = number.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _flatten(element: Element, said: dict[Element, tuple[str, str]]) -> None:
    """Drop what neither paints nor says anything and unwrap groups that say nothing."""
    kept: list[Element] = []
    for child in element:
        _flatten(child, said)
        tag, drawn = _tag(child), child.get("fill", "none") + child.get("stroke", "none")
        unseen = tag == "path" and (not child.get("d") or drawn == "nonenone")
        empty = tag == "text" and not (child.text or len(child))
        if (unseen or empty) and child not in said:
            continue
        if tag == "g" and child not in said and (not child.attrib or not len(child)):
            kept += list(child)
        else:
            kept.append(child)
    element[:] = kept


def _join_lines(group: Element) -> None:
    """Straight lines that look the same become one path."""
    lines = list(group)
    if len(lines) < 2 or any(_tag(line) != "line" for line in lines):
        return
    ends = ("transform", "x1", "y1", "x2", "y2")
    looks = {tuple(sorted((k, v) for k, v in e.attrib.items() if k not in ends)) for e in lines}
    places = [_SHIFT.fullmatch(line.get("transform", "translate(0,0)")) for line in lines]
    if (
        len(looks) > 1
        or not all(places)
        or any("x1" in e.attrib or "y1" in e.attrib for e in lines)
    ):
        return
    path = Element(f"{SVG}path", dict(looks.pop()))
    parts = []
    for line, place in zip(lines, places, strict=True):
        assert place is not None
        x, y = line.get("x2", "0"), line.get("y2", "0")
        run = f"v{y}" if x == "0" else f"h{x}" if y == "0" else f"l{x},{y}"
        parts.append(f"M{place[1]},{place[2]}{run}")
    path.set("d", "".join(parts))
    group[:] = [path]


def _hoist(group: Element) -> None:
    """Attributes all children have move to the group in their most frequent value."""
    if len(group) < 2:
        return
    for name in INHERITED:
        values = [child.get(name) for child in group]
        if None in values:
            continue
        common, count = Counter(values).most_common(1)[0]
        assert common is not None
        if count > 1:
            group.set(name, common)
            for child in group:
                if child.get(name) == common:
                    del child.attrib[name]


def _hoist_fonts(root: Element) -> None:
    families = {e.get("font-family") for e in root.iter() if e.get("font-family")}
    if len(families) == 1:
        for element in root.iter():
            element.attrib.pop("font-family", None)
        root.set("font-family", families.pop() or "")
