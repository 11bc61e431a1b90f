"""`fluoroscope subjects voxels|models`: one decoder for many subjects."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from ..running import Terminal
from . import options
from .results import keep

Train = Annotated[int, typer.Option("--train", min=32, help="Training items of each subject.")]
Test = Annotated[int, typer.Option("--test", min=8, help="Held-out items, the same for all.")]
Steps = Annotated[int, typer.Option(min=1, help="Training steps of each network.")]
Noise = Annotated[float, typer.Option(min=0, help="Noise of one answer against the signal.")]
Aggregate = Annotated[
    Literal["max", "average", "linear", "pad"],
    typer.Option(help="How signals of different widths come together; max suits voxels."),
]
Few = Annotated[
    list[int] | None,
    typer.Option(
        "--few", help="Items a new subject joins with (repeatable); left out: 32 128 512."
    ),
]
Who = Annotated[
    list[str],
    typer.Option(
        "--subject",
        help="MODEL:SITE, such as ':layers.20.resid_post' for the embedded model or "
        "'path/to/model:layers.3.resid_post' (repeatable, at least two).",
    ),
]
Teacher = Annotated[str | None, typer.Option(help="Model whose states are the meaning.")]
Anchors = Annotated[
    int,
    typer.Option(
        min=0, help="Further items that all subjects read, for relative representations; 0: none."
    ),
]
Pool = Annotated[
    Literal["mean", "last"], typer.Option(help="Which of an item's tokens give the signal.")
]
Untrained = Annotated[
    bool,
    typer.Option(
        "--random-weights",
        help="A further control: the last subject's architecture with random weights, the floor that "
        "a reading of it must beat.",
    ),
]
Patched = Annotated[
    int,
    typer.Option(
        min=0,
        help="Test items for which states built from other subjects are put into the model in place "
        "of its own; 0: none. Takes minutes, and needs --aggregate linear.",
    ),
]
DEFAULT = [
    ":layers.4.resid_post",
    ":layers.12.resid_post",
    ":layers.12.mlp.hidden",
    ":layers.24.resid_post",
]
"""States of the embedded model, two of them 576 wide, one 1,536."""


def voxels(
    terminal: Terminal,
    *,
    train: Train = 1000,
    test: Test = 200,
    noise: Noise = 1.0,
    aggregate: Aggregate = "max",
    steps: Steps = 600,
    few: Few = None,
    seed: options.Seed = 0,
    output: options.ResultFile = None,
) -> dict[str, Any]:
    """Compare a bridge with a decoder each on synthetic voxels of four subjects (arXiv 2404.07850).

    Example: fluoroscope subjects voxels -o out/voxels.h5
    """
    from ..probes.subjects import BridgeOptions, BridgeTraining, VoxelOptions, voxel_subjects

    drawn = VoxelOptions(n_train=train, n_test=test, noise=noise, seed=seed)
    return _compare(
        terminal,
        voxel_subjects(drawn),
        BridgeOptions(aggregate=aggregate, seed=seed),
        BridgeTraining(n_steps=steps, seed=seed),
        what="synthetic voxels of a common cause",
        few=few,
        output=output,
    )


def models(
    terminal: Terminal,
    *,
    subject: Who = DEFAULT,
    teacher: Teacher = None,
    text: options.Text = None,
    train: Train = 1600,
    test: Test = 240,
    anchors: Anchors = 128,
    random_weights: Untrained = False,
    patched: Patched = 40,
    pool: Pool = "mean",
    aggregate: Aggregate = "linear",
    steps: Steps = 600,
    few: Few = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    output: options.ResultFile = None,
) -> dict[str, Any]:
    """Read the meaning of text off states of several models and layers with one decoder.

    A subject is a model and a site; widths may differ. The meaning of an item is the teacher's last
    normed state. The last subject named is also the one that joins with few items. A bag of words
    takes part as a control: what it reads needs no model. States built for a subject from another's
    are also put into its model (--patched): how much of its cross-entropy do they keep?

    Example: fluoroscope subjects models --random-weights -o out/subjects.h5

    Example: fluoroscope subjects models --subject :layers.9.resid_post --subject gpt2:layers.6.mlp.out
    """
    import numpy as np

    from ..probes import open_corpus, open_model
    from ..probes.readings.random_baseline import with_random_weights
    from ..probes.subjects import BridgeOptions, BridgeTraining
    from ..probes.subjects.models import (
        bag_of_words,
        items_of,
        model_subjects,
        signals,
        split_items,
        teacher_targets,
    )

    parsed = [_parsed(one) for one in subject]
    documents = [document.text for document in open_corpus(text)]
    items = items_of(documents)
    learnt, held = split_items(items, test)
    # The controls take their shares of the items too.
    shares = len(subject) + 1 + random_weights
    learnt, held = learnt[-train * shares - anchors :], held[:test]
    read = [*learnt, *held]
    wanted: dict[str, list[str]] = {teacher or "": ["final_norm"]}
    for name, site in parsed:
        asked = wanted.setdefault(name, [])
        asked += [site] if site not in asked else []
    joins = parsed[-1]
    names: dict[str, str] = {}
    states: dict[str, Any] = {}
    untrained: dict[str, Any] = {}
    for name, sites in wanted.items():
        opened = open_model(name or None, device=device)
        names[name] = opened.name
        with terminal.track(f"Reading with {opened.name}", "items") as progress:
            states[name] = signals(opened, read, sites, pool=pool, progress=progress)
        if random_weights and name == joins[0]:
            twin = with_random_weights(opened, seed=seed)
            with terminal.track(f"Reading with {twin.name}", "items") as progress:
                held_by_twin = signals(twin, read, [joins[1]], pool=pool, progress=progress)
            untrained[f"{twin.name} {joins[1]}"] = held_by_twin[joins[1]]
    meaning = teacher_targets(states[teacher or ""]["final_norm"], len(learnt))
    sources = {"bag of words": bag_of_words(read)} | untrained
    called = {f"{names[name]} {site}": (name, site) for name, site in parsed}
    sources |= {key: states[name][site] for key, (name, site) in called.items()}
    subjects = model_subjects(
        sources,
        meaning,
        len(learnt),
        n_anchors=anchors,
        test_documents=np.array([item.document for item in held]),
        controls={"bag of words": ""} | dict.fromkeys(untrained, list(called)[-1]),
    )
    hosts = None
    if patched and aggregate == "linear":
        hosts = _hosts(called, sources, held, pool=pool, device=device)
    elif patched:
        terminal.say("Built states are not put into models: that needs --aggregate linear.")
    return _compare(
        terminal,
        subjects,
        BridgeOptions(aggregate=aggregate, seed=seed),
        BridgeTraining(n_steps=steps, seed=seed),
        what="states of language models, and controls",
        few=few,
        output=output,
        hosts=hosts,
        n_patched=patched,
    )


def _hosts(
    called: dict[str, tuple[str, str]],
    sources: dict[str, Any],
    held: list[Any],
    *,
    pool: Literal["mean", "last"],
    device: str | None,
) -> dict[str, Any]:
    """Where states built for each subject are put; one model is open at a time."""
    from functools import lru_cache

    from ..probes import open_model
    from ..probes.subjects.patching import Host

    once = lru_cache(maxsize=1)(lambda name: open_model(name or None, device=device))
    return {
        key: Host(
            open=lambda name=name: once(name),
            site=site,
            items=held,
            states=sources[key][-len(held) :],
            pool=pool,
        )
        for key, (name, site) in called.items()
    }


def _parsed(subject: str) -> tuple[str, str]:
    from ..probes.errors import OptionError

    name, colon, site = subject.rpartition(":")
    if not colon or not site:
        raise OptionError(
            f"--subject must be MODEL:SITE, got {subject!r}; an empty MODEL is the embedded one."
        )
    return name, site


def _compare(
    terminal: Terminal,
    subjects: list[Any],
    architecture: Any,
    recipe: Any,
    *,
    what: str,
    few: list[int] | None,
    output: Any,
    hosts: dict[str, Any] | None = None,
    n_patched: int = 0,
) -> dict[str, Any]:
    from ..probes.subjects import compare_subjects
    from ..probes.subjects.gates import bridge_gates

    with terminal.track("Comparing", "steps", in_parts=bool(hosts)) as progress:
        found = compare_subjects(
            subjects,
            architecture,
            recipe,
            what=what,
            n_few=few or (32, 128, 512),
            hosts=hosts,
            n_patched=n_patched,
            progress=progress,
        )
    keep(terminal, output, "subjects", found)
    table = Table("subject", *map(str, found.methods), title="Two-way identification (chance 0.5)")
    for j, name in enumerate(found.subjects):
        table.add_row(str(name), *(f"{value:.3f}" for value in found.read[:, j, 0, 0]))
    terminal.show(table)
    joining = Table("items", *map(str, found.joining), title=f"{found.newcomer} joins")
    for j, n in enumerate(found.n_few):
        joining.add_row(str(n), *(f"{value:.3f}" for value in found.joined[:, j, 0, 0]))
    terminal.show(joining)
    if found.recovered is not None:
        _show_patched(terminal, found)
    gates = bridge_gates(found)
    for line in gates:
        terminal.show(line)
    return {
        "gates": gates,
        "subjects": found.subjects.tolist(),
        "methods": found.methods.tolist(),
        "metrics": found.metrics.tolist(),
        "read": found.read[..., 0].tolist(),
        "n_few": found.n_few.tolist(),
        "joining": found.joining.tolist(),
        "joined": found.joined[..., 0].tolist(),
        "building": found.building.tolist(),
        "synthesis": found.synthesis.tolist(),
        "floor": _listed(found.floor),
        "above_floor": _listed(found.above_floor),
        "patched": _listed(found.patched),
        "recovered": _listed(found.recovered),
        "patch_floor_nats": _listed(found.patch_floor),
        "patch_summary": _listed(found.patch_summary),
    }


def _listed(values: Any) -> Any:
    """An array ready for JSON, which knows no NaN; None where there is none."""
    import numpy as np

    if values is None or values.dtype.kind != "f":
        return None if values is None else values.tolist()
    cells = values.astype(object)
    cells[~np.isfinite(values)] = None
    return cells.tolist()


def _show_patched(terminal: Terminal, found: Any) -> None:
    """How much of each model's cross-entropy states built by the bridge keep."""
    proper = found.proper.nonzero()[0]
    table = Table(
        "built from",
        *(str(found.subjects[j]) for j in proper),
        title="Cross-entropy recovered by built states (own state 1, mean state 0)",
    )
    for i, name in enumerate(found.subjects):
        table.add_row(str(name), *(f"{found.recovered[0, i, j, 0]:.2f}" for j in proper))
    terminal.show(table)
