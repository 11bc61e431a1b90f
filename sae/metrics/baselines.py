"""What any dictionary must be compared with: principal components, and a decoder nobody trained.

Both look like a trained dictionary (`encode`, `decode`, `W_dec`), so every metric runs on them.
Random and frozen dictionaries match trained ones on several downstream scores (arXiv 2602.14111),
which is why they are always in the table.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError


class _Keeping:
    """Affine codes of which the k largest by size are kept, all others zero."""

    def __init__(self, mean: Tensor, w_dec: Tensor, k: int) -> None:
        if not 1 <= k <= len(w_dec):
            raise OptionError(f"k must be from 1 to {len(w_dec)}, got {k}.")
        self.mean, self.W_dec, self.k = mean, w_dec, k

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return len(self.W_dec)

    def encode(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows latents"]:
        """The k codes of largest size, signed."""
        codes = (rows - self.mean) @ self.W_dec.T
        kept = codes.abs().topk(self.k, dim=-1).indices
        return torch.zeros_like(codes).scatter(-1, kept, codes.gather(-1, kept))

    def decode(self, codes: Float[Tensor, "rows latents"]) -> Float[Tensor, "rows d_model"]:
        """Rows from codes."""
        return codes @ self.W_dec + self.mean


class PrincipalComponents(_Keeping):
    """Projections on all principal components; per row the k largest are kept.

    The components are orthonormal, so keeping the k largest is the best k-sparse code in that
    basis: a stronger baseline at equal L0 than the first k components (`leading=True` gives those).

    Args:
        x: Rows to fit on, at least as many as wide.
        k: Codes kept per row.
        leading: Keep the first k components for all rows in place of each row's largest.
    """

    def __init__(self, x: Float[Tensor, "rows d_model"], k: int, *, leading: bool = False) -> None:
        x = x.float()
        mean = x.mean(0)
        centred = (x - mean).double()
        vectors = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).T.to(x.dtype)
        super().__init__(mean, vectors[:k] if leading else vectors, k)


class RandomDecoder(_Keeping):
    """Random unit directions as a tied dictionary; per row the k largest correlations are kept.

    The codes are refitted to the row by a common factor of least squares on the fitting rows, so
    that correlated atoms do not count twice; nothing else is learned.

    Args:
        x: Rows that give mean and factor.
        d_sae: Number of latents.
        k: Codes kept per row.
        generator: Source of the directions.
    """

    def __init__(
        self,
        x: Float[Tensor, "rows d_model"],
        d_sae: int,
        k: int,
        *,
        generator: torch.Generator,
    ) -> None:
        x = x.float()
        atoms = torch.randn(d_sae, x.shape[1], generator=generator)
        super().__init__(x.mean(0), atoms / atoms.norm(dim=1, keepdim=True), k)
        self.factor = 1.0
        guess = self.decode(self.encode(x)) - self.mean
        self.factor = float(((x - self.mean) * guess).sum() / guess.square().sum().clamp(min=1e-12))

    def encode(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows latents"]:
        """The k largest correlations times the common factor."""
        return super().encode(rows) * self.factor
