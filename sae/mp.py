"""MP-SAE: an autoencoder whose encoder is matching pursuit over its own dictionary (arXiv 2506.03093).

There are no encoder weights. k steps are taken in training; at inference k and the tolerances may be
others (`inference_options`), since the error keeps falling with more steps. The loss is the
reconstruction alone; the reconstruction is x - r_T, which equals the decoded codes (rows are read
without the decoder's bias; with `apply_b_dec_to_input=False` it is added, and begins at 0).

Beside the paper: dead atoms are revived by continuing the
pursuit of the final residual among dead atoms only and regressing it (the paper adds 1e-5 to silent
codes); atoms are held inside the unit ball as in the paper's vision models (`decoder_norm='free'` as
in its toy code, where training fails once a squared length exceeds 2, from where residuals grow).
Folding decoder norms would change which atoms are chosen, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import OptionError
from .auxk import variance
from .base import SparseAutoencoder
from .codes import Codes, flat_rows
from .errors import DivergedError
from .matching_pursuit import Method, PursuitOptions, PursuitPath, matching_pursuit
from .options import DecoderNorm, SaeOptions
from .output import SaeOutput, TrainingState, squared_error, total

LARGEST_SQUARE = 2.0
"""Squared length of an atom beyond which taking it makes the residual longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MpOptions(SaeOptions):
    """Options of MP-SAE."""

    k: int = 32
    """Steps of the pursuit; a row has at most so many active latents."""
    tolerance: float = 0.0
    """A row stops when its residual is shorter than this; 0: never."""
    relative_tolerance: float = 0.0
    """A row stops when its residual is shorter than this share of the row; 0: never."""
    stop_on_repeat: bool = False
    """Whether a row stops when an atom is chosen again."""
    decoder_norm: DecoderNorm = "ball"
    """Length of the atoms after every step of training."""
    auxk: float = 1 / 32
    """Coefficient of the loss that revives dead atoms; 0 leaves it out."""
    method: Method = "auto"
    """How the best atom is found; see `matching_pursuit`."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        if self.k < 1 or self.auxk < 0:
            raise OptionError(
                f"k must be at least 1 and auxk at least 0, got {self.k}, {self.auxk}."
            )
        PursuitOptions(
            n_steps=self.k, tolerance=self.tolerance, relative_tolerance=self.relative_tolerance
        )
        if self.d_out is not None:
            raise OptionError("MP-SAE reads with its own atoms and cannot be a transcoder.")


class MpSae(SparseAutoencoder):
    """Matching-pursuit autoencoder."""

    architecture: ClassVar[str] = "mp"
    Options: ClassVar[type[SaeOptions]] = MpOptions
    options: MpOptions
    reads_with_atoms: ClassVar[bool] = True

    def _make_encoder(self, atoms: Tensor, generator: torch.Generator) -> None:
        pass

    def pursue(
        self, rows: Float[Tensor, "*leading d_in"], *, k: int | None = None, **options: Any
    ) -> PursuitPath:
        """The path of each row, with other steps or tolerances than in training if asked.

        Args:
            rows: Raw rows; leading axes are flattened.
            k: Steps; None: as trained.
            **options: `tolerance`, `relative_tolerance`, `stop_on_repeat` or `method` in place of
                the autoencoder's own.
        """
        own = self.options
        chosen = {
            "tolerance": own.tolerance,
            "relative_tolerance": own.relative_tolerance,
            "stop_on_repeat": own.stop_on_repeat,
            "method": own.method,
        } | options
        flat = self.centred(flat_rows(rows, self.d_in, "Rows")).float()
        return matching_pursuit(flat, self.W_dec, n_steps=k or own.k, **chosen)

    def _inference_codes(self, rows: Tensor) -> Codes:
        return self.pursue(rows).codes()

    def _forward(self, rows: Tensor, target: Tensor, state: TrainingState | None) -> SaeOutput:
        state = state or TrainingState()
        path = self.pursue(rows)
        reconstruction = rows - path.residual
        if not self.options.apply_b_dec_to_input:
            reconstruction = reconstruction + self.b_dec
        losses = {"reconstruction": squared_error(reconstruction, target)}
        revival = self._revival(path.residual.detach(), target, state)
        if revival is not None:
            losses["auxk"] = self.options.auxk * revival
        return SaeOutput(reconstruction, path.codes(), total(losses), losses)

    def _revival(self, residual: Tensor, target: Tensor, state: TrainingState) -> Tensor | None:
        if state.dead is None or self.options.auxk == 0:
            return None
        which = state.dead.nonzero().flatten()
        if len(which) == 0:
            return None
        k_aux = min(self.options.k, len(which))
        rest = matching_pursuit(residual, self.W_dec[which], n_steps=k_aux).residual
        share = variance(target) / variance(residual).clamp_min(1e-30)
        loss = rest.square().sum() / max(len(rest), 1)
        return torch.nan_to_num(loss * share) * min(len(which) / self.options.k, 1.0)

    @torch.no_grad()
    def after_step(self) -> None:
        """Fail early where free atoms have grown so long that residuals grow."""
        if self.options.decoder_norm == "free":
            largest = float(self.W_dec.square().sum(1).max())
            if not largest <= LARGEST_SQUARE:
                raise DivergedError(
                    f"An atom's squared length must stay at most {LARGEST_SQUARE:g}, got "
                    f"{largest:.3g}; lower the learning rate or use decoder_norm='ball'."
                )

    def fold_decoder_norms(self) -> None:
        """Not possible: an atom's length decides when it is chosen.

        Raises:
            OptionError: Always.
        """
        raise OptionError(
            "Folding decoder norms would change which atoms matching pursuit chooses; train with "
            "decoder_norm='unit' if atoms must have length 1."
        )

    @torch.no_grad()
    def fold_input_scale(self, scale: float, target_scale: float | None = None) -> None:
        """Read raw rows after training on rows multiplied by `scale`; codes in raw units."""
        if self.options.input_norm != "none":
            raise OptionError("input_norm='token_std' cannot be folded; read rows as they are.")
        self.options = replace(self.options, tolerance=self.options.tolerance / scale)
        self.b_dec.div_(scale)
