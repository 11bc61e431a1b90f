"""Orthogonal matching pursuit, and an autoencoder that encodes by it: references for matching pursuit.

At each step the atom with the largest |correlation| with the residual joins the support, and all
coefficients are solved again by least squares (Pati et al. 1993), so that the residual is orthogonal
to every atom chosen. Codes are signed. At a least-squares solution the error's gradient in the
dictionary is the one with coefficients held fixed, so training needs no gradient through the solution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .codes import Codes, SparseCodes
from .encoding import stretch_rows
from .options import SaeOptions


def orthogonal_matching_pursuit(
    rows: Float[Tensor, "rows d"], dictionary: Float[Tensor, "latents d"], *, n_steps: int
) -> tuple[Float[Tensor, "rows steps"], Int64[Tensor, "rows steps"]]:
    """Signed coefficients and atoms of every row, in order of choice.

    Args:
        rows: What is rebuilt.
        dictionary: Its rows are the atoms, of length 1 if the choice is to be fair.
        n_steps: Atoms of each row; at most the width and the number of atoms.

    Raises:
        OptionError: `n_steps` is out of range.
    """
    limit = min(dictionary.shape)
    if not 1 <= n_steps <= limit:
        raise OptionError(f"n_steps must be from 1 to {limit}, got {n_steps}.")
    with torch.no_grad():
        residual = rows
        chosen = torch.zeros(len(rows), 0, dtype=torch.long, device=rows.device)
        values = rows.new_zeros(len(rows), 0)
        for _ in range(n_steps):
            scores = (residual @ dictionary.t()).abs()
            scores.scatter_(1, chosen, -1.0)
            chosen = torch.cat([chosen, scores.argmax(1, keepdim=True)], dim=1)
            atoms = dictionary[chosen]
            gram = atoms @ atoms.mT
            # An atom in the span of the others makes the Gram matrix singular.
            ridge = torch.eye(chosen.shape[1], device=rows.device, dtype=rows.dtype)
            ridge = ridge * torch.finfo(rows.dtype).eps * chosen.shape[1]
            values = torch.linalg.solve(gram + ridge, (atoms @ rows[..., None]))[..., 0]
            residual = rows - torch.einsum("bt,btd->bd", values, atoms)
    return values, chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class OmpOptions(SaeOptions):
    """Options of the OMP autoencoder."""

    k: int = 32
    """Active latents of every row."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        SaeOptions.__post_init__(self)
        if not 1 <= self.k <= min(self.d_in, self.d_sae):
            raise OptionError(
                f"k must be from 1 to {min(self.d_in, self.d_sae)} (width and latents), got {self.k}."
            )
        if self.d_out is not None:
            raise OptionError("OMP reads with its own atoms and cannot be a transcoder.")


class OmpSae(SparseAutoencoder):
    """Autoencoder whose encoder is orthogonal matching pursuit; codes are signed."""

    architecture: ClassVar[str] = "omp"
    Options: ClassVar[type[SaeOptions]] = OmpOptions
    options: OmpOptions
    reads_with_atoms: ClassVar[bool] = True

    def _make_encoder(self, atoms: Tensor, generator: torch.Generator) -> None:
        pass

    def _inference_codes(self, rows: Tensor) -> Codes:
        step = stretch_rows(self.d_sae, on_cpu=rows.device.type == "cpu")
        found = [
            orthogonal_matching_pursuit(part, self.W_dec.detach(), n_steps=self.options.k)
            for part in self.centred(rows).detach().split(step)
        ]
        values, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
        return SparseCodes.from_padded(values, indices, self.d_sae)

    def _scale_codes(self, factor: Tensor) -> None:
        """Codes follow from the atoms."""

    def _scale_encoder_bias(self, factor: float) -> None:
        """There is none."""
