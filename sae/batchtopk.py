"""BatchTopK: k active latents per row on average, the largest of the whole batch (arXiv 2412.06410).

Training keeps the k x rows largest of the rectified pre-activations of a batch, so that hard rows may
use more latents than easy ones. At inference rows must not depend on their neighbours: latents above
one threshold are kept, the running mean of the smallest value that training kept. Its rate is 1 / step
for the first hundred steps and 0.01 after (SAELens' rate; the paper averages over batches), so that it
neither starts at zero nor remembers the beginning. Selection is in float32: in bfloat16 ties move L0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .batch_encoding import encode_above, encode_batch_top_k
from .codes import Codes
from .jumprelu import JumpReluOptions, JumpReluSae
from .options import SaeOptions
from .output import TrainingState
from .topk import TopKOptions, TopKSae

THRESHOLD_RATE = 0.01
"""Rate at which the threshold follows the smallest kept value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchTopKOptions(TopKOptions):
    """Options of BatchTopK: those of TopK."""


class BatchTopKSae(TopKSae):
    """BatchTopK autoencoder."""

    architecture: ClassVar[str] = "batchtopk"
    Options: ClassVar[type[SaeOptions]] = BatchTopKOptions
    threshold: Tensor
    n_thresholds: Tensor

    def __init__(self, options: TopKOptions, *, seed: int = 0) -> None:
        super().__init__(options, seed=seed)
        self.register_buffer("threshold", torch.zeros((), dtype=torch.float64))
        self.register_buffer("n_thresholds", torch.zeros((), dtype=torch.long))

    def _inference_codes(self, rows: Tensor) -> Codes:
        return encode_above(self.centred(rows), self.W_enc, self.b_enc, float(self.threshold))

    def _training_codes(self, rows: Tensor, state: TrainingState) -> tuple[Codes, Any]:
        codes = encode_batch_top_k(
            self.centred(rows), self.W_enc, self.b_enc, self.options.k * len(rows)
        )
        self._follow(codes.values.detach())
        return codes, None

    @torch.no_grad()
    def _follow(self, kept: Tensor) -> None:
        if len(kept):
            self.n_thresholds += 1
            rate = torch.clamp_min(1.0 / self.n_thresholds, THRESHOLD_RATE)
            self.threshold += rate * (kept.min().double() - self.threshold)

    @torch.no_grad()
    def as_jumprelu(self) -> JumpReluSae:
        """The same autoencoder as JumpReLU, one threshold for all latents: how others store it."""
        names = SaeOptions.__dataclass_fields__
        same = {name: getattr(self.options, name) for name in names}
        made = JumpReluSae(JumpReluOptions(**same, k=self.options.k))
        for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
            getattr(made, name).copy_(getattr(self, name))
        made.threshold.copy_(self.threshold.expand(self.d_sae))
        made.metadata = dict(self.metadata)
        return made.eval()

    def _scale_encoder_bias(self, factor: float) -> None:
        super()._scale_encoder_bias(factor)
        self.threshold.mul_(factor)
