"""Rectified-linear autoencoders with an L1 penalty: the first recipe, and its April 2024 update.

    z = relu((x - b_dec) W_enc + b_enc),   x' = z W_dec + b_dec,   loss = |x - x'|^2 + l1 * penalty

The first recipe (Bricken et al. 2023, "Towards Monosemanticity") holds atoms at length 1 and penalises
sum z; the update (Anthropic, "Circuits Updates - April 2024") leaves lengths free and penalises
sum z_i |d_i|, which no rescaling of an atom can escape. Both are this class: `decoder_norm` chooses.
`april_update` gives the update's options; like SAELens' replication it has no pre-bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .codes import Codes, at_least_float32
from .options import SaeOptions
from .output import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReluOptions(SaeOptions):
    """Options of the L1 autoencoder."""

    l1: float = 0.04
    """Coefficient of the penalty; SAEBench sweeps 0.012 to 0.06 on rows of mean square norm 1, the
    April update takes about 5 on rows of mean norm sqrt(d_in)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        if self.l1 < 0:
            raise OptionError(f"l1 must be at least 0, got {self.l1}.")


def april_update(*, d_in: int, d_sae: int, l1: float = 5.0) -> ReluOptions:
    """Options of the April 2024 update: free atoms, beginning at length 0.1, no pre-bias."""
    return ReluOptions(
        d_in=d_in, d_sae=d_sae, l1=l1, decoder_norm="free", decoder_init_norm=0.1,
        apply_b_dec_to_input=False,
    )  # fmt: skip


class ReluSae(SparseAutoencoder):
    """L1 autoencoder."""

    architecture: ClassVar[str] = "relu"
    Options: ClassVar[type[SaeOptions]] = ReluOptions
    options: ReluOptions
    dense_codes: ClassVar[bool] = True

    def _inference_codes(self, rows: Tensor) -> Codes:
        return torch.relu(at_least_float32(self.centred(rows) @ self.W_enc + self.b_enc))

    def _other_losses(
        self, rows: Tensor, target: Tensor, reconstruction: Tensor, codes: Codes, extra: Any,
        state: TrainingState,
    ) -> dict[str, Tensor]:  # fmt: skip
        assert isinstance(codes, Tensor)
        if self.options.decoder_norm != "unit":
            codes = codes * self.W_dec.norm(dim=1)
        penalty = codes.sum(-1).mean()
        return {"l1": self.options.l1 * state.sparsity * penalty}
