"""Options that every sparse autoencoder has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..probes.errors import OptionError

DecoderNorm = Literal["unit", "ball", "free"]
"""Atoms are held at length 1, at most 1, or free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SaeOptions:
    """Options of every architecture."""

    d_in: int
    """Width of the rows that are read."""
    d_sae: int
    """Latents in the dictionary."""
    d_out: int | None = None
    """Width of the rows that are rebuilt, for a transcoder; None: the rows read themselves."""
    apply_b_dec_to_input: bool = True
    """Whether the decoder's bias is subtracted before encoding; never for a transcoder."""
    decoder_norm: DecoderNorm = "unit"
    """Length of the atoms after every step of training."""
    input_norm: Literal["none", "token_std"] = "none"
    """token_std: each row is centred and divided by its standard deviation before encoding, and the
    reconstruction is put back (no folding can undo it)."""
    decoder_init_norm: float = 1.0
    """Length of the atoms at the beginning; 0.1 in the April 2024 recipe."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        for name in ("d_in", "d_sae", "d_out"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(f"{name} must be at least 1, got {value}.")
        if self.decoder_init_norm <= 0:
            raise OptionError(f"decoder_init_norm must be above 0, got {self.decoder_init_norm}.")
        if self.d_out is not None and (self.apply_b_dec_to_input or self.input_norm != "none"):
            raise OptionError(
                "A transcoder (d_out set) reads another site than it rebuilds: it needs "
                "apply_b_dec_to_input=False and input_norm='none'."
            )
