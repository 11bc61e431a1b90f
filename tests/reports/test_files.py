"""Figures of a run as files, from Python and from the command line."""

import csv
import io
import json
from pathlib import Path

import pytest

from fluoroscope.probes.errors import OptionError
from fluoroscope.reports import Figure, choose, figures_of, save_figures
from fluoroscope.reports.charts import as_rows, lines
from fluoroscope.reports.convert import ChartError, draw
from fluoroscope.reports.files import file_names
from tests.reports.test_following import add, start


def some(name: str, text: str = "x") -> Figure:
    rows = as_rows(layer=[0, 1], nats=[1.0, 2.0], which=[text, text])
    return Figure(id=name, question="q", reading="r", data={"layer": [0, 1], "nats": [1.0, 2.5]},
                  chart=lines(rows, x="layer", y="nats", series="which"))  # fmt: skip


def test_every_format_of_chosen_figures(tmp_path: Path) -> None:
    table = Figure(id="table", question="q", reading="r", data={"a": [1]})
    written = save_figures([some("one-a"), some("one-b"), table], tmp_path / "new" / "folder")
    names = [path.name for path in written]
    endings = ("svg", "pdf", "png", "csv", "vl.json")
    assert names == [f"{one}.{ending}" for one in ("one-a", "one-b") for ending in endings] + [
        "table.csv"
    ]
    starts = (b"<svg", b"%PDF", b"\x89PNG", b"layer,nats\n0,1.0\n1,2.5\n", b"{")
    for path, begin in zip(written, starts, strict=False):
        assert path.read_bytes().startswith(begin), path
    assert "currentColor" not in written[0].read_text()
    assert json.loads(written[4].read_text())["$schema"]
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(OptionError, match="got gif"):
        save_figures([table], tmp_path, formats=["gif"])


def test_figures_are_chosen_by_id() -> None:
    figures = [some("a-1"), some("a-2"), some("b-1")]
    assert choose(figures, []) == figures
    assert choose(figures, ["b-*", "a-1"]) == [figures[0], figures[2]]
    with pytest.raises(OptionError, match="No figure fits 'c'.*such as a-1, a-2, b-1"):
        choose(figures, ["c"])


def test_names_suit_every_file_system() -> None:
    odd = ["a/b", "A/B", "../..", "", "<x>\u202e", "a" * 500, "con trol\x00"]
    names = file_names([Figure(id=one, question="q", reading="r", data={}) for one in odd])
    assert names[:2] == ["a_b", "A_B-2"]
    assert len({name.lower() for name in names}) == len(odd)
    assert all(
        0 < len(name) < 130 and "/" not in name and not name.startswith(".") for name in names
    )


def test_a_run_lists_its_figures(tmp_path: Path) -> None:
    run = start(tmp_path / "run.h5")
    add(run, "one")
    (curve,) = figures_of(run)
    assert curve.id == "one-curve"
    (path,) = save_figures([curve], tmp_path, formats=["csv"])
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert [float(row[1]) for row in rows[1:]] == [0.0, 1.0, 2.0, 3.0]


def test_a_spec_that_aborts_the_converter_is_an_error_that_names_the_figure() -> None:
    """What the converter does with a bell, were it not written out before: it ends its process."""
    spec = some("loud").vega_lite() | {"title": "\x07"}
    with pytest.raises(ChartError, match="Figure loud"):
        draw([(some("loud"), spec)], "svg")
