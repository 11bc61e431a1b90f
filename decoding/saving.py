"""Traced generations into a run file, where the report finds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

from ..probes import Run
from ..probes.errors import OptionError
from ..probes.runfile.schema import dtype_name, to_numpy
from ..probes.storable import text_array
from .engine import Engine
from .generation import Generation
from .row_readings import Progress, RowReadings, read_rows, save_row_readings
from .trace import save_traces


def save_generations(
    run: Run,
    engine: Engine,
    generations: Sequence[Generation],
    *,
    keep_states: bool = True,
    identity: Mapping[str, Any] | None = None,
    readings: Mapping[int, RowReadings | None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write an engine's generations to /trace/<engine>, replacing what is there.

    Where they captured residual streams, rows of the text and refused drafts are read through the
    layers as well (`row_readings.py`).

    Args:
        run: The run file.
        engine: What decoded.
        generations: One per prompt.
        keep_states: Whether captured states of prompts and texts are kept themselves.
        identity: What they were made with (`kept.identity_of`), by which they are known again.
        readings: What rows said of generations that came from a run file, by their number; rows of the
            others are read.
        progress: Told of layers read.

    Raises:
        OptionError: There is nothing to save.
    """
    if not generations:
        raise OptionError("save_generations needs at least one generation.")
    name = engine.about.name
    come = readings or {}
    found = [
        come[number] if number in come else read_rows(engine.model, one, progress=progress)
        for number, one in enumerate(generations)
    ]
    about = {
        "engine": name,
        "summary": engine.about.summary,
        "paper": engine.about.paper or "",
        "lossless": int(engine.lossless),
        "options": engine.options_as_dict(),
        "model": engine.model.name,
    }
    if identity is not None:
        about["identity"] = dict(identity)
    with run.edit() as file:
        if f"trace/{name}" in file:
            del file[f"trace/{name}"]
        group = file.create_group(f"trace/{name}")
        ids = [np.array(g.prompt_ids) for g in generations]
        save_traces(
            group, [g.prompt for g in generations], ids, [g.trace for g in generations], about
        )
        _save_outcomes(group.create_group("generations"), generations)
        if keep_states:
            _save_states(group, generations)
        known = [one for one in found if one is not None]
        if len(known) == len(found):
            counts = [sum(len(step.nodes) for step in one.trace.steps) for one in generations]
            save_row_readings(group.create_group("rows"), known, counts)


def _save_outcomes(group: h5py.Group, generations: Sequence[Generation]) -> None:
    group["text"] = text_array(g.text for g in generations)
    group["stop_reason"] = text_array(g.stop_reason for g in generations)
    group["n_forward"] = np.array([g.stats.n_forward for g in generations])
    group["seconds"] = np.array([g.stats.seconds for g in generations])
    group["seconds"].attrs["unit"] = "s"
    group["n_faults"] = np.array([g.stats.n_faults for g in generations])


def _save_states(group: h5py.Group, generations: Sequence[Generation]) -> None:
    lengths = [len(g.prompt_ids) + len(g.token_ids) for g in generations]
    for site in generations[0].captured:
        rows = [g.states(site) for g in generations]
        dataset = group.create_dataset(
            f"states/{site}", data=np.concatenate([to_numpy(r) for r in rows])
        )
        dataset.attrs["dtype"] = dtype_name(rows[0].dtype)
    if generations[0].captured:
        group["states/offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
