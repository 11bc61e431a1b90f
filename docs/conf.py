"""Sphinx configuration: MyST pages, furo, everything offline; what code knows is written by `_ext`."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "fluoroscope"
author = "the fluoroscope authors"
release = metadata.version("fluoroscope")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",
    "from_code",
    "mathml",
]
exclude_patterns = ["_build", "_ext"]
source_suffix = {".md": "markdown"}

html_theme = "furo"
html_title = "fluoroscope"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"
"""Formulas as MathML, which browsers draw themselves: nothing is loaded from anywhere."""

myst_enable_extensions = ["deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
python_maximum_signature_line_length = 90
napoleon_numpy_docstring = False
default_role = "code"
suppress_warnings = ["ref.python"]
"""Rooms may name a thing alike; such a word is then no link."""
