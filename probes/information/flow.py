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
from jaxtyping import Float, Int, Int64
from torch import Tensor

from ..errors import OptionError, TooFewTokensError
from ..readings.linear_probe import split_by_document
from ..runfile import Run
from .futures import Classes, Futures, merge_rare
from .kernel_estimators import (
    GROUP,
    gaussian_gram,
    grouped_estimate,
    groups_of,
    renyi_information,
    token_gram,
)
from .plug_in import clustered, plug_in_information
from .readout import Inputs, Readout, ReadoutOptions, Split, scaled
from .resampling import NOTHING, Estimate, mean_estimate
from .usable import baseline_losses, bigram_losses, probe_information, usable_beyond

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowOptions:
    """How much is read and how readouts are made."""

    n_futures: int = 4
    """Tokens looked ahead: W_0 to W_3; at most 9."""
    n_classes: int = 1024
    """Classes of tokens, the shared one included."""
    train_rows: int = 60_000
    """Most rows trained on; drawn from all training documents."""
    test_rows: int = 24_000
    """Most rows tested on, drawn from all test documents."""
    choose_rows: int = 6_000
    """Most rows the best epoch is chosen on."""
    depths: int = 3
    """Depths of the draft at the last layer; below `n_futures`."""
    n_clusters: int = 24
    """Clusters of states for the contingency table."""
    coarse_classes: int = 16
    """Classes of tokens for the contingency table."""
    n_groups: int = 8
    """Groups of rows for the kernel estimators."""
    world_states: int = 64
    """States whose likely continuations the model reads itself (E3a)."""
    world_context: int = 48
    """Longest context of those, in tokens."""
    world_classes: int = 64
    """Classes of W_0 and W_1 there."""
    world_dropped: float = 0.05
    """Probability of W_0 left unread there."""
    world_most: int = 48
    """Most W_0 read per state there."""
    probe: ReadoutOptions = field(default_factory=ReadoutOptions)
    """The softmax-linear probe, and the additive one."""
    head: ReadoutOptions = field(default_factory=lambda: ReadoutOptions(rank=256, interacts=True))
    """The draft head."""
    seed: int = 0
    """Fixes the split and what is drawn."""

    def __post_init__(self) -> None:
        if not 2 <= self.n_futures <= 9 or not 1 <= self.depths < self.n_futures:
            raise OptionError(
                "n_futures must be 2 to 9 and depths at least 1 and below it, got "
                f"{self.n_futures} and {self.depths}."
            )
        if min(self.train_rows, self.test_rows, self.choose_rows, self.n_clusters) < 1:
            raise OptionError("Numbers of rows and clusters must be at least 1.")


@dataclass(frozen=True)
class Material:
    """Rows by part, their classes and the target's choices; what every layer is measured on."""

    parts: tuple[Futures, Futures, Futures]
    """Rows to train on, to choose the epoch on, to test on."""
    classes: Classes
    table: Float[Tensor, "vocab d_model"]
    """Scaled token embeddings."""
    greedy: Int[np.ndarray, " rows"]
    """The target's first choice at every row of the run."""

    @property
    def test(self) -> Futures:
        """Rows tested on."""
        return self.parts[2]

    def split(self, states: tuple[Tensor, ...], *, depth: int, all_futures: bool = False) -> Split:
        """Inputs and classes for predicting W_depth from the states and the tokens before it.

        Args:
            states: States of the three parts.
            depth: Which token is predicted; the `depth` ones before are given.
            all_futures: Predict every token from W_depth on, at once.
        """
        found = []
        for part, held in zip(self.parts, states, strict=True):
            classes = torch.from_numpy(self.classes(part.tokens))
            given = torch.from_numpy(part.tokens[:, :depth])
            wanted = classes[:, depth:] if all_futures else classes[:, depth : depth + 1]
            found.append((Inputs(held, held.shape[1], self.table, given), wanted))
        return Split(*found)

    def accepted(self, readout: Readout, inputs: Inputs, depth: int) -> Float[np.ndarray, " rows"]:
        """Whether the readout's choice for W_depth is the target's, per test row."""
        kept = len(self.classes.kept)
        chosen = readout.choices(inputs, n_kept=kept)[:, 0].numpy()
        return (self.classes.kept[chosen] == self.greedy[self.test.rows + depth]).astype(float)


def prepare(
    futures: Futures,
    table: Float[Tensor, "vocab d_model"],
    greedy: Int[np.ndarray, " rows"],
    options: FlowOptions,
) -> Material:
    """Split rows by document, draw what is used, and merge rare tokens by the training rows.

    Raises:
        OptionError: Too few documents to be split.
    """
    split = split_by_document(futures.documents, seed=options.seed)
    generator = np.random.default_rng(options.seed)
    sizes = (options.train_rows, options.choose_rows, options.test_rows)
    drawn = [
        np.sort(generator.permutation(part)[:size])
        for part, size in zip((split.train, split.choose, split.test), sizes, strict=True)
    ]
    train, choose, test = (futures.take(part) for part in drawn)
    classes = merge_rare(train.tokens[:, 0], d_vocab=len(table), n_classes=options.n_classes)
    return Material((train, choose, test), classes, scaled(table), greedy)


def states_of(run: Run, site: str, material: Material) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled states of a site for the three parts."""
    held = run.activations[site]
    train, choose, test = (scaled(held.gather(part.rows)) for part in material.parts)
    return train, choose, test


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


def baseline(material: Material, depth: int, d_model: int, options: ReadoutOptions) -> Baseline:
    """The family without H at a depth.

    Raises:
        TooFewTokensError: Too few rows or documents.
    """
    n = material.classes.n
    zeros = tuple(torch.zeros(len(part), d_model) for part in material.parts)
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
            base = baseline(material, depth, states[0].shape[1], options.head)
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
    groups = groups_of(test.documents, n_groups=options.n_groups, size=GROUP, seed=options.seed)

    def information(rows: Int64[np.ndarray, " rows"]) -> float:
        chosen = torch.from_numpy(rows)
        tokens = torch.from_numpy(test.tokens[rows, 0])
        return float(renyi_information(gaussian_gram(states[chosen]), token_gram(tokens)))

    return grouped_estimate("E4, matrix Rényi information,", groups, information)
