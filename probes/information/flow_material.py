"""Rows, classes and inputs that every layer of an information flow is measured on.

Where there are too few training rows for a readout on a whole state, states and embeddings are
brought to their leading principal directions (of the training rows, each layer its own), as many as
the rows allow: fewer than all of a layer's information is usable then, and it is said how many.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..readings.linear_probe import split_by_document
from ..runfile import Run
from .flow_options import FEWEST_DIRECTIONS, FlowOptions
from .futures import Classes, Futures, merge_rare
from .readout import ROWS_PER_FREEDOM, Inputs, Readout, Split, scaled
from .resampling import require


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
    n_directions: int
    """Principal directions of a state that readouts see, or its whole width."""

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
        TooFewTokensError: Too few rows for any readout; says how many are needed.
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
    n_directions = directions_for(len(train), classes.n, table.shape[1], options)
    rows = scaled(table)
    seen = rows[torch.from_numpy(train.tokens[:, 0])]
    leading = principal(seen, n_directions)
    return Material((train, choose, test), classes, leading(rows), greedy, n_directions)


def directions_for(n_train: int, n_classes: int, width: int, options: FlowOptions) -> int:
    """Directions of a state that readouts can be trained on, so that all families see the same.

    A draft head sees as many of the state as of the embedding of W_0, and wants `ROWS_PER_FREEDOM`
    rows per input and class.

    Raises:
        TooFewTokensError: Not even `FEWEST_DIRECTIONS`.
    """
    need = ROWS_PER_FREEDOM * (2 * FEWEST_DIRECTIONS + n_classes)
    name = f"A draft head on {FEWEST_DIRECTIONS} directions of a state with {n_classes} classes"
    require(name, "tokens to train on", have=n_train, need=need)
    allowed = (n_train // ROWS_PER_FREEDOM - n_classes) // 2
    return min(width, options.n_directions or allowed)


def principal(
    rows: Float[Tensor, "rows d_model"], n: int
) -> Callable[[Float[Tensor, "others d_model"]], Float[Tensor, "others directions"]]:
    """The map to the `n` leading principal directions of some rows, scaled to unit mean square.

    The rows themselves where `n` is their whole width.
    """
    if n >= rows.shape[1]:
        return lambda others: others
    mean = rows.mean(0)
    centred = rows - mean
    values, vectors = torch.linalg.eigh((centred.T @ centred).double() / len(rows))
    scale = values[-n:].mean().clamp_min(1e-12).sqrt()
    leading = (vectors[:, -n:].flip(1) / scale).to(rows.dtype)
    return lambda others: (others - mean) @ leading


def states_of(run: Run, site: str, material: Material) -> tuple[Tensor, Tensor, Tensor]:
    """States of a site for the three parts, scaled and on the directions that readouts see."""
    held = run.activations[site]
    train = scaled(held.gather(material.parts[0].rows))
    leading = principal(train, material.n_directions)
    choose, test = (leading(scaled(held.gather(part.rows))) for part in material.parts[1:])
    return leading(train), choose, test
