"""Gated autoencoders: which latents are active, and how strongly, are decided apart (arXiv 2404.16014).

    p = (x - b_dec) W_enc;  gate = 1[p + b_gate > 0];  magnitude = relu(exp(r_mag) p + b_mag)
    z = gate magnitude;  loss = |x - x'|^2 + l1 |relu(p + b_gate)|_1 + |x - x'_gate|^2

x'_gate rebuilds from relu(p + b_gate) with the decoder held fixed (section 3.2), which trains the gate.
Atoms have length 1; Adam's betas are (0, 0.999) in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .codes import Codes, at_least_float32
from .options import SaeOptions
from .output import TrainingState, squared_error


@dataclass(frozen=True, slots=True, kw_only=True)
class GatedOptions(SaeOptions):
    """Options of the gated autoencoder."""

    l1: float = 0.04
    """Coefficient of the gate's penalty; SAEBench sweeps 0.012 to 0.08."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        if self.l1 < 0:
            raise OptionError(f"l1 must be at least 0, got {self.l1}.")


class GatedSae(SparseAutoencoder):
    """Gated autoencoder."""

    architecture: ClassVar[str] = "gated"
    Options: ClassVar[type[SaeOptions]] = GatedOptions
    options: GatedOptions
    dense_codes: ClassVar[bool] = True

    def _make_encoder(self, atoms: Tensor, generator: torch.Generator) -> None:
        super()._make_encoder(atoms, generator)
        del self.b_enc
        self.b_gate = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))

    def _inference_codes(self, rows: Tensor) -> Codes:
        return self._gated(rows)[0]

    def _training_codes(self, rows: Tensor, state: TrainingState) -> tuple[Codes, Any]:
        return self._gated(rows)

    def _gated(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        shared = at_least_float32(self.centred(rows) @ self.W_enc)
        gate = shared + self.b_gate
        magnitude = torch.relu(torch.exp(self.r_mag) * shared + self.b_mag)
        return torch.where(gate > 0, magnitude, 0.0), gate

    def _other_losses(
        self, rows: Tensor, target: Tensor, reconstruction: Tensor, codes: Codes, extra: Any,
        state: TrainingState,
    ) -> dict[str, Tensor]:  # fmt: skip
        opened = torch.relu(extra)
        rebuilt = opened @ self.W_dec.detach() + self.b_dec.detach()
        return {
            "l1": self.options.l1 * state.sparsity * opened.sum(-1).mean(),
            "gate": squared_error(rebuilt, target),
        }

    def _reset_biases(self, which: Tensor) -> None:
        for held in (self.b_gate, self.b_mag, self.r_mag):
            held[which] = 0.0

    def _scale_codes(self, factor: Tensor) -> None:
        self.W_enc.mul_(factor)
        self.b_gate.mul_(factor)
        self.b_mag.mul_(factor)

    def _scale_encoder_bias(self, factor: float) -> None:
        self.b_gate.mul_(factor)
        self.b_mag.mul_(factor)
