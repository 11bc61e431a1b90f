"""Entropies and mutual informations of a joint law held as an array, in nats, exact.

One axis per variable. These are the closed forms on small alphabets; nothing is estimated.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Joint = Float[np.ndarray, "*axes"]


def entropy(joint: Joint, axes: Sequence[int] | None = None) -> float:
    """Shannon entropy of the variables on `axes` (None for all), in nats."""
    law = _marginal(joint, axes if axes is not None else range(joint.ndim))
    positive = law[law > 0]
    return float(-(positive * np.log(positive)).sum())


def mutual_information(
    joint: Joint, left: Sequence[int], right: Sequence[int], given: Sequence[int] = ()
) -> float:
    """I(left; right | given) in nats, by four entropies."""
    left, right, given = list(left), list(right), list(given)
    both = entropy(joint, left + given) + entropy(joint, right + given)
    return both - entropy(joint, left + right + given) - entropy(joint, given)


def surplus(joint: Joint) -> float:
    """I(H; W_1, W_2, ... | W_0) of a joint law with axes (H, W_0, W_1, ...), in nats.

    Surplus_K of the paper, K counting W_0: the chain rule is I(H; W_0..W_{K-1}) = I(H; W_0) +
    Surplus_K.
    """
    return mutual_information(joint, [0], range(2, joint.ndim), [1])


def _marginal(joint: Joint, axes: Sequence[int]) -> np.ndarray:
    away = tuple(axis for axis in range(joint.ndim) if axis not in set(axes))
    return np.asarray(joint.sum(axis=away)).ravel()
