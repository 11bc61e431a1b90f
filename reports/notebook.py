"""Figures in notebooks: static HTML, no script, no style, nothing to load.

The picture is an image with the light palette's colours on white, for a notebook's own theme is not
known here; below it stand the first rows of the table, which stay where a sanitiser takes the picture.
"""

from __future__ import annotations

import base64
import re

from markupsafe import Markup

from .convert import draw, page_svg
from .figure import Figure
from .tokens import printable

MOST_BYTES = 200_000
"""A figure in a notebook is no larger than this."""
ROWS = 10
_BOX = re.compile(r'viewBox="0 0 (\S+) (\S+)"')


def figure_html(figure: Figure) -> str:
    """A figure as HTML that survives a notebook's sanitiser: heading, picture, reading, table."""
    parts = [_put("<h4>{}</h4>", figure.question)]
    if figure.chart is not None:
        parts.append(_picture(figure))
    parts.append(_put("<p>{}</p>", figure.reading))
    if figure.n_rows:
        parts.append(_table(figure))
    told = "; ".join(filter(None, (figure.n, figure.interval, *figure.caveats)))
    parts.append(_put("<p>{} <code>{}</code></p>", told, figure.source))
    return str(Markup("").join(parts))


def _picture(figure: Figure) -> Markup:
    label = figure.alt or figure.reading
    (drawn,) = draw([(figure, figure.on_paper(white=True))], "svg")
    small = page_svg(drawn.decode(), label=printable(label), prefix="picture").svg
    data = _BOX.sub(r'\g<0> width="\1" height="\2"', str(small), count=1).encode()
    kind = "svg+xml"
    if len(data) > MOST_BYTES // 2:  # base64 adds a third
        (data,) = draw([(figure, figure.on_paper(white=True))], "png", scale=1)
        kind = "png"
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return _put('<img alt="{}" src="{}">', label, source)


def _table(figure: Figure) -> Markup:
    head = Markup("").join(_put("<th>{}</th>", name) for name in figure.data)
    rows = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(_put("<td>{}</td>", value) for value in row))
        for row in figure.rows(ROWS)
    )
    more = figure.n_rows - ROWS
    note = _put("<p>... and {} more rows: figure.csv()</p>", f"{more:,}") if more > 0 else ""
    table = Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, rows)
    return table + note


def _put(form: str, *texts: str) -> Markup:
    return Markup(form).format(*(printable(text) for text in texts))
