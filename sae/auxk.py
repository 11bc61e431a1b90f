"""The auxiliary loss: dead latents rebuild what the live ones leave (arXiv 2406.04093, section A.2).

The k_aux largest pre-activations among dead latents rebuild the error e = x - x', which is held fixed,
without the decoder's bias (adding it again is a known bug of two libraries). The squared error is
divided by the variance of e and multiplied by that of x, so that the coefficient means what it means
in the paper, whose losses are both relative, while the reconstruction's loss stays an absolute one.
Like SAELens and sparsify, fewer than k_aux dead latents count in proportion. Dead pre-activations are
rectified before they rebuild.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .codes import SparseCodes
from .encoding import encode_top_k
from .sparse import sparse_decode

if TYPE_CHECKING:
    from .base import SparseAutoencoder


def auxk_loss(
    sae: SparseAutoencoder,
    rows: Float[Tensor, "rows d_in"],
    target: Float[Tensor, "rows d_out"],
    reconstruction: Float[Tensor, "rows d_out"],
    dead: Bool[Tensor, " latents"],
    k_aux: int,
) -> Float[Tensor, ""] | None:
    """Squared error per row of the error's reconstruction by dead latents, rescaled; None if none is.

    Args:
        sae: Whose encoder and atoms; gradients reach those of dead latents only.
        rows: What is read.
        target: What is rebuilt.
        reconstruction: What live latents made of it.
        dead: Latents that have not fired for long.
        k_aux: At most this many of them for each row.
    """
    which = dead.nonzero().flatten()
    if len(which) == 0:
        return None
    error = (target - reconstruction).detach()
    centred = (sae.centred(rows)).detach()
    k = min(k_aux, len(which))
    encoder = sae.W_enc.t()[which].t()
    values, chosen = encode_top_k(centred, encoder, sae.b_enc[which], k)
    codes = SparseCodes.from_padded(values, chosen, len(which))
    rebuilt = sparse_decode(codes, sae.W_dec[which])
    share = variance(target) / variance(error).clamp_min(1e-30)
    loss = (rebuilt - error).square().sum() / max(len(rows), 1)
    return torch.nan_to_num(loss * share) * min(len(which) / k_aux, 1.0)


def variance(rows: Float[Tensor, "rows d"]) -> Float[Tensor, ""]:
    """Squared distance from the mean row, averaged over rows; outside the graph of gradients."""
    rows = rows.detach()
    return (rows - rows.mean(0)).square().sum() / max(len(rows), 1)
