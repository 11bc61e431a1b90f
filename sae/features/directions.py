"""What decoder directions say by themselves: what they do to the logits, and whose is nearest.

Logit effects are the decoder direction through the unembedding, `W_U (d / |d|)` with the final norm's
own scale folded in and centred over the vocabulary: what one unit of the feature adds to each logit
where the norm divides by 1. It is the direct effect only, and says little far from the last layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ...probes.model import Model
from ..metrics.matching import unit_rows

N_LOGITS = 10
N_NEIGHBOURS = 5


class LogitEffects:
    """Logit effects of decoder directions, a stretch of directions at a time.

    Args:
        model: Whose unembedding; None, or one of another width: all effects are 0.
        atoms: Decoder directions as rows.
    """

    def __init__(self, model: Model | None, atoms: Float[Tensor, "latents d_model"]) -> None:
        self._weight: Tensor | None = None
        self._read = unit_rows(atoms).float()
        if model is not None and atoms.shape[1] == model.d_model:
            # At this length the norm divides by 1, whatever its kind; what it adds is taken out.
            size = atoms.shape[1] ** 0.5
            rows = (self._read * size).to(model.device, model.dtype)
            read = model.final_norm(rows) - model.final_norm(torch.zeros_like(rows[:1]))
            self._read = read.float().cpu() / size
            weight = cast(Tensor, model.unembedding.weight).detach().float().cpu()
            self._weight = weight - weight.mean(0)  # centred over the vocabulary

    def kurtosis(self, features: Int[np.ndarray, " features"]) -> Float[np.ndarray, " features"]:
        """How far a few tokens stand out among a direction's logit effects; 0 without a model."""
        if self._weight is None:
            return np.zeros(len(features))
        parts = []
        for start in range(0, len(features), 64):
            effects = self._of(features[start : start + 64].tolist())
            spread = effects.square().mean(1)
            parts.append(effects.pow(4).mean(1) / spread.square().clamp(min=1e-20))
        return torch.cat(parts).numpy() if parts else np.zeros(0)

    def extremes(
        self, features: Sequence[int]
    ) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Token ids and effects of the most raised and of the most lowered logits."""
        if self._weight is None:
            none = np.full((len(features), N_LOGITS), -1)
            return (none, np.zeros(none.shape)), (none, np.zeros(none.shape))
        ups, downs = [], []
        for start in range(0, len(features), 64):
            effects = self._of(features[start : start + 64])
            ups.append(effects.topk(N_LOGITS, dim=1))
            downs.append(effects.topk(N_LOGITS, dim=1, largest=False))
        found = []
        for parts in (ups, downs):
            ids = torch.cat([part.indices for part in parts]).numpy()
            found.append((ids, torch.cat([part.values for part in parts]).double().numpy()))
        return found[0], found[1]

    def _of(self, features: Sequence[int]) -> Float[Tensor, "features d_vocab"]:
        assert self._weight is not None
        return self._read[list(features)] @ self._weight.T


def nearest_directions(
    atoms: Float[Tensor, "latents d_model"], features: Int[np.ndarray, " features"]
) -> tuple[Int64[np.ndarray, "features ranks"], Float[np.ndarray, "features ranks"]]:
    """The directions nearest to some, nearest first, and their cosines; -1 and 0 where none is."""
    unit = unit_rows(atoms).float()
    n = min(N_NEIGHBOURS, len(unit) - 1)
    ids, cosines = (
        np.full((len(features), N_NEIGHBOURS), -1),
        np.zeros((len(features), N_NEIGHBOURS)),
    )
    for start in range(0, len(features), 256):
        chosen = torch.from_numpy(features[start : start + 256])
        products = unit[chosen] @ unit.T
        products[torch.arange(len(chosen)), chosen] = -2.0
        best = products.topk(n, dim=1)
        ids[start : start + 256, :n] = best.indices.numpy()
        cosines[start : start + 256, :n] = best.values.numpy()
    return ids, cosines
