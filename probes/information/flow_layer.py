"""Information flow over layers, and why drafting works: the surplus beside a draft head's acceptance.

For every captured layer, on documents not trained on: usable information about W_0..W_K (E2b,
low-rank softmax-linear probes, all futures at once), the conditional surplus I(H; W_1 | W_0) in two
families (E3b: a one-layer draft head in which state and W_0 can interact, and an additive probe
that cannot, which misses synergy), contingency tables of clusters (E3c), matrix Rényi information
(E4); at the last layer the surplus of deeper drafts, InfoNCE (E5) and the same readouts with states
of other rows (control). The draft head's acceptance is the share of rows where its first choice for
W_1, knowing the true W_0, is the target's own greedy choice there; the paper's claim that the
surplus is what drafters live on is the correlation.

Tokens are merged into the most frequent classes and one for the rest, so all numbers are about
classes. Intervals are over test documents and do not hold the chance of training. The surplus of
the paper is conditional on W_0: the unconditional I(H; W_1) bounds it in neither direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..errors import TooFewTokensError
from .flow_material import Material
from .flow_options import FlowOptions
from .futures import merge_rare
from .kernel_estimators import (
    fitting_groups,
    gaussian_gram,
    grouped_estimate,
    renyi_information,
    token_gram,
)
from .plug_in import clustered, plug_in_information
from .readout import ReadoutOptions
from .resampling import NOTHING, Estimate, mean_estimate
from .usable import baseline_losses, bigram_losses, probe_information, usable_beyond


@dataclass
class Refusals:
    """Estimators that refused, with their reasons, once each."""

    reasons: list[str] = field(default_factory=list)

    def attempt(self, estimate: Callable[[], Estimate]) -> Estimate:
        """The estimate, or nothing and a reason kept."""
        try:
            return estimate()
        except TooFewTokensError as error:
            if str(error) not in self.reasons:
                self.reasons.append(str(error))
            return NOTHING


@dataclass(frozen=True)
class Baseline:
    """What is measured once for all layers, per depth."""

    losses: Tensor
    """Held-out losses of the family without H."""
    acceptance: Estimate
    table_gain: Estimate
    """Loss without H less that of a table of counts; above zero the surplus is too large."""


@dataclass(frozen=True)
class LayerFlow:
    """What one layer gave; nats and shares."""

    futures: tuple[Estimate, ...]
    surplus: Estimate
    additive: Estimate
    acceptance: Estimate
    cluster_next: Estimate
    cluster_surplus: Estimate
    renyi_next: Estimate


def baseline(material: Material, depth: int, options: ReadoutOptions) -> Baseline:
    """The family without H at a depth.

    Raises:
        TooFewTokensError: Too few rows or documents.
    """
    n = material.classes.n
    zeros = tuple(torch.zeros(len(part), material.n_directions) for part in material.parts)
    split = material.split(zeros, depth=depth)
    losses, readout = baseline_losses(split, n, options)
    documents = material.test.documents
    accepted = material.accepted(readout, split.test[0].without_states(), depth)
    counted = bigram_losses(
        (split.train[0].given[:, -1], split.train[1][:, 0]),
        (split.test[0].given[:, -1], split.test[1][:, 0]),
        n,
    )
    return Baseline(
        losses,
        mean_estimate("Acceptance", accepted, documents),
        mean_estimate("A table of counts", (losses - counted).numpy(), documents),
    )


def read_layer(
    material: Material,
    states: tuple[Tensor, Tensor, Tensor],
    head_base: Baseline,
    additive_base: Baseline,
    options: FlowOptions,
    refusals: Refusals,
) -> LayerFlow:
    """Everything that is measured at every layer.

    Raises:
        TooFewTokensError: Too few rows for any readout at all.
    """
    n, documents = material.classes.n, material.test.documents
    everything = material.split(states, depth=0, all_futures=True)
    futures, _ = probe_information(everything, n, documents, options.probe)
    split = material.split(states, depth=1)
    head = usable_beyond(split, head_base.losses, n, documents, options.head)
    additive = usable_beyond(split, additive_base.losses, n, documents, options.probe)
    accepted = material.accepted(head.readout, split.test[0], 1)
    tables = _cluster_tables(material, states[2], options, refusals)
    return LayerFlow(
        futures, head.information, additive.information,
        mean_estimate("Acceptance", accepted, documents),
        *tables, refusals.attempt(lambda: _renyi(material, states[2], options)),
    )  # fmt: skip


def read_depths(
    material: Material,
    states: tuple[Tensor, Tensor, Tensor],
    options: FlowOptions,
    refusals: Refusals,
) -> list[tuple[Estimate, Estimate, Estimate]]:
    """Surplus of each further draft depth at one layer, with acceptance with and without the state.

    Depth k predicts W_k from the state and the embeddings of W_0..W_{k-1}, k = 2, ...; its surplus is
    I(H; W_k | W_0..W_{k-1}), and the sum over depths is the paper's Surplus. Ends at the first depth
    that wants more rows than there are.
    """
    found = []
    n, documents = material.classes.n, material.test.documents
    for depth in range(2, options.depths + 1):
        try:
            base = baseline(material, depth, options.head)
            split = material.split(states, depth=depth)
            head = usable_beyond(split, base.losses, n, documents, options.head)
        except TooFewTokensError as error:
            refusals.reasons.append(f"Depth {depth}: {error}")
            break
        accepted = material.accepted(head.readout, split.test[0], depth)
        acceptance = mean_estimate("Acceptance", accepted, documents)
        found.append((head.information, acceptance, base.acceptance))
    return found


def read_control(
    material: Material,
    states: tuple[Tensor, Tensor, Tensor],
    head_base: Baseline,
    options: FlowOptions,
) -> tuple[Estimate, Estimate]:
    """E2b about W_0 and E3b with every row given the state of another row of its part."""
    generator = torch.Generator().manual_seed(options.seed)
    mixed = tuple(held[torch.randperm(len(held), generator=generator)] for held in states)
    n, documents = material.classes.n, material.test.documents
    split = material.split(mixed, depth=0)
    nothing, _ = probe_information(split, n, documents, options.probe)
    split = material.split(mixed, depth=1)
    surplus = usable_beyond(split, head_base.losses, n, documents, options.head)
    return nothing[0], surplus.information


def _cluster_tables(
    material: Material, states: Tensor, options: FlowOptions, refusals: Refusals
) -> tuple[Estimate, Estimate]:
    test = material.test
    coarse = merge_rare(
        material.parts[0].tokens[:, 0],
        d_vocab=len(material.classes.of_token),
        n_classes=options.coarse_classes,
    )
    found = []

    def attempt() -> Estimate:
        labels = clustered(states.numpy(), n_clusters=options.n_clusters, seed=options.seed)
        found.append(plug_in_information(labels, coarse(test.tokens[:, :2]), test.documents))
        return found[0].next

    first = refusals.attempt(attempt)
    return first, found[0].surplus if found else NOTHING


def _renyi(material: Material, states: Tensor, options: FlowOptions) -> Estimate:
    test = material.test
    groups = fitting_groups(test.documents, n_groups=options.n_groups, seed=options.seed)

    def information(rows: Int64[np.ndarray, " rows"]) -> float:
        chosen = torch.from_numpy(rows)
        tokens = torch.from_numpy(test.tokens[rows, 0])
        return float(renyi_information(gaussian_gram(states[chosen]), token_gram(tokens)))

    return grouped_estimate("E4, matrix Rényi information,", groups, information)
