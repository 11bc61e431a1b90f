"""Streaming activation mass: all the measure needs is sum |z| per latent.

`UsageAccumulator` keeps one sum per latent, `DocumentUsage` one per document and latent, which is
what intervals over documents and F(n) need. Both add in float64, so that any chunking gives the
same.

The gauge: a dictionary whose decoder norms are free can trade |z_i| against ||d_i||, which changes
the shares and nothing else. With `norms` each code counts |z_i| ||d_i||, the length of what it
writes. The paper ties the weights, which fixes the gauge, and uses plain codes (arXiv 2512.13568).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .entropy import EffectiveFeatures, effective_features
from .errors import BadCodesError


class UsageAccumulator:
    """Activation mass per latent over any number of updates.

    Args:
        n_latents: Size of the dictionary.
    """

    def __init__(self, n_latents: int) -> None:
        self.mass = torch.zeros(n_latents, dtype=torch.float64)
        self.n_rows = 0

    def update(
        self,
        codes: Float[Tensor, "*batch latents"],
        *,
        norms: Float[Tensor, " latents"] | None = None,
    ) -> None:
        """Add dense codes.

        Args:
            codes: Codes of some activations.
            norms: Decoder norms, where they are free; see the module.

        Raises:
            BadCodesError: Codes are not finite or of another width than the dictionary.
        """
        mass = _masses(codes, norms, len(self.mass)).sum(0)
        self.mass += mass.to(self.mass.device)
        self.n_rows += codes[..., 0].numel()

    def update_sparse(
        self,
        ids: Int[Tensor, "*batch active"],
        values: Float[Tensor, "*batch active"],
        *,
        norms: Float[Tensor, " latents"] | None = None,
    ) -> None:
        """Add codes given as latent numbers and values; padding has value 0 and any valid number.

        Raises:
            BadCodesError: Values are not finite, or a latent's number is outside the dictionary.
        """
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.mass):
            raise BadCodesError(
                f"Latent numbers must be 0-{len(self.mass) - 1}, got {int(ids.min())} to "
                f"{int(ids.max())}; make the accumulator as wide as the dictionary."
            )
        flat = ids.reshape(-1).long()
        mass = _finite(values).abs().reshape(-1)
        if norms is not None:
            mass = mass * norms.double()[flat]
        self.mass.index_add_(0, flat.cpu(), mass.cpu())
        self.n_rows += ids[..., 0].numel()

    def merge(self, other: UsageAccumulator) -> None:
        """Add another's sums, from another process or chunk, say.

        Raises:
            BadCodesError: It is of another width.
        """
        if len(other.mass) != len(self.mass):
            raise BadCodesError(
                f"Accumulators must have the same width, got {len(self.mass)} and {len(other.mass)}."
            )
        self.mass += other.mass
        self.n_rows += other.n_rows

    def result(self, width: int) -> EffectiveFeatures:
        """Effective features of a layer of `width` dimensions."""
        return effective_features(self.mass, width=width, n_rows=self.n_rows)

    def __repr__(self) -> str:
        return f"UsageAccumulator({len(self.mass)} latents, {self.n_rows:,} rows)"


class DocumentUsage:
    """Activation mass per document and latent.

    Memory: 8 bytes per document and latent.

    Args:
        n_documents: How many documents there are.
        n_latents: Size of the dictionary.
    """

    def __init__(self, n_documents: int, n_latents: int) -> None:
        self.mass = torch.zeros(n_documents, n_latents, dtype=torch.float64)
        self.n_rows = torch.zeros(n_documents, dtype=torch.int64)

    def update(
        self,
        codes: Float[Tensor, "rows latents"],
        documents: Int[Tensor, " rows"],
        *,
        norms: Float[Tensor, " latents"] | None = None,
    ) -> None:
        """Add codes, each row to its document.

        Raises:
            BadCodesError: Codes are not finite or of another width, or there is no such document.
        """
        if documents.numel() and not 0 <= int(documents.min()) <= int(documents.max()) < len(
            self.mass
        ):
            raise BadCodesError(
                f"Documents must be 0-{len(self.mass) - 1}, got {int(documents.min())} to "
                f"{int(documents.max())}."
            )
        documents = documents.long().cpu()
        self.mass.index_add_(0, documents, _masses(codes, norms, self.mass.shape[1]).cpu())
        self.n_rows.index_add_(0, documents, torch.ones_like(documents))

    def result(self, width: int) -> EffectiveFeatures:
        """Effective features over all documents."""
        return effective_features(self.mass.sum(0), width=width, n_rows=int(self.n_rows.sum()))

    def __repr__(self) -> str:
        return f"DocumentUsage({self.mass.shape[0]} documents, {self.mass.shape[1]} latents)"


def _masses(codes: Tensor, norms: Tensor | None, n_latents: int) -> Tensor:
    """|codes| in float64, rows by latents, in the gauge of the norms."""
    if codes.shape[-1] != n_latents:
        raise BadCodesError(
            f"Codes must have {n_latents} latents, got {codes.shape[-1]}; make the accumulator as "
            "wide as the dictionary."
        )
    mass = _finite(codes).abs().reshape(-1, n_latents)
    return mass if norms is None else mass * norms.double()


def _finite(values: Tensor) -> Tensor:
    values = values.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise BadCodesError(
            "Codes must be finite, got infinite or missing values; leave out the rows they came from, "
            "or compute codes in float32."
        )
    return values
