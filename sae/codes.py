"""Sparse codes: which latents are active in each row, and how strongly.

Rows have unequal numbers of active latents (BatchTopK, matching pursuit with a tolerance), so codes are
kept ragged: all active entries one after another, cut into rows by offsets. `padded` gives the
rectangular (values, indices) that fixed-k code likes, `dense` the full matrix.

Axes: rows (flattened leading axes of the input), active (all active entries, row by row).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..probes.errors import OptionError


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """Active latents of a batch of rows.

    An entry may hold 0 (top-k where fewer than k pre-activations are positive); such entries count
    in no statistic.
    """

    values: Float[Tensor, " active"]
    """Activation of each entry."""
    indices: Int64[Tensor, " active"]
    """Latent of each entry."""
    offsets: Int64[Tensor, " rows_plus_1"]
    """Where each row begins; the last is the number of entries."""
    d_sae: int
    """Latents in the dictionary."""
    leading: tuple[int, ...]
    """Shape of the input without its last axis; its product is the number of rows."""

    @classmethod
    def from_padded(
        cls, values: Float[Tensor, "*leading k"], indices: Int64[Tensor, "*leading k"], d_sae: int
    ) -> SparseCodes:
        """Codes with the same number of entries in every row; entries of value 0 are kept.

        Args:
            values: Activations.
            indices: Latents, distinct within a row (among those with a value).
            d_sae: Latents in the dictionary.
        """
        leading, k = tuple(values.shape[:-1]), values.shape[-1]
        n_rows = values.numel() // k if k else 0
        offsets = torch.arange(n_rows + 1, device=values.device) * k
        return cls(values.reshape(-1), indices.reshape(-1), offsets, d_sae, leading)

    @classmethod
    def from_dense(cls, codes: Float[Tensor, "*leading latents"]) -> SparseCodes:
        """Codes of a full matrix: its entries other than 0."""
        flat = codes.reshape(-1, codes.shape[-1])
        rows, indices = flat.nonzero(as_tuple=True)
        counts = torch.bincount(rows, minlength=len(flat))
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return cls(flat[rows, indices], indices, offsets, codes.shape[-1], tuple(codes.shape[:-1]))

    @property
    def n_rows(self) -> int:
        """Rows."""
        return len(self.offsets) - 1

    @property
    def rows(self) -> Int64[Tensor, " active"]:
        """Row of each entry."""
        numbers = torch.arange(self.n_rows, device=self.offsets.device)
        return numbers.repeat_interleave(self.offsets.diff(), output_size=len(self.values))

    def l0(self) -> Int64[Tensor, " rows"]:
        """Active latents of each row."""
        counts = self.offsets.new_zeros(self.n_rows)
        return counts.index_add_(0, self.rows, (self.values != 0).long())

    def dense(self) -> Float[Tensor, "*leading latents"]:
        """The full matrix."""
        full = self.values.new_zeros(self.n_rows * self.d_sae)
        full = full.index_add(0, self.rows * self.d_sae + self.indices, self.values)
        return full.reshape(*self.leading, self.d_sae)

    def padded(self) -> tuple[Float[Tensor, "*leading k"], Int64[Tensor, "*leading k"]]:
        """(values, indices) with as many columns as the fullest row has entries; padding is 0, 0."""
        counts = self.offsets.diff()
        k = int(counts.max()) if self.n_rows else 0
        columns = torch.arange(k, device=counts.device)
        filled = columns < counts[:, None]
        values = self.values.new_zeros(self.n_rows, k)
        indices = self.indices.new_zeros(self.n_rows, k)
        values = values.masked_scatter(filled, self.values)
        indices.masked_scatter_(filled, self.indices)
        return values.reshape(*self.leading, k), indices.reshape(*self.leading, k)

    def detach(self) -> SparseCodes:
        """The same codes outside the graph of gradients."""
        return SparseCodes(
            self.values.detach(), self.indices, self.offsets, self.d_sae, self.leading
        )

    def to(self, device: torch.device) -> SparseCodes:
        """The same codes on a device."""
        return SparseCodes(
            self.values.to(device), self.indices.to(device), self.offsets.to(device), self.d_sae,
            self.leading,
        )  # fmt: skip

    def counts(self) -> Int64[Tensor, " latents"]:
        """In how many rows each latent is active."""
        total = self.indices.new_zeros(self.d_sae)
        return total.index_add_(0, self.indices, (self.values != 0).long())


Codes = SparseCodes | Tensor
"""Codes as an architecture computes them: sparse, or a full matrix [..., latents]."""


def as_sparse(codes: Codes) -> SparseCodes:
    """Codes as active entries."""
    return codes if isinstance(codes, SparseCodes) else SparseCodes.from_dense(codes)


def as_dense(codes: Codes) -> Tensor:
    """Codes as a full matrix."""
    return codes.dense() if isinstance(codes, SparseCodes) else codes


def at_least_float32(values: Tensor) -> Tensor:
    """Values that a product under autocast may have left in a shorter type, in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def flat_rows(rows: Tensor, width: int, what: str) -> Tensor:
    """Rows with all leading axes flattened into one.

    Args:
        rows: [..., width], or [width] for one row.
        width: What the last axis must be.
        what: What the rows are, for the message.

    Raises:
        OptionError: The last axis has another width.
    """
    if rows.ndim == 0 or rows.shape[-1] != width:
        raise OptionError(
            f"{what} must have {width} columns, got shape {tuple(rows.shape)}. The autoencoder was "
            "made for another site or model; train one for this width."
        )
    return rows.reshape(-1, width)
