"""Matryoshka BatchTopK: nested dictionaries, each of which must rebuild alone (arXiv 2503.17547).

Codes are BatchTopK over all latents. The loss is the mean of the squared errors of the reconstructions
from the first latents of each level, the decoder's bias in each; the auxiliary loss acts on the full
error. Levels are shares of the dictionary, by default 1/32, 1/16, 1/8, 1/4 and the rest (SAEBench).
Taking the mean of levels, not their sum (SAELens) nor the mean of already divided ones
(dictionary_learning), leaves the auxiliary coefficient its meaning. Reconstructions are built
incrementally, so that each active latent is decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from ..probes.errors import OptionError
from .batchtopk import BatchTopKOptions, BatchTopKSae
from .codes import SparseCodes, as_sparse
from .options import SaeOptions
from .output import SaeOutput, TrainingState, squared_error, total
from .sparse import sparse_decode


@dataclass(frozen=True, slots=True, kw_only=True)
class MatryoshkaOptions(BatchTopKOptions):
    """Options of Matryoshka BatchTopK."""

    levels: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2 + 1 / 32)
    """Share of the dictionary that each level adds to those before; they sum to 1."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        BatchTopKOptions.__post_init__(self)
        if not self.levels or min(self.levels) <= 0 or abs(sum(self.levels) - 1) > 1e-6:
            raise OptionError(f"levels must be shares above 0 that sum to 1, got {self.levels}.")


class MatryoshkaSae(BatchTopKSae):
    """Matryoshka BatchTopK autoencoder."""

    architecture: ClassVar[str] = "matryoshka"
    Options: ClassVar[type[SaeOptions]] = MatryoshkaOptions

    @property
    def bounds(self) -> tuple[int, ...]:
        """Where levels end, from 0 to the number of latents; a level is never empty."""
        assert isinstance(self.options, MatryoshkaOptions)
        ends, share = [0], 0.0
        for level in self.options.levels:
            share += level
            ends.append(max(round(share * self.d_sae), ends[-1] + 1))
        return (*(min(end, self.d_sae) for end in ends[:-1]), self.d_sae)

    def _forward(self, rows: Tensor, target: Tensor, state: TrainingState | None) -> SaeOutput:
        if not self.training:
            return super()._forward(rows, target, state)
        state = state or TrainingState()
        codes, extra = self._training_codes(rows, state)
        errors, reconstruction = [], self.b_dec.expand(len(rows), -1)
        for level in self._levels(as_sparse(codes)):
            reconstruction = sparse_decode(level, self.W_dec) + reconstruction
            errors.append(squared_error(reconstruction, target))
        losses = {"reconstruction": torch.stack(errors).mean()}
        losses |= self._other_losses(rows, target, reconstruction, codes, extra, state)
        return SaeOutput(reconstruction, codes, total(losses), losses)

    def _levels(self, codes: SparseCodes) -> Iterator[SparseCodes]:
        """Codes of the latents that each level adds."""
        numbers = codes.rows
        for start, stop in pairwise(self.bounds):
            kept = (codes.indices >= start) & (codes.indices < stop)
            counts = torch.bincount(numbers[kept], minlength=codes.n_rows)
            offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            yield SparseCodes(
                codes.values[kept], codes.indices[kept], offsets, self.d_sae, codes.leading
            )
