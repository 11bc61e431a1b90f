"""Figures in notebooks: static HTML, no script, nothing to load."""

from __future__ import annotations

import base64

from markupsafe import Markup

from .figure import Figure


def figure_html(figure: Figure) -> str:
    """A figure as HTML that survives a notebook's sanitiser: heading, picture, reading."""
    picture = Markup("")
    if figure.chart is not None:
        import tempfile
        from pathlib import Path

        with tempfile.TemporaryDirectory() as folder:
            data = figure.save(Path(folder) / "figure.svg").read_bytes()
        source = f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"
        picture = Markup('<img alt="{}" src="{}">').format(figure.alt or figure.reading, source)
    head = Markup("<h4>{}</h4>").format(figure.question)
    return str(head + picture + Markup("<p>{}</p>").format(figure.reading))
