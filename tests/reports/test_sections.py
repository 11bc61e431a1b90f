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
from fluoroscope.reports.figure import Figure
from fluoroscope.reports.section import Context, Section, read_stored
from fluoroscope.reports.sections import ADDED_BY, RENDERERS
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
    def macro(template: str, name: str, arguments: dict[str, Any]) -> Markup:
        from fluoroscope.reports.page import _environment

        return getattr(_environment().get_template(template).module, name)(**arguments)

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
