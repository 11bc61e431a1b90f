"""One subject's signals built from another's, and how much of them is right (arXiv 2404.07850, 3.3).

Nothing here looks at the target's signals of the items it is scored on. Paired ways learn from the
first half of the test items, which all subjects answered, so everything is scored on the second half.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .baselines import paired_common_space, procrustes, ridge
from .bridge import Bridge
from .data import Subject
from .metrics import explained

BUILDING = ("bridge", "bridge without cycle", "paired ridge", "paired Procrustes", "paired GCCA")
"""Ways of building one subject's signals from another's. Paired ones learn from items that all
answered; a bridge has seen no stimulus that two subjects share."""

Built = dict[tuple[str, int, int], Float[Tensor, "items pooled"]]
"""Signals by way, number of the source and number of the target; of the second half of test items."""


def second_half(n_test: int) -> slice:
    """The test items that built signals are of."""
    return slice(n_test // 2, None)


@torch.no_grad()
def build_signals(bridge: Bridge, uncycled: Bridge, subjects: Sequence[Subject]) -> Built:
    """Every subject's signals from every subject's (its own too), in each of `BUILDING`.

    Args:
        bridge: A bridge between the subjects.
        uncycled: The same, trained without the cycle loss.
        subjects: Who takes part.
    """
    built: Built = {}
    later = second_half(len(subjects[0].test))
    earlier = slice(later.start)
    first, second = ([one.test[part] for one in subjects] for part in (earlier, later))
    for j, target in enumerate(subjects):
        wanted = bridge.port(target.name).pool(target.test[earlier])
        in_common = paired_common_space(first, second, wanted)
        for i, source in enumerate(subjects):
            found = (
                bridge.synthesise(source.name, target.name, second[i]),
                uncycled.synthesise(source.name, target.name, second[i]),
                ridge(first[i], wanted, second[i]),
                procrustes(first[i], wanted, second[i]),
                in_common[i],
            )
            built |= {(way, i, j): rows for way, rows in zip(BUILDING, found, strict=True)}
    return built


@torch.no_grad()
def built_share(
    built: Built, bridge: Bridge, subjects: Sequence[Subject]
) -> Float[np.ndarray, "building source target"]:
    """Share of the variance of every subject's pooled signals that built ones explain (R^2)."""
    found = np.zeros((len(BUILDING), len(subjects), len(subjects)))
    later = second_half(len(subjects[0].test))
    for (way, i, j), rows in built.items():
        wanted = bridge.port(subjects[j].name).pool(subjects[j].test[later])
        found[BUILDING.index(way), i, j] = explained(rows, wanted)
    return found
