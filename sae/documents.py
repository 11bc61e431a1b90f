"""Documents of a run: which rows belong together, and which are kept out of training.

Rows of one document resemble each other, so that a dictionary is judged on whole documents that it has
not seen. Windows cut from one document (`name#1`, `name#2`) count as one. The documents kept out are
the first of one fixed order of a run's, whatever the seed of the training: dictionaries of several
trainings can be judged on the same rows, and a larger share holds the smaller.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from ..probes.errors import OptionError
from ..probes.runfile import Run

ORDER_SEED = 20_512
"""Fixes the order of documents; not the seed of any other draw."""


def source_of_rows(run: Run) -> Int64[np.ndarray, " rows"]:
    """Number of each row's source document, windows of one document counted as one."""
    names = [name.partition("#")[0] for name in run.tokens.names]
    _, of_window = np.unique(names, return_inverse=True)
    return np.repeat(of_window.astype(np.int64), np.diff(run.tokens.offsets))


def kept_out(run: Run, share: float) -> Bool[np.ndarray, " rows"]:
    """Rows of the documents that a training with this share leaves out.

    Args:
        run: The run file.
        share: Share of the documents, from 0 to below 1; above 0 at least one document.

    Raises:
        OptionError: The share is out of range, or the run has too few documents.
    """
    if not 0 <= share < 1:
        raise OptionError(f"The share of documents held out must be from 0 to 1, got {share:g}.")
    source = source_of_rows(run)
    if share == 0:
        return np.zeros(len(source), dtype=bool)
    n_sources = int(source.max(initial=-1)) + 1
    n_out = math.ceil(share * n_sources)
    if n_out >= n_sources:
        raise OptionError(
            f"{run.path.name} holds {n_sources} documents, too few to hold {share:.0%} of them out; "
            "capture more, or hold out 0."
        )
    order = np.random.default_rng(ORDER_SEED).permutation(n_sources)
    return np.isin(source, order[:n_out])


def was_trained_on(run: Run, metadata: Mapping[str, Any]) -> bool:
    """Whether a dictionary's record of its training names this run file and corpus."""
    source = metadata.get("source") or {}
    corpus = run.provenance.corpus.get("description")
    return source.get("run") == run.path.name and source.get("corpus") == corpus


def unseen(run: Run, metadata: Mapping[str, Any]) -> Bool[np.ndarray, " rows"]:
    """Rows of a run that a dictionary was not trained on, by its own record."""
    if not was_trained_on(run, metadata):
        return np.ones(len(run.tokens.ids), dtype=bool)
    return kept_out(run, float(metadata["source"].get("held_out", 0.0)))
