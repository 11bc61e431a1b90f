"""Sparse probes of token classes: what a few latents tell of the token they stand on.

SAEBench's tasks are classes of whole texts and cannot be had offline. Token labels can: they follow
from the text alone (`probes/readings/labels.py`). Rows are tokens, split by source document,
classes balanced, one class against the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..probes.readings.labels import labels_of
from ..probes.runfile import Run
from .heldout import EvaluateOptions, HeldOut
from .metrics import Dictionary, sparse_codes, sparse_probe
from .metrics.sparse_probing import SIZES

Progress = Callable[[int, int, str], None]

PROBE_ROWS = 1000
"""Rows of either class per task, at most."""
MIN_PROBE_ROWS = 100


def token_probes(
    run: Run,
    site: str,
    dictionaries: Mapping[str, Dictionary],
    parts: HeldOut,
    options: EvaluateOptions,
    progress: Progress | None,
) -> dict[str, Any]:
    """One-against-rest sparse probes of token labels, as fields of a `SaeComparison`."""
    sizes = np.array(SIZES)
    empty = {
        "probe_label": options.probe_label or "",
        "classes": np.zeros(0, dtype=str),
        "probe_sizes": sizes,
        "probe_accuracy": np.zeros((len(dictionaries), 0, len(sizes))),
        "probe_baseline": np.zeros((0, len(sizes))),
        "probe_full": np.zeros(0),
    }
    if options.probe_label is None:
        return empty
    labels, classes = labels_of(run, options.probe_label)
    generator = np.random.default_rng(options.seed)
    candidates = parts.test[parts.kept[parts.test]]
    tasks = {}
    for number, name in enumerate(classes):
        yes = candidates[labels[candidates] == number]
        no = candidates[labels[candidates] != number]
        n = min(len(yes), len(no), PROBE_ROWS)
        if n >= MIN_PROBE_ROWS:
            chosen = [np.sort(generator.permutation(rows)[:n]) for rows in (yes, no)]
            tasks[name] = np.concatenate(chosen)
    if not tasks:
        return empty
    accuracy = np.zeros((len(dictionaries), len(tasks), len(sizes)))
    baseline, full = np.zeros((len(tasks), len(sizes))), np.zeros(len(tasks))
    held = run.activations[site]
    for at, (dictionary_name, dictionary) in enumerate(dictionaries.items()):
        if progress is not None:
            progress(at, len(dictionaries), f"probes: {dictionary_name}")
        for task, (name, where) in enumerate(tasks.items()):
            rows = held.gather(where).float()
            found = sparse_probe(
                sparse_codes(dictionary, rows).dense().numpy(),
                rows.numpy(),
                labels[where] == classes.index(name),
                groups=parts.source[where],
                seed=options.seed,
            )
            accuracy[at, task], baseline[task] = found.accuracy, found.baseline
            full[task] = found.full
    return empty | {
        "classes": np.array(list(tasks), dtype=str),
        "probe_accuracy": accuracy,
        "probe_baseline": baseline,
        "probe_full": full,
    }
