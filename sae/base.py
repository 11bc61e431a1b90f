"""What every sparse autoencoder is: an encoder, a dictionary of atoms, and a loss.

An architecture subclasses `SparseAutoencoder`, names its options and says how codes and losses are
computed. Rows may have any leading axes; a single row is a vector. With `d_out` set, the rows read and
the rows rebuilt come from two sites: a transcoder (arXiv 2406.11944), in every architecture whose
dictionary is not its own encoder.

Weights have the shapes SAELens gives them: `W_enc` [d_in, latents], `W_dec` [latents, d_out], of which
a row is an atom. `W_enc` lies in memory latent by latent, so that a sparse gradient is a sum of rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ..probes.errors import OptionError
from .codes import Codes, SparseCodes, as_dense, as_sparse, flat_rows
from .options import SaeOptions
from .output import SaeOutput, TrainingState, squared_error, total
from .sparse import sparse_decode


class SparseAutoencoder(nn.Module, ABC):
    """Base of all architectures.

    Args:
        options: Shape and options of the architecture.
        seed: Fixes the initial weights.
    """

    architecture: ClassVar[str]
    """Name in files and on the command line."""
    Options: ClassVar[type[SaeOptions]]
    """Class of its options."""
    reads_with_atoms: ClassVar[bool] = False
    """Whether the dictionary is its own encoder (pursuits)."""
    dense_codes: ClassVar[bool] = False
    """Whether codes are full matrices and each row's are its own, so that a batch can be learned from
    in stretches of rows (see `stretches`)."""

    def __init__(self, options: SaeOptions, *, seed: int = 0) -> None:
        super().__init__()
        self.options = options
        self.metadata: dict[str, Any] = {}
        generator = torch.Generator().manual_seed(seed)
        d_out = options.d_out or options.d_in
        atoms = torch.randn(options.d_sae, d_out, generator=generator)
        atoms = atoms / atoms.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(atoms * options.decoder_init_norm)
        self.b_dec = nn.Parameter(torch.zeros(d_out))
        self._make_encoder(atoms, generator)

    def _make_encoder(
        self, atoms: Float[Tensor, "latents d_out"], generator: torch.Generator
    ) -> None:
        """Add encoder weights; by default the atoms transposed (arXiv 2406.04093, section 2.1)."""
        options = self.options
        rows = atoms.clone()
        if options.d_out is not None and options.d_out != options.d_in:
            rows = torch.randn(options.d_sae, options.d_in, generator=generator)
            rows = rows / rows.norm(dim=1, keepdim=True)
        self.W_enc = nn.Parameter((rows * options.decoder_init_norm).t())
        self.b_enc = nn.Parameter(torch.zeros(options.d_sae))

    @property
    def d_in(self) -> int:
        """Width of the rows that are read."""
        return self.options.d_in

    @property
    def d_sae(self) -> int:
        """Latents in the dictionary."""
        return self.options.d_sae

    @property
    def d_out(self) -> int:
        """Width of the rows that are rebuilt."""
        return self.options.d_out or self.options.d_in

    @property
    def is_transcoder(self) -> bool:
        """Whether it rebuilds another site than it reads."""
        return self.options.d_out is not None

    def encode(self, rows: Float[Tensor, "*leading d_in"]) -> Float[Tensor, "*leading latents"]:
        """Activations of all latents, as at inference.

        Raises:
            OptionError: The rows have another width.
        """
        return as_dense(self._codes_of(rows))

    def encode_sparse(self, rows: Float[Tensor, "*leading d_in"]) -> SparseCodes:
        """Active latents of each row, as at inference.

        Raises:
            OptionError: The rows have another width.
        """
        return as_sparse(self._codes_of(rows))

    def decode(self, codes: Codes) -> Float[Tensor, "*leading d_out"]:
        """Rows rebuilt from codes.

        With `input_norm='token_std'` the rows come out centred and scaled, since codes do not hold
        a row's mean and deviation; `forward` puts them back.
        """
        if isinstance(codes, SparseCodes):
            flat = sparse_decode(codes, self.W_dec) + self.b_dec
            return flat.reshape(*codes.leading, self.d_out)
        return codes @ self.W_dec + self.b_dec

    def forward(
        self,
        rows: Float[Tensor, "*leading d_in"],
        target: Float[Tensor, "*leading d_out"] | None = None,
        *,
        state: TrainingState | None = None,
    ) -> SaeOutput:
        """Codes, reconstruction and losses: those of training in training mode, else as `encode`.

        Args:
            rows: What is read.
            target: What is to be rebuilt; None: `rows`.
            state: Dead latents and warm-up, which a `Trainer` gives.

        Raises:
            OptionError: A width does not fit, or a transcoder got no target.
        """
        if self.is_transcoder and target is None:
            raise OptionError("A transcoder needs the rows it is to rebuild: give target.")
        leading = rows.shape[:-1]
        flat = flat_rows(rows, self.d_in, "Rows")
        goal = flat if target is None else flat_rows(target, self.d_out, "Target rows")
        if self.options.input_norm == "token_std":
            mean, deviation = row_moments(flat)
            out = self._forward((flat - mean) / deviation, (flat - mean) / deviation, state)
            out = out._replace(reconstruction=out.reconstruction * deviation + mean)
        else:
            out = self._forward(flat, goal, state)
        codes = out.codes
        if isinstance(codes, SparseCodes):
            codes = SparseCodes(
                codes.values, codes.indices, codes.offsets, codes.d_sae, tuple(leading)
            )
        else:
            codes = codes.reshape(*leading, self.d_sae)
        return out._replace(
            reconstruction=out.reconstruction.reshape(*leading, self.d_out), codes=codes
        )

    def _forward(
        self,
        rows: Float[Tensor, "rows d_in"],
        target: Float[Tensor, "rows d_out"],
        state: TrainingState | None,
    ) -> SaeOutput:
        state = state or TrainingState()
        if not self.training:
            codes = self._inference_codes(rows)
            reconstruction = self.decode(codes)
            losses = {"reconstruction": squared_error(reconstruction, target)}
            return SaeOutput(reconstruction, codes, total(losses), losses)
        codes, extra = self._training_codes(rows, state)
        reconstruction = self.decode(codes)
        losses = {"reconstruction": squared_error(reconstruction, target)}
        losses |= self._other_losses(rows, target, reconstruction, codes, extra, state)
        means = self._means(extra)
        losses |= self.losses_of_means(means, state)
        return SaeOutput(reconstruction, codes, total(losses), losses, means)

    def _codes_of(self, rows: Tensor) -> Codes:
        flat = flat_rows(rows, self.d_in, "Rows")
        if self.options.input_norm == "token_std":
            mean, deviation = row_moments(flat)
            flat = (flat - mean) / deviation
        codes = self._inference_codes(flat)
        leading = tuple(rows.shape[:-1])
        if isinstance(codes, SparseCodes):
            return SparseCodes(codes.values, codes.indices, codes.offsets, codes.d_sae, leading)
        return codes.reshape(*leading, self.d_sae)

    @abstractmethod
    def _inference_codes(self, rows: Float[Tensor, "rows d_in"]) -> Codes:
        """Codes as a reader of the trained autoencoder sees them."""

    def _training_codes(
        self, rows: Float[Tensor, "rows d_in"], state: TrainingState
    ) -> tuple[Codes, Any]:
        """Codes while training, and whatever `_other_losses` wants to know besides."""
        return self._inference_codes(rows), None

    def _other_losses(
        self,
        rows: Float[Tensor, "rows d_in"],
        target: Float[Tensor, "rows d_out"],
        reconstruction: Float[Tensor, "rows d_out"],
        codes: Codes,
        extra: Any,
        state: TrainingState,
    ) -> dict[str, Tensor]:
        """Terms of the loss besides the reconstruction and those that are made of means."""
        return {}

    def _means(self, extra: Any) -> dict[str, Tensor]:
        """Means over rows in which the loss is not linear, by the terms they become."""
        return {}

    def losses_of_means(
        self, means: Mapping[str, Float[Tensor, ""]], state: TrainingState
    ) -> dict[str, Tensor]:
        """Terms of the loss that are not linear in a mean over the rows of the whole batch.

        Args:
            means: As `SaeOutput.means`.
            state: Warm-up.
        """
        return {}

    def centred(self, rows: Float[Tensor, "rows d_in"]) -> Float[Tensor, "rows d_in"]:
        """Rows without the decoder's bias, where the options say so."""
        return rows - self.b_dec if self.options.apply_b_dec_to_input else rows

    @torch.no_grad()
    def initialise(self, rows: Float[Tensor, "rows d_in"], target: Tensor | None = None) -> None:
        """Set what is best taken from data: the decoder's bias to the mean of what is rebuilt.

        Not where atoms read rows as they are: their codes hold the mean already.
        """
        goal = rows if target is None else target
        holds_mean = self.reads_with_atoms and not self.options.apply_b_dec_to_input
        if self.options.input_norm == "none" and not holds_mean:
            self.b_dec.copy_(goal.double().mean(0).to(self.b_dec))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Before an optimiser's step: leave out what would only change the length of unit atoms."""
        grad = self.W_dec.grad
        if self.options.decoder_norm == "unit" and grad is not None:
            along = (grad * self.W_dec).sum(1, keepdim=True) / (
                self.W_dec.square().sum(1, keepdim=True).clamp_min(1e-24)
            )
            grad.addcmul_(self.W_dec, along, value=-1)

    @torch.no_grad()
    def normalise(self) -> None:
        """After an optimiser's step: put the atoms' lengths where the options want them."""
        policy = self.options.decoder_norm
        if policy == "free":
            return
        norms = self.W_dec.norm(dim=1, keepdim=True)
        divisor = norms if policy == "unit" else norms.clamp_min(1.0)
        self.W_dec.div_(divisor.clamp_min(torch.finfo(norms.dtype).tiny))

    @torch.no_grad()
    def after_step(self) -> None:
        """After an optimiser's step: bookkeeping beside the atoms' lengths."""

    def latent_axes(self) -> list[tuple[Tensor, int]]:
        """Parameters that hold something of each latent, and along which axis latents lie."""
        axes = {"W_enc": 1}
        return [
            (held, axes.get(name, 0)) for name, held in self.named_parameters() if name != "b_dec"
        ]

    @torch.no_grad()
    def restart_latents(
        self,
        which: Int64[Tensor, " some"],
        read: Float[Tensor, "some d_in"],
        written: Float[Tensor, "some d_out"],
        *,
        encoder_share: float,
        alive: Bool[Tensor, " latents"],
    ) -> None:
        """Begin some latents anew; see `resampling`.

        Args:
            which: Latents.
            read: Directions of length 1 that they are to read.
            written: Directions of length 1 that they are to write.
            encoder_share: Length of their encoders over the mean of live ones.
            alive: Which latents are live.
        """
        if not self.reads_with_atoms:
            rows = self.W_enc.t()
            live = rows[alive] if bool(alive.any()) else rows
            rows[which] = read * (encoder_share * live.norm(dim=1).mean())
        self.W_dec[which] = written * self.options.decoder_init_norm
        self._reset_biases(which)

    def _reset_biases(self, which: Int64[Tensor, " some"]) -> None:
        """Put what is added to or compared with pre-activations of some latents as at the beginning."""
        if not self.reads_with_atoms:
            self.b_enc[which] = 0.0

    @torch.no_grad()
    def fold_decoder_norms(self) -> None:
        """Make every atom of length 1 and scale the encoder instead; reconstructions stay.

        Codes come out in the unit of the rows, which comparing latents needs.
        """
        norms = self.W_dec.norm(dim=1).clamp_min(torch.finfo(self.W_dec.dtype).tiny)
        self.W_dec.div_(norms[:, None])
        self._scale_codes(norms)

    @torch.no_grad()
    def fold_input_scale(self, scale: float, target_scale: float | None = None) -> None:
        """Read raw rows after training on rows multiplied by `scale`; codes in raw units.

        Args:
            scale: What training multiplied the rows read by.
            target_scale: What it multiplied the rows rebuilt by; None: the same.

        Raises:
            OptionError: Rows are normalised one by one, which no folding undoes.
        """
        if self.options.input_norm != "none":
            raise OptionError("input_norm='token_std' cannot be folded; read rows as they are.")
        other = scale if target_scale is None else target_scale
        self._scale_encoder_bias(1 / scale)
        self.W_dec.mul_(scale / other)
        self.b_dec.div_(other)

    def _scale_codes(self, factor: Float[Tensor, " latents"]) -> None:
        """Multiply the code of each latent."""
        self.W_enc.mul_(factor)
        self.b_enc.mul_(factor)

    def _scale_encoder_bias(self, factor: float) -> None:
        """Multiply everything that is added to or compared with a pre-activation."""
        self.b_enc.mul_(factor)

    def save(self, folder: str | Path) -> Path:
        """Write weights (safetensors) and options (JSON) to a folder; see `storage.save_sae`."""
        from .storage import save_sae

        return save_sae(self, folder)

    def describe(self) -> dict[str, Any]:
        """Architecture and options, ready for JSON."""
        names = self.options.__dataclass_fields__
        return {"architecture": self.architecture} | {
            name: getattr(self.options, name) for name in names
        }

    def extra_repr(self) -> str:
        """Shape and architecture on one line."""
        to = f" -> {self.d_out}" if self.is_transcoder else ""
        return f"{self.architecture}: {self.d_in}{to}, {self.d_sae} latents"


def row_moments(
    rows: Float[Tensor, "rows d_in"],
) -> tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]]:
    """Mean and standard deviation of each row over its width."""
    mean = rows.mean(-1, keepdim=True)
    deviation = (rows - mean).square().mean(-1, keepdim=True).sqrt()
    return mean, deviation + 1e-6
