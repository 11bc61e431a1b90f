"""Rows examined before training: are they fit to train on, and by what are they multiplied?

Penalties, thresholds and learning rates mean something only for rows of a known size. Rows are
multiplied by one number, which is folded into the weights afterwards, so that a stored autoencoder
reads raw rows and its codes have their unit:

    unit_ms   1 / sqrt(E |x|^2)        Gemma Scope (arXiv 2408.05147), dictionary_learning, SAEBench
    sqrt_d    sqrt(d) / E |x|          Anthropic's April 2024 update, SAELens
    none      1

Rows longer than a multiple of the median (massive activations, as the first token's) are left out:
they would set the scale, the loss and every atom's first direction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import ActivationsError

ScaleMode = Literal["unit_ms", "sqrt_d", "none"]
"""How rows are scaled; see the module's text."""


@dataclass(frozen=True)
class SiteRows:
    """What a sample of a site's rows says about all."""

    site: str
    """Site name."""
    width: int
    """Columns."""
    n_sampled: int
    """Rows looked at, long ones included."""
    median_norm: float
    """Median length of a row."""
    norm_limit: float
    """Rows longer than this are left out; infinity: none."""
    mean_norm: float
    """Mean length of the rows kept."""
    mean_square: float
    """Mean squared length of the rows kept."""

    def scale(self, mode: ScaleMode) -> float:
        """What rows are multiplied by."""
        if mode == "unit_ms":
            return 1 / math.sqrt(self.mean_square)
        return math.sqrt(self.width) / self.mean_norm if mode == "sqrt_d" else 1.0

    def kept(self, rows: Float[Tensor, "rows d"]) -> Bool[Tensor, " rows"]:
        """Which rows are not too long."""
        return rows.norm(dim=1) <= self.norm_limit


def examine(
    site: str, rows: Tensor, *, n_rows: int | None, d_sae: int, max_norm_ratio: float | None
) -> SiteRows:
    """Make sure a site can be trained on, and measure it.

    Args:
        site: Its name, for messages.
        rows: A sample of its rows.
        n_rows: Rows there are in all; None where nobody knows.
        d_sae: Latents of the largest dictionary that is to be trained on it.
        max_norm_ratio: Rows longer than this many medians are left out; None: none.

    Raises:
        ActivationsError: Rows are no vectors, not finite, do not vary, or are fewer than latents.
    """
    if rows.ndim != 2:
        raise ActivationsError(
            f"Rows of {site} must be vectors, got shape {tuple(rows.shape[1:])} each; choose a site "
            "with one vector per token, such as layers.0.resid_post."
        )
    if n_rows is not None and n_rows < d_sae:
        raise ActivationsError(
            f"{site} has {n_rows:,} rows, fewer than the {d_sae:,} latents that are to be trained; "
            "capture more tokens or take fewer latents."
        )
    rows = rows.float()
    finite = rows.isfinite().all(1)
    if not bool(finite.all()):
        raise ActivationsError(
            f"{int((~finite).sum())} of {len(rows)} sampled rows of {site} hold NaN or infinity, the "
            f"first is row {int((~finite).nonzero()[0])} of the sample. A float16 capture overflows "
            "at 65,504: capture as bfloat16 or float32."
        )
    norms = rows.norm(dim=1)
    median = float(norms.median())
    limit = math.inf if max_norm_ratio is None else max_norm_ratio * median
    kept = rows[norms <= limit]
    spread = float((kept - kept.mean(0)).square().sum())
    if len(kept) < 2 or median == 0 or spread <= 1e-12 * float(kept.square().sum()):
        raise ActivationsError(
            f"The rows of {site} do not vary: there is nothing to learn. Choose another site."
        )
    return SiteRows(
        site=site,
        width=rows.shape[1],
        n_sampled=len(rows),
        median_norm=median,
        norm_limit=limit,
        mean_norm=float(norms[norms <= limit].mean()),
        mean_square=float(norms[norms <= limit].double().square().mean()),
    )


def check_finite(site: str, rows: Float[Tensor, "rows d"]) -> None:
    """Make sure that every row of a batch is finite.

    Raises:
        ActivationsError: One is not.
    """
    if not bool(torch.isfinite(rows.sum())):
        raise ActivationsError(
            f"A batch of {site} holds NaN or infinity; the last checkpoint is kept. Capture the site "
            "as bfloat16 or float32."
        )
