"""Divergences between finite laws, in float64: what every categorical entropy is made of.

Laws stand on the last axis and broadcast over the others. Conventions of arXiv 2507.19247 with the
corrections of its Pinsker constants: total variation is half of the L1 distance, squared Hellinger is
1 - BC (BC the Bhattacharyya coefficient), so 1 - BC <= KL/2 and TV^2 <= KL/2. Natural logarithms.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from jaxtyping import Float

from ..errors import OptionError

Laws = Float[np.ndarray, "... outcomes"]
Divergence = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From (p, q), laws on the last axis, to D(p || q)."""

ALPHA = 0.5
"""Order of the Rényi divergence where none is given; its categorical entropy has order 2 - alpha."""


def kl(p: Laws, q: Laws) -> Float[np.ndarray, "*axes"]:
    """Kullback-Leibler divergence sum p log(p/q) in nats; infinite where q lacks p's support."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    return np.asarray(terms.sum(-1))


def renyi(p: Laws, q: Laws, *, alpha: float = ALPHA) -> Float[np.ndarray, "*axes"]:
    """Rényi divergence log(sum p^alpha q^(1-alpha)) / (alpha - 1) in nats.

    Raises:
        OptionError: `alpha` is not positive, or is 1 (that limit is `kl`).
    """
    if alpha <= 0 or alpha == 1:
        raise OptionError(f"alpha must be positive and not 1, got {alpha}; use kl for 1.")
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p**alpha * np.power(q, 1 - alpha), 0.0)
        return np.asarray(np.log(terms.sum(-1)) / (alpha - 1))


def total_variation(p: Laws, q: Laws) -> Float[np.ndarray, "*axes"]:
    """Half of the L1 distance."""
    return np.asarray(np.abs(p - q).sum(-1) / 2)


def squared_hellinger(p: Laws, q: Laws) -> Float[np.ndarray, "*axes"]:
    """One minus the Bhattacharyya coefficient sum sqrt(p q)."""
    return np.asarray(1 - np.sqrt(p * q).sum(-1))


def chi_squared(p: Laws, q: Laws) -> Float[np.ndarray, "*axes"]:
    """Pearson's sum (p-q)^2 / q; infinite where q lacks p's support."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where((p == 0) & (q == 0), 0.0, (p - q) ** 2 / q)
    return np.asarray(terms.sum(-1))


def jensen_shannon(p: Laws, q: Laws) -> Float[np.ndarray, "*axes"]:
    """Mean KL of both laws to their midpoint, in nats; at most log 2."""
    middle = (p + q) / 2
    return (kl(p, middle) + kl(q, middle)) / 2


DIVERGENCES: dict[str, Divergence] = {
    "kl": kl,
    "renyi": partial(renyi, alpha=ALPHA),
    "tv": total_variation,
    "hellinger": squared_hellinger,
    "chi2": chi_squared,
    "js": jensen_shannon,
}
"""Every divergence of the paper by name; `renyi` at order `ALPHA`."""
