"""Asking: which features fire on a text, whether the run holds it or not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...probes.capture import capture
from ...probes.errors import FluoroscopeError, OptionError
from ...probes.model import Model
from ...probes.runfile import Run
from ..metrics import Dictionary, sparse_codes
from .build import Progress, build_index, made_from
from .index import FeatureIndex, Firing, Strongest, find_tokens, index_path


def open_index(
    run: Run,
    site: str,
    dictionary: Dictionary,
    *,
    name: str = "sae",
    progress: Progress | None = None,
) -> FeatureIndex:
    """The index beside a run file; built where there is none, or one of another dictionary or run."""
    path = index_path(run.path, site, name)
    if path.is_file() and _fits(path, run, dictionary):
        return FeatureIndex(path)
    return build_index(run, site, dictionary, path, name=name, progress=progress)


def strongest_in_run(
    run: Run, index: FeatureIndex, text_ids: np.ndarray, n: int = 20
) -> tuple[Strongest, np.ndarray] | None:
    """The features that fire most strongly where a run first holds these tokens.

    Returns:
        The features and all places where the tokens begin; None if the run does not hold them.
    """
    places = find_tokens(run, text_ids)
    if not len(places):
        return None
    first = int(places[0])
    return index.strongest(first, first + len(text_ids), n), places


@torch.no_grad()
def firing_on_text(model: Model, site: str, dictionary: Dictionary, text: str) -> Firing:
    """What fires on each token of a new text; rows are positions.

    Costs a forward pass. The first token, which dictionaries are not judged on, is left out.

    Raises:
        OptionError: The text has fewer than two tokens.
    """
    ids = model.encode(text)
    if len(ids) < 2:
        raise OptionError("The text must have at least two tokens; the first is left out.")
    with capture(model, site) as held:
        model(ids[None], use_cache=False)
    codes = sparse_codes(dictionary, held[site][0, 1:].float().cpu())
    there = codes.values != 0
    return Firing(
        codes.rows[there].numpy() + 1, codes.indices[there].numpy(), codes.values[there].numpy()
    )


def _fits(path: Path, run: Run, dictionary: Dictionary) -> bool:
    try:
        index = FeatureIndex(path)
    except FluoroscopeError:
        return False
    return index.meta.items() >= made_from(run, dictionary).items()
