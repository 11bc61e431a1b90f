"""Every renderer's figures are complete: question, axes, n, interval, reading, table, source."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import typer
from markupsafe import Markup

from fluoroscope.probes import Provenance, Run, create_run, open_run
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports.convert import to_svg
from fluoroscope.reports.figure import Figure
from fluoroscope.reports.section import Context, Section, read_stored
from fluoroscope.reports.sections import ADDED_BY, RENDERERS
from fluoroscope.reports.sections.generic import generic
from fluoroscope.reports.templating import macro
from tests.reports.examples import EXAMPLES, N_WORDS

WORDS = Vocabulary(tuple(f" w{n}".encode() for n in range(N_WORDS)), frozenset())
SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    """A run with every kind of result, twice, with other numbers."""
    made = []
    for seed in SEEDS:
        path = tmp_path_factory.mktemp("sections") / "run.h5"
        with create_run(path, provenance=Provenance(model={"name": "m"})) as writer:
            writer.set_vocabulary(WORDS)
            writer.close()
        run = open_run(path)
        for kind, make in EXAMPLES.items():
            run.add_result(kind, make(seed))
        made.append(open_run(path))
    return made


@pytest.fixture(scope="module")
def sections(runs: list[Run]) -> list[dict[str, Section]]:
    made = []
    for run in runs:
        with run.reading() as file:
            made.append({
                kind: RENDERERS[kind](
                    read_stored(kind, file[f"results/{kind}"]), Context(run, WORDS, macro)
                )
                for kind in EXAMPLES
            })
    return made


def titles(spec: Any) -> Iterator[tuple[str, str | None]]:
    """Channel and title of every axis that a chart draws."""
    if isinstance(spec, dict):
        for channel, told in spec.get("encoding", {}).items():
            if channel in ("x", "y", "color") and "field" in told:
                title = told.get("title") or (told.get("legend") or {}).get("title")
                yield f"{channel} {told['type']}", title
        for part in spec.values():
            yield from titles(part)
    elif isinstance(spec, list):
        for part in spec:
            yield from titles(part)


def complaints(figure: Figure, kind: str, file: h5py.File) -> list[str]:
    """What a figure's record lacks."""
    found = []
    lengths = {len(column) for column in figure.data.values()}
    checks = {
        "its id begins with the result's name": figure.id.startswith(f"{kind}-"),
        "a question": "?" in figure.question,
        "a reading that is a sentence": figure.reading.endswith((".", "!")),
        "a reading without nan or inf": not {"nan", "inf"} & set(figure.reading.lower().split()),
        "how much was measured": bool(figure.n.strip()),
        "what its interval is": bool(figure.interval.strip()),
        "a table of equal columns": len(lengths) == 1 and lengths != {0},
        "a source under its result": figure.source.startswith(f"/results/{kind}"),
    }
    bounds = (f"{figure.source}_low", f"{figure.source}_high")
    if all(bound in file for bound in bounds):
        checks["the name of the interval that is stored"] = "no interval" not in figure.interval
    found += [what for what, holds in checks.items() if not holds]
    if figure.source not in file:
        return [*found, f"a source that is in the file, not {figure.source}"]
    axes = list(titles(figure.vega_lite())) if figure.chart is not None else []
    found += [
        f"a title of {axis}" for axis, title in axes if not title and axis.endswith("quantitative")
    ]
    held = file[figure.source]
    unit = str(held.attrs.get("unit", ""))
    words = " ".join([*(title or "" for _, title in axes), *figure.data, figure.question])
    if unit and unit not in words:
        found.append(f"the unit {unit} of its source")
    return found


def test_every_kind_has_an_example_and_a_command() -> None:
    assert set(EXAMPLES) == set(RENDERERS)
    assert set(ADDED_BY) == set(RENDERERS)


@pytest.mark.parametrize("kind", EXAMPLES)
def test_every_figure_is_a_complete_record(
    runs: list[Run], sections: list[dict[str, Section]], kind: str
) -> None:
    section = sections[0][kind]
    assert section.title
    assert section.figures
    ids = [figure.id for figure in section.figures]
    assert len(ids) == len(set(ids))
    with runs[0].reading() as file:
        lacking = {f.id: complaints(f, kind, file) for f in section.figures}
    assert not {name: what for name, what in lacking.items() if what}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_readings_follow_the_numbers(sections: list[dict[str, Section]], kind: str) -> None:
    """Other numbers, other sentences: none is written beforehand."""
    first, *later = ({f.id: f.reading for f in made[kind].figures} for made in sections)
    same = {name: first[name] for name in first if all(first[name] == x.get(name) for x in later)}
    assert not same


def test_a_figure_that_lacks_something_is_found(runs: list[Run]) -> None:
    """The control of the test above."""
    bad = Figure(
        id="x", question=" ", reading="nan", data={"a": [1], "b": []}, source="/results/no"
    )
    with runs[0].reading() as file:
        found = complaints(bad, "next_token", file)
    assert len(found) == 8


def test_commands_that_add_results_exist() -> None:
    """Each names a command of the front door and options that it has."""
    from fluoroscope.cli import app

    root = typer.main.get_command(app)
    for kind, line in ADDED_BY.items():
        words = shlex.split(line)
        assert words.pop(0) == "fluoroscope", kind
        command: Any = root
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]
        assert not hasattr(command, "commands"), f"{line} stops at a group of commands"
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        used = {word for word in words if word.startswith("-")}
        assert used <= options, f"{line}: no such option as {sorted(used - options)}"
        needed = [one for one in command.params if one.required]
        arguments = [one for one in needed if one.param_type_name == "argument"]
        for one in needed:
            assert one in arguments or used & set(one.opts), f"{line} lacks {one.opts}"
        assert len([word for word in words if not word.startswith("-")]) >= len(arguments), line


def test_sections_are_drawn_for_odd_but_legal_results(tmp_path: Path) -> None:
    """A result of any kind under any name keeps its ids apart."""
    with create_run(tmp_path / "run.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "run.h5")
    for name in ("one", "two"):
        run.add_result(name, EXAMPLES["layer_stats"](0))
    with run.reading() as file:
        made = [
            RENDERERS["layer_stats"](
                read_stored(name, file[f"results/{name}"]), Context(run, None, lambda *_: Markup())
            )
            for name in ("one", "two")
        ]
    ids = [figure.id for section in made for figure in section.figures]
    assert len(ids) == len(set(ids))
    np.testing.assert_array_equal(made[0].figures[0].data["layer"], [0, 1, 2])


# Results that no renderer knows -------------------------------------------------------------------


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Whatever HDF5 can hold."""
    path = tmp_path_factory.mktemp("odd") / "run.h5"
    with create_run(path, provenance=Provenance()) as writer:
        writer.close()
    spike = np.zeros(200_000)
    spike[123_457], spike[7] = 5.0, -3.0
    held: dict[str, Any] = {
        "scalar": np.float64(3.5), "text": "one", "bool": np.array([True, False]),
        "complex": np.array([1 + 2j, 3]), "three": np.arange(60.0).reshape(3, 4, 5),
        "wild": np.array([1.0, np.inf, -np.inf, np.nan, 3.0]), "spike": spike,
        "wide": np.tile(np.arange(5000.0), (3, 1)), "one": np.array([[7.0]]), "empty": np.zeros((0, 3)),
        "bytes": np.array([b"ab\xff", b"c"], dtype="S3"), "a.b [c]": np.arange(3.0),
        "record": np.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f4")]),
        "null": h5py.Empty("f"),
    }  # fmt: skip
    with open_run(path).edit() as file:
        group = file.create_group("results/odd <b>name")
        group.attrs["kind"] = "odd \x1b kind"
        group.attrs["list"] = np.arange(3)
        group["inside/x"] = np.arange(4)
        group.create_dataset(
            "words", data=[["a", "b"], ["c", "d"]], dtype=h5py.string_dtype()
        ).attrs["doc"] = "pairs of words"
        for name, value in held.items():
            group[name] = value
        file.create_group("results/bare")
    return open_run(path)


def drawn(run: Run, name: str) -> Section:
    with run.reading() as file:
        stored = read_stored(name, file[f"results/{name}"])
        return generic(stored, Context(run, None, lambda *_: Markup()))


def values_of(spec: Any) -> list[dict[str, Any]]:
    """The rows that a chart draws."""
    if isinstance(spec, dict) and "values" in spec.get("data", {}):
        return spec["data"]["values"]
    parts = spec.values() if isinstance(spec, dict) else spec
    found = (values_of(part) for part in parts if isinstance(part, dict | list))
    return next((rows for rows in found if rows), [])


def test_odd_results_are_shown_whole(odd: Run) -> None:
    section = drawn(odd, "odd <b>name")
    assert section.intro.endswith("shown as it is stored. Empty: empty.")
    assert "\x1b" not in section.intro
    figures = {figure.id.removeprefix("odd-<b>name-"): figure for figure in section.figures[1:]}
    values = dict(zip(*list(section.figures[0].data.values())[:2], strict=True))
    assert values == {"scalar": "3.5", "text": "one", "null": "None"}
    assert figures["three"].reading == "3 x 4 x 5 values from 0 to 59, mean 29.5."
    assert figures["three"].data["three[1, 2]"] == [7.0, 27.0, 47.0], "later axes are named"
    assert figures["wild"].reading == "5 values from 1 to 3, mean 2."
    assert figures["wild"].notes == ("3 of 5 values are not finite",)
    assert figures["words"].data["words[1]"] == ["b", "d"]
    assert figures["words"].question == "What is words: pairs of words?"
    assert figures["bytes"].data["bytes"][0].endswith("\\xff")
    assert figures["record:b"].data["record:b"] == [2.0, 4.0]
    assert figures["inside/x"].source == "/results/odd <b>name/inside/x"
    with odd.reading() as file:
        assert all(figure.source in file for name, figure in figures.items() if name != "list")
    assert figures["one"].chart is None, "one value needs no chart"
    assert drawn(odd, "bare").figures == ()


def test_thinned_charts_keep_spikes_and_say_so(odd: Run) -> None:
    figures = {figure.id: figure for figure in drawn(odd, "odd <b>name").figures}
    spike, wide = figures["odd-<b>name-spike"], figures["odd-<b>name-wide"]
    rows = values_of(spike.vega_lite())
    assert {(row["index"], row["spike"]) for row in rows} >= {(123_457, 5.0), (7, -3.0)}
    assert len(rows) <= 500
    assert "drawn: the least and the largest value of every part of the axis" in spike.notes
    cells = values_of(wide.vega_lite())
    assert len(cells) <= 2000
    assert cells[0]["wide"] == pytest.approx(3.5), "mean of the first eight columns"
    assert "drawn: means over 1 x 8 values" in wide.notes


def test_odd_results_become_pictures(odd: Run) -> None:
    """Names that a chart would take for paths into its data are drawn too."""
    section = drawn(odd, "odd <b>name")
    pictures = to_svg([
        f for f in section.figures if "a.b" in f.id or f.id.endswith(("bool", "wide"))
    ])
    assert len(pictures) == 3
