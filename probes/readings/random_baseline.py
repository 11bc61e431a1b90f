"""The random-weights baseline of probes: what an untrained model of the same architecture shows.

Random features are good features: a probe that does as well on them has found the input, not what was
learned (Zhang & Bowman, 1809.10040). The weights are drawn by the architecture's own initialisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float32
from transformers import AutoModelForCausalLM

from ..capture import capture
from ..model import Model
from ..open import wrap_model
from ..runfile import Run

Progress = Callable[[int, int, str], None]


def with_random_weights(model: Model, *, seed: int = 0) -> Model:
    """A model of the same architecture, device and dtype with freshly drawn weights.

    Args:
        model: An opened model.
        seed: Fixes the weights; the global random state stays as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(deepcopy(model.module.config))
    module = module.to(device=model.device, dtype=model.dtype).eval()
    tokenizer = model.tokenizer if model.has_tokenizer else None
    return wrap_model(module, tokenizer, name=f"{model.name}, random weights", check=False)


@torch.no_grad()
def random_states(
    model: Model,
    run: Run,
    sites: Sequence[str],
    *,
    n_rows: int,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Float32[np.ndarray, "rows _"]]:
    """States of the first documents of a run in the model's architecture with random weights.

    Args:
        model: The model the run came from.
        run: An open run file.
        sites: Site names.
        n_rows: Rows wanted, in the run's order; whole documents are read up to there.
        seed: Fixes the weights.
        progress: Called after every document.

    Raises:
        UnknownSiteError: The model has no such site.
    """
    untrained = with_random_weights(model, seed=seed)
    n_documents = int(np.searchsorted(run.tokens.offsets, n_rows))
    kept: dict[str, list[torch.Tensor]] = {site: [] for site in sites}
    for number in range(n_documents):
        ids = torch.from_numpy(run.tokens.document(number).astype(np.int64))[None]
        with capture(untrained, *sites, dtype=torch.float32, device="cpu", stop_early=True) as acts:
            untrained(ids, use_cache=False)
        for site in sites:
            kept[site].append(acts[site][0])
        if progress is not None:
            progress(number + 1, n_documents, "random weights")
    return {site: torch.cat(rows)[:n_rows].numpy() for site, rows in kept.items()}
