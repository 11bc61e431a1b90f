"""Generations read back from a run file, so that what was decoded is not decoded again.

A trace says what it was made with (its identity): weights of the target and of a draft, options with
the seed, stopping rules, precision, sites. A prompt's generation is taken from the file where all of
that and the prompt's tokens are the same. What comes back writes itself to the file as it stood there;
of captured states only the rows of the text are kept, as in the file.

Engines that learn across prompts are resumed without what they learned from prompts that are taken
from the file (unless it was kept in a file of its own): their texts are those of plain decoding all the
same, or have its distribution; their drafts, and with them the speed, are not those of one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import h5py
import numpy as np
from torch import Tensor

from ..probes import Run
from ..probes.runfile.schema import to_torch
from .engine import Engine
from .generation import Generation, Stats
from .row_readings import RowReadings, load_row_readings
from .rowlog import RowLog
from .stopping import Stopping
from .trace import load_traces

Identity = dict[str, Any]
"""What a trace was made with; holds what JSON does."""


@dataclass(frozen=True)
class Kept:
    """One generation of a run file."""

    generation: Generation
    readings: RowReadings | None
    """What its rows said through the layers; None where that was not read."""


def identity_of(engine: Engine, stopping: Stopping, sites: Sequence[str] = ()) -> Identity:
    """What decides about an engine's generations, beside the prompt.

    Args:
        engine: What decodes.
        stopping: When it stops.
        sites: Names or globs of the sites whose states are kept.
    """
    model = engine.model
    names = sorted({place.name for site in sites for place in model.sites.resolve(site)})
    found = {
        "weights": [one.weights_digest for one in engine.models],
        "dtype": str(model.dtype),
        "backend": model.backend,
        "options": engine.options_as_dict(),
        "stopping": asdict(stopping),
        "sites": names,
    }
    return json.loads(json.dumps(found))


def differing(run: Run, engine: Engine, identity: Identity) -> list[str]:
    """What the engine's trace in a run file was made with otherwise; nothing where it is the same.

    Without a trace there is nothing to differ; one that does not say what it was made with differs in
    everything.
    """
    with run.reading() as file:
        group: Any = file.get(f"trace/{engine.about.name}")
        if group is None:
            return []
        held = json.loads(group.attrs.get("identity", "{}"))
    return [key for key, value in identity.items() if held.get(key) != value]


def kept_generations(run: Run, engine: Engine, identity: Identity) -> list[Kept]:
    """The generations of a run file that this engine need not make again.

    Args:
        run: The run file.
        engine: What decodes.
        identity: What it decodes with; see `identity_of`.

    Returns:
        Those of its trace, in order; none where there is no trace or it was made with anything else.
    """
    name = engine.about.name
    if name not in run.traces or differing(run, engine, identity):
        return []
    with run.reading() as file:
        return list(_read(file[f"trace/{name}"], name))


def _read(group: Any, name: str) -> Iterator[Kept]:
    prompts, made = group["prompts"], group["generations"]
    texts, ends = prompts["text"].asstr()[()], prompts["offsets"][()]
    ids = prompts["ids"][()]
    traces = load_traces(group)
    counts = [sum(len(step.nodes) for step in trace.steps) for trace in traces]
    readings: Sequence[RowReadings | None] = [None] * len(traces)
    if "rows" in group:
        readings = load_row_readings(group["rows"], counts)
    columns = {key: made[key][()] for key in ("n_forward", "seconds", "n_faults")}
    outcomes = zip(made["text"].asstr()[()], made["stop_reason"].asstr()[()], strict=True)
    for number, (trace, (text, reason)) in enumerate(zip(traces, outcomes, strict=True)):
        own = tuple(ids[ends[number] : ends[number + 1]].tolist())
        tokens = tuple(token.id for token in trace.tokens)
        stats = Stats(
            n_forward=int(columns["n_forward"][number]),
            n_emitted=len(tokens),
            seconds=float(columns["seconds"][number]),
            n_drafted=counts[number],
            n_accepted=sum(step.n_accepted for step in trace.steps),
            n_faults=int(columns["n_faults"][number]),
        )
        log = RowLog()
        log.fed(range(len(own)), "prompt")
        log.fed(range(len(own), len(own) + len(tokens)), "bonus")
        generation = Generation(
            engine=name, prompt=texts[number], prompt_ids=own, token_ids=tokens, text=text,
            stop_reason=reason, stats=stats, trace=trace, captured=_states(group, number), rows=log,
        )  # fmt: skip
        yield Kept(generation, readings[number])


def _states(group: Any, number: int) -> dict[str, Tensor]:
    """States at the rows of one text, by site."""
    if "states" not in group:
        return {}
    states = group["states"]
    first, last = states["offsets"][number : number + 2]
    found: dict[str, Tensor] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and name != "offsets":
            rows = np.asarray(item[int(first) : int(last)])
            found[name] = to_torch(rows, str(item.attrs["dtype"]))

    states.visititems(visit)
    return found
