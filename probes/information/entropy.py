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


class Condensed(NamedTuple):
    """What one sweep over the vocabulary leaves of each row of logits."""

    entropies: CategoricalEntropies
    log_z: Tensor
    """Log of the partition function, nats."""
    greedy: Tensor
    """Likeliest token."""
    confidence: Tensor
    """Its probability."""


BLOCK = 32
"""Rows swept at a time: three arrays of them stay in the processor's cache."""


class Sweep:
    """Condenses blocks of logits in place, with arrays made once.

    Everything is relative to each row's largest logit, so that sums of p log p lose nothing to a
    large log Z; every array is read while it is in the cache, and exponentials are taken once. After
    `condense` the block's probabilities stand in `probs`.

    Args:
        like: Logits whose width, type and device the arrays take.
        alpha: Order of the Rényi divergence, between 0 and 2 and not 1.
        rows: Most rows of a block.

    Raises:
        OptionError: `alpha` is out of range.
    """

    def __init__(
        self, like: Float[Tensor, "rows vocab"], *, alpha: float = ALPHA, rows: int = BLOCK
    ) -> None:
        if not 0 < alpha < 2 or alpha == 1:
            raise OptionError(
                f"alpha must lie between 0 and 2 and not be 1 (that is kl), got {alpha}; from 2 on "
                "the entropy only counts the support."
            )
        self.alpha = alpha
        self._shifted, self._probs, self._work = (
            torch.empty(min(rows, len(like)), like.shape[1], dtype=like.dtype, device=like.device)
            for _ in range(3)
        )
        self._n = 0

    @property
    def probs(self) -> Float[Tensor, "rows vocab"]:
        """Probabilities of the last block; overwritten by the next."""
        return self._probs[: self._n]

    def n_above(
        self, logits: Float[Tensor, "rows vocab"], values: Float[Tensor, " rows"]
    ) -> Float[Tensor, " rows"]:
        """How many logits of each row lie above its value."""
        return torch.gt(logits, values[:, None], out=self._work[: len(logits)]).sum(-1)

    @torch.no_grad()
    def condense(self, logits: Float[Tensor, "rows vocab"]) -> Condensed:
        """Condense a block of logits of the type and width the sweep was made for."""
        self._n = len(logits)
        shifted, probs, work = (
            held[: self._n] for held in (self._shifted, self._probs, self._work)
        )
        best = logits.max(-1)
        torch.sub(logits, best.values[:, None], out=shifted)
        # Minus infinities stand where p is zero; zero times the least number is zero.
        shifted.clamp_min_(torch.finfo(logits.dtype).min)
        z = torch.exp(shifted, out=probs).sum(-1)
        probs /= z[:, None]
        log_z = z.log()
        dot = torch.linalg.vecdot
        three_halves = dot(torch.sqrt(probs, out=work), probs)
        powers = three_halves
        if self.alpha != 0.5:
            powers = torch.pow(probs, 2 - self.alpha, out=work).sum(-1)
        squares = torch.mul(probs, probs, out=work).sum(-1)
        squares_log = dot(work, shifted) - log_z * squares
        shannon = log_z - dot(probs, shifted)
        work += probs
        mixed = dot(work, torch.log1p(probs, out=shifted))
        support = torch.gt(probs, 0, out=work).sum(-1)
        entropies = CategoricalEntropies(
            kl=shannon,
            renyi=powers.log() / (self.alpha - 1),
            tv=1 - squares,
            hellinger=1 - three_halves,
            chi2=support - 1,
            js=math.log(2) - mixed / 2 + squares_log / 2,
        )
        return Condensed(entropies, log_z + best.values, best.indices, 1 / z)


def categorical_entropies(
    logits: Float[Tensor, "rows vocab"], *, alpha: float = ALPHA
) -> CategoricalEntropies:
    """Entropies of softmax(logits), in float32 or, for float64 logits, float64; no gradients.

    Args:
        logits: The model's own logits, soft cap and scale included.
        alpha: Order of the Rényi divergence, between 0 and 2 and not 1.

    Raises:
        OptionError: `alpha` is out of range.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    sweep = Sweep(logits, alpha=alpha)
    parts = [sweep.condense(block).entropies for block in logits.split(BLOCK)]
    return CategoricalEntropies(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
