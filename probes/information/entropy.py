"""Categorical entropy of a model's predictions, for every divergence, O(vocabulary) per position.

H_D(k)(h) = D(copy after k || (k tensor k) after copy) compares the diagonal law on pairs of tokens
with the product law (arXiv 2507.19247, section 4). With p = k(h, .) and s the size of its support
it is

    KL                  -sum p log p, Shannon entropy (proposition 4.2)
    Rényi of order a    Rényi entropy of order 2 - a: log(sum p^(2-a)) / (a - 1)
    total variation     1 - sum p^2
    squared Hellinger   1 - sum p^(3/2)
    chi squared         s - 1
    Jensen-Shannon      log 2 - 1/2 sum (p + p^2) log(1 + p) + 1/2 sum p^2 log p

with the diagonal law first; the other order of KL is infinite unless p is one-hot. Chi squared only
counts the support (a softmax's is the whole vocabulary), so it is given for completeness, and
neither it nor Rényi of order 2 and more is continuous: the paper's theorem 5.2 does not cover them.
Nothing of the size of the vocabulary squared is ever made.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import OptionError
from .divergences import ALPHA


class CategoricalEntropies(NamedTuple):
    """Categorical entropies of each row, by divergence."""

    kl: Tensor
    """Shannon entropy, nats."""
    renyi: Tensor
    """Rényi entropy of order 2 - alpha, nats."""
    tv: Tensor
    """Gini-Simpson index, 0 to 1."""
    hellinger: Tensor
    """1 - sum p^(3/2), 0 to 1."""
    chi2: Tensor
    """Size of the support less one."""
    js: Tensor
    """Jensen-Shannon, nats, at most log 2."""


def categorical_entropies(
    logits: Float[Tensor, "rows vocab"], *, alpha: float = ALPHA
) -> CategoricalEntropies:
    """Entropies of softmax(logits), in float32 or, for float64 logits, float64.

    Args:
        logits: The model's own logits, soft cap and scale included.
        alpha: Order of the Rényi divergence, between 0 and 2 and not 1.

    Raises:
        OptionError: `alpha` is out of range.
    """
    if not 0 < alpha < 2 or alpha == 1:
        raise OptionError(
            f"alpha must lie between 0 and 2 and not be 1 (that is kl), got {alpha}; from 2 on the "
            "entropy only counts the support."
        )
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_z = logits.logsumexp(-1)
    probs = (logits - log_z[:, None]).exp()
    three_halves = _dot(probs, probs.sqrt())
    powers = three_halves if alpha == 0.5 else probs.pow(2 - alpha).sum(-1)
    squares = _dot(probs, probs)
    weighted = probs.square()
    # sum p^2 log p = sum p^2 logit - log Z sum p^2; minus infinities stand where p is zero.
    held = logits.clamp_min(torch.finfo(logits.dtype).min)
    squares_log = _dot(weighted, held) - log_z * squares
    mixed = _dot(weighted.add_(probs), torch.log1p(probs))
    return CategoricalEntropies(
        kl=log_z - _dot(probs, held),
        renyi=powers.log() / (alpha - 1),
        tv=1 - squares,
        hellinger=1 - three_halves,
        chi2=(probs > 0).sum(-1).to(probs.dtype) - 1,
        js=math.log(2) - mixed / 2 + squares_log / 2,
    )


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Row by row sum of products, without a third array of their size."""
    return torch.linalg.vecdot(left, right)
