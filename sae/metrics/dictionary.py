"""What the metrics need of a dictionary, and how they read it.

A trained autoencoder has more to say than this; principal components and a random decoder do not.
So every metric asks for no more than `encode`, `decode` and the atoms `W_dec`.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..base import SparseAutoencoder, row_moments
from ..codes import SparseCodes, as_sparse


@runtime_checkable
class Dictionary(Protocol):
    """Whatever turns rows into codes and codes into rows."""

    W_dec: Any
    """Atoms as rows, (latents, d_model)."""

    def encode(self, rows: Any) -> Any:
        """Codes of rows, (rows, latents)."""
        ...

    def decode(self, codes: Any) -> Any:
        """Rows from codes, (rows, d_model)."""
        ...


Dictionary.register(SparseAutoencoder)  # pyright: ignore[reportAttributeAccessIssue]
"""Asked at run time, Python 3.12 does not find `W_dec` where a module keeps its parameters."""


def device_of(dictionary: Dictionary) -> torch.device:
    """Where a dictionary computes; rows may lie elsewhere."""
    return torch.as_tensor(dictionary.W_dec).device


def sparse_codes(dictionary: Dictionary, rows: Float[Tensor, "rows d_model"]) -> SparseCodes:
    """Active latents of rows, by the dictionary's own sparse path where it has one.

    They lie where the rows do.
    """
    own = getattr(dictionary, "encode_sparse", None)
    there = rows.to(device_of(dictionary))
    codes = as_sparse(dictionary.encode(there)) if own is None else own(there)
    return codes.to(rows.device)


def rebuild(
    dictionary: Dictionary, codes: SparseCodes | Tensor, rows: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows d_model"]:
    """Rows rebuilt from codes, as at inference.

    Args:
        dictionary: Whose codes they are.
        codes: Codes, changed or not.
        rows: What was encoded: an autoencoder that normalises each row needs its mean and spread.

    Raises:
        OptionError: The dictionary rebuilds another site than it reads (a transcoder).
    """
    options = getattr(dictionary, "options", None)
    if getattr(options, "d_out", None) is not None:
        raise OptionError(
            "A transcoder rebuilds another site than it reads; these metrics are for autoencoders."
        )
    if not hasattr(dictionary, "encode_sparse") and isinstance(codes, SparseCodes):
        codes = codes.dense()
    made = dictionary.decode(codes.to(device_of(dictionary))).to(rows.device)
    if getattr(options, "input_norm", "none") == "token_std":
        mean, deviation = row_moments(rows)
        made = made * deviation + mean
    return made


def atoms_of(dictionary: Dictionary) -> Float[Tensor, "latents d_model"]:
    """The atoms, detached, on the CPU."""
    return torch.as_tensor(dictionary.W_dec).detach().float().cpu()
