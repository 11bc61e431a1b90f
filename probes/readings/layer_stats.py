"""Norms through the layers: the stream itself, and what attention and MLP add to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..capture import capture
from ..model import Model
from ..reducers import Norms
from ..results import Result, described
from .texts import Texts

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class LayerStats(Result):
    """Norms by layer; the first token of each text is left out and reported by itself."""

    kind: ClassVar[str] = "layer_stats"
    layers: np.ndarray = described("layer", axes=("layers",))
    resid: np.ndarray = described("mean L2 norm of the stream after the layer", axes=("layers",))
    resid_std: np.ndarray = described("its standard deviation over tokens", axes=("layers",))
    attention: np.ndarray = described(
        "mean L2 norm of what attention (or the mixer) adds; NaN where it has no site",
        axes=("layers",),
    )
    mlp: np.ndarray = described(
        "mean L2 norm of what the MLP adds; NaN where it has no site", axes=("layers",)
    )
    n_tokens: int = described("tokens averaged")
    n_documents: int = described("documents read")


@torch.no_grad()
def layer_stats(model: Model, texts: Texts, *, progress: Progress | None = None) -> LayerStats:
    """Measure norms by layer, first tokens left out (they may carry massive activations)."""
    kinds = ("resid_post", "attn.out", "mixer.out", "mlp.out")
    names = [site.name for site in model.sites if site.kind in kinds]
    norms = {name: Norms() for name in names}

    def take_in(name: str, rows: torch.Tensor) -> None:
        norms[name].update(rows[:, 1:].flatten(0, 1).float())

    done = 0
    for _, ids in texts.batches():
        with capture(model, *names, sink=take_in, stop_early=True):
            model(ids, use_cache=False)
        done += ids.numel()
        if progress is not None:
            progress(done, texts.n_tokens, "norms")

    def by_layer(*wanted: str) -> np.ndarray:
        found = np.full(model.n_layers, np.nan)
        for name, norm in norms.items():
            _, number, kind = name.split(".", 2)
            if kind in wanted:
                found[int(number)] = norm.mean
        return found

    last = [norms[f"layers.{layer}.resid_post"] for layer in range(model.n_layers)]
    return LayerStats(
        layers=np.arange(model.n_layers),
        resid=by_layer("resid_post"),
        resid_std=np.array([norm.std for norm in last]),
        attention=by_layer("attn.out", "mixer.out"),
        mlp=by_layer("mlp.out"),
        n_tokens=last[0].n_rows,
        n_documents=len(texts),
    )
