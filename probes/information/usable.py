"""Usable information and conditional surplus from held-out cross-entropies.

I_V(H; Y | G) = CE(Y | G) - CE(Y | G, H) with both cross-entropies of one predictive family V, on
documents not trained on (E2b: nothing given; E3b: the tokens before Y given). On real contexts the
Shannon information is the same for every layer, since layers are deterministic and contexts
distinct, so it cannot rank layers; what a restricted family can use does, and may grow from layer
to layer. A negative number means that the family overfitted or does not fit, and is reported as it
is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .readout import Readout, ReadoutOptions, Split, fit_readout
from .resampling import Estimate, mean_estimate
from .softmax_probe import class_law


@dataclass(frozen=True)
class Usable:
    """Usable information with what it was computed from."""

    information: Estimate
    """Nats; a lower bound on what the state holds, up to what the family without it misses."""
    losses: Float[Tensor, " rows"]
    """Held-out cross-entropy with the state, per row."""
    readout: Readout
    """The trained readout."""


def probe_information(
    split: Split,
    n_classes: int,
    documents: Int64[np.ndarray, " rows"],
    options: ReadoutOptions | None = None,
) -> tuple[tuple[Estimate, ...], Readout]:
    """E2b for every target: CE of the training documents' class law minus CE of a probe.

    Args:
        split: Inputs and classes by part; one column of classes per target.
        n_classes: Classes of every target.
        documents: Document of each test row.
        options: Size and training of the probe.

    Returns:
        One estimate (nats) per target, and the probe.

    Raises:
        TooFewTokensError: Too few rows or documents.
    """
    name = "E2b, the held-out cross-entropy of a probe,"
    readout = fit_readout(split, n_classes, options, name=name)
    inputs, classes = split.test
    losses = readout.losses(inputs, classes).double()
    found = []
    for target in range(classes.shape[1]):
        law = class_law(split.train[1][:, target], n_classes)
        gained = -law.log()[classes[:, target]] - losses[:, target]
        found.append(mean_estimate(name, gained.numpy(), documents))
    return tuple(found), readout


def usable_beyond(
    with_states: Split,
    baseline: Float[Tensor, " rows"],
    n_classes: int,
    documents: Int64[np.ndarray, " rows"],
    options: ReadoutOptions,
) -> Usable:
    """E3b: what a state adds to the tokens that are given, in the family of `options`.

    Args:
        with_states: Inputs and one column of classes, by part.
        baseline: Held-out losses of the same family with zeros for states (`baseline_losses`).
        n_classes: Number of classes.
        documents: Document of each test row.
        options: The family.

    Raises:
        TooFewTokensError: Too few rows or documents.
    """
    name = "E3b, the held-out cross-entropy of a draft head,"
    readout = fit_readout(with_states, n_classes, options, name=name)
    losses = readout.losses(*with_states.test)[:, 0].double()
    gained = (baseline - losses).numpy()
    return Usable(mean_estimate(name, gained, documents), losses, readout)


def baseline_losses(
    split: Split, n_classes: int, options: ReadoutOptions
) -> tuple[Float[Tensor, " rows"], Readout]:
    """Held-out losses of the family without H, and its readout.

    Raises:
        TooFewTokensError: Too few rows.
    """
    blind = split.without_states()
    readout = fit_readout(blind, n_classes, options, name="E3b without states")
    return readout.losses(*blind.test)[:, 0].double(), readout


def bigram_losses(
    train: tuple[Int64[Tensor, " rows"], Int64[Tensor, " rows"]],
    test: tuple[Int64[Tensor, " test"], Int64[Tensor, " test"]],
    n_classes: int,
    *,
    strength: float = 4.0,
) -> Float[Tensor, " test"]:
    """Cross-entropy of a count table (token given, class), smoothed towards the class law.

    A check on the family without H: where the table beats it, the surplus is overestimated.

    Args:
        train: Given tokens and classes that are counted.
        test: Given tokens and classes that are predicted.
        n_classes: Number of classes.
        strength: Counts the class law is worth.
    """
    given, classes = train
    law = class_law(classes, n_classes)
    keys, counts = torch.unique(given * n_classes + classes, return_counts=True)
    kinds, totals = torch.unique(given, return_counts=True)
    seen = _looked_up(test[0] * n_classes + test[1], keys, counts)
    total = _looked_up(test[0], kinds, totals)
    return -((seen + strength * law[test[1]]) / (total + strength)).log()


def _looked_up(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Values by sorted key, zero where a key is missing."""
    places = torch.searchsorted(keys, wanted.contiguous()).clamp_max(len(keys) - 1)
    return torch.where(keys[places] == wanted, values[places], 0).double()
