"""Grouping a dense MLP's neurons into experts of equal size.

"coactivation": neurons that fire together belong together (MoEfication, arXiv 2110.01786): balanced
k-means on each neuron's profile of sizes |hidden| over tokens, scaled to length one.
"weights": the same on the neurons' gate rows (also MoEfication). "random": the control.

Deviation: MoEfication partitions a co-activation graph; here the profiles themselves are clustered,
which needs no graph library and takes how strongly neurons fire into account.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..probes.errors import OptionError

Grouping = Literal["coactivation", "weights", "random"]

N_ITERATIONS = 8


def group_neurons(
    hidden: Float[Tensor, "rows neurons"],
    gate: Float[Tensor, "neurons d_model"],
    n_experts: int,
    *,
    by: Grouping = "coactivation",
    seed: int = 0,
) -> Int64[Tensor, "experts size"]:
    """Neurons of each expert, in rising order.

    Args:
        hidden: Inputs of the down projection on some tokens.
        gate: Gate projection, one row per neuron.
        n_experts: How many groups; must divide the number of neurons.
        by: What makes neurons alike.
        seed: Seed of the first centres, or of the random grouping.

    Raises:
        OptionError: n_experts does not divide the number of neurons.
    """
    n_neurons = gate.shape[0]
    if n_experts < 1 or n_neurons % n_experts:
        fitting = [n for n in range(2, 65) if n_neurons % n == 0]
        raise OptionError(
            f"n_experts must divide the {n_neurons} neurons of a layer, got {n_experts}; "
            f"{', '.join(map(str, fitting))} do."
        )
    if by == "random":
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(n_neurons, generator=generator)
        return order.reshape(n_experts, -1).sort(dim=1).values
    if by not in ("coactivation", "weights"):
        raise OptionError(f"by must be 'coactivation', 'weights' or 'random', got {by!r}.")
    points = hidden.abs().T if by == "coactivation" else gate
    points = points.detach().float().cpu()
    points = points / points.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return balanced_clusters(points, n_experts, seed=seed)


def balanced_clusters(
    points: Float[Tensor, "points width"], n_clusters: int, *, seed: int = 0
) -> Int64[Tensor, "clusters size"]:
    """Clusters of equal size by balanced k-means on the sphere.

    Points choose in the order of how much they would lose by their second choice; a full cluster
    takes no more. Centres start far apart (k-means++).
    """
    size = len(points) // n_clusters
    generator = np.random.default_rng(seed)
    centres = points[_spread(points, n_clusters, generator)]
    labels = torch.zeros(len(points), dtype=torch.int64)
    for _ in range(N_ITERATIONS):
        new = _assign((points @ centres.T).numpy(), size)
        if torch.equal(new, labels):
            break
        labels = new
        centres = torch.stack([points[labels == c].mean(0) for c in range(n_clusters)])
        centres = centres / centres.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return torch.stack([(labels == c).nonzero()[:, 0] for c in range(n_clusters)])


def _spread(points: Tensor, n: int, generator: np.random.Generator) -> list[int]:
    chosen = [int(generator.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < n:
        distance = np.minimum(distance, (points - points[chosen[-1]]).square().sum(1).numpy())
        total = distance.sum()
        share = distance / total if total > 0 else None
        chosen.append(int(generator.choice(len(points), p=share)))
    return chosen


def _assign(likeness: np.ndarray, size: int) -> Tensor:
    """Balanced assignment: those with most to lose choose first, from clusters that have room."""
    n_clusters = likeness.shape[1]
    ranked = np.sort(likeness, axis=1)
    stake = ranked[:, -1] - ranked[:, -2] if n_clusters > 1 else ranked[:, -1]
    room = np.full(n_clusters, size)
    labels = np.zeros(len(likeness), dtype=np.int64)
    for point in np.argsort(-stake, kind="stable"):
        free = np.where(room > 0, likeness[point], -np.inf)
        labels[point] = int(free.argmax())
        room[labels[point]] -= 1
    return torch.from_numpy(labels)
