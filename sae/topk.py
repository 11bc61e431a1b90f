"""TopK autoencoders with the auxiliary loss that revives dead latents (arXiv 2406.04093).

    z = relu(TopK_k((x - b_dec) W_enc + b_enc)),   x' = z W_dec + b_dec

The k largest pre-activations are kept and then rectified: a row may have fewer than k active latents.
Pre-activations are computed for a stretch of rows at a time and never kept (see `encoding.py`).

The auxiliary loss is in `auxk.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ..probes.errors import OptionError
from .auxk import auxk_loss
from .base import SparseAutoencoder
from .codes import Codes, SparseCodes
from .encoding import encode_top_k
from .options import SaeOptions
from .output import TrainingState


@dataclass(frozen=True, slots=True, kw_only=True)
class TopKOptions(SaeOptions):
    """Options of the TopK family."""

    k: int = 32
    """Active latents per row (for BatchTopK: on average)."""
    auxk: float = 1 / 32
    """Coefficient of the auxiliary loss (arXiv 2406.04093, section A.2); 0 leaves it out."""
    k_aux: int | None = None
    """Dead latents that rebuild the error; None: half of the width rebuilt (section A.2)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        if not 1 <= self.k <= self.d_sae:
            raise OptionError(f"k must be from 1 to d_sae = {self.d_sae}, got {self.k}.")
        if self.auxk < 0 or (self.k_aux is not None and self.k_aux < 1):
            raise OptionError(
                f"auxk must be at least 0 and k_aux at least 1, got {self.auxk}, {self.k_aux}."
            )


class TopKSae(SparseAutoencoder):
    """TopK autoencoder."""

    architecture: ClassVar[str] = "topk"
    Options: ClassVar[type[SaeOptions]] = TopKOptions
    options: TopKOptions

    def _inference_codes(self, rows: Tensor) -> Codes:
        values, indices = encode_top_k(self.centred(rows), self.W_enc, self.b_enc, self.options.k)
        return SparseCodes.from_padded(values, indices, self.d_sae)

    def fold_decoder_norms(self) -> None:
        """Nothing to do for unit atoms.

        Raises:
            OptionError: Atoms have other lengths: scaling pre-activations would change which are kept.
        """
        if self.options.decoder_norm != "unit":
            raise OptionError(
                "Folding decoder norms would change which latents are kept; train with "
                "decoder_norm='unit', or convert BatchTopK with as_jumprelu() first."
            )

    def _other_losses(
        self, rows: Tensor, target: Tensor, reconstruction: Tensor, codes: Codes, extra: Any,
        state: TrainingState,
    ) -> dict[str, Tensor]:  # fmt: skip
        if state.dead is None or self.options.auxk == 0:
            return {}
        k_aux = self.options.k_aux or max(self.d_out // 2, 1)
        error = auxk_loss(self, rows, target, reconstruction, state.dead, k_aux)
        return {} if error is None else {"auxk": self.options.auxk * error}
