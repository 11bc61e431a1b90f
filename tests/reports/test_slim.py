"""Pictures made small: what they say is kept."""

from xml.etree import ElementTree

from fluoroscope.reports.slim import slim

PICTURE = """<svg xmlns="http://www.w3.org/2000/svg"><g>
<path aria-roledescription="point" aria-label="layer: 1; size: 3" d="M0,0" fill="none"/>
<path d="M0,0" fill="none"/>
<path aria-roledescription="point" aria-label="layer: 2; size: 4" d="M1,1" fill="#000"/>
</g></svg>"""


def test_a_mark_that_paints_nothing_still_says_its_numbers() -> None:
    root = ElementTree.fromstring(PICTURE)
    labels = slim(root)
    assert [label.text for label in labels] == ["layer: 1; size: 3", "layer: 2; size: 4"]
    elements = list(root.iter())
    assert [elements[label.element + 1].get("d") for label in labels] == ["M0,0", "M1,1"]
    assert len([one for one in elements if one.tag.endswith("path")]) == 2
