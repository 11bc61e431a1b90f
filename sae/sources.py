"""Where rows come from: a run file, tensors in memory, or a model at work (`live.py`).

A source gives batches by site without end, epoch after epoch in another order, and can begin at any
step: step and seed fix a batch, which is what lets an interrupted training go on bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..probes.errors import OptionError
from ..probes.runfile import Run
from .documents import kept_out
from .errors import ActivationsError

SAMPLE_ROWS = 16_384
"""Rows that are looked at before training."""


def order_seed(seed: int, epoch: int) -> tuple[int, int]:
    """What seeds numpy's generator with the order of an epoch; for no other seed and epoch the same.

    numpy mixes 32-bit words, one and more to a number, as one bijection: an epoch is one word, and
    since it comes first the words of a large seed are not taken for an epoch. (Their sum is the same
    for many pairs, and torch's generator on a CPU reads 32 bits.)
    """
    return epoch, seed


class RowSource(ABC):
    """Endless batches of rows by site."""

    sites: tuple[str, ...]
    """Sites that every batch holds."""
    batch_rows: int
    """Rows of a batch."""

    @property
    @abstractmethod
    def n_rows(self) -> int | None:
        """Rows of an epoch; None where nobody knows."""

    @abstractmethod
    def sample(self) -> dict[str, Tensor]:
        """Some rows of every site, the same each time, without moving on."""

    @abstractmethod
    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from step `start` on."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What the rows are, ready for JSON."""

    def state_dict(self) -> dict[str, Any]:
        """What, beside the step, is needed to go on; for most sources nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""


class RunRows(RowSource):
    """Rows of a run file, shuffled anew each epoch.

    Args:
        run: An open run file.
        sites: Sites to read.
        batch_rows: Rows of a batch.
        seed: Fixes the order.
        rank: Number of this process, of `n_ranks` that read every n-th batch each.
        n_ranks: Processes that train together.
        held_out: Share of the documents that is left out, to be judged on (see `documents`).

    Raises:
        UnknownSiteError: The run lacks a site.
        OptionError: Too few rows for one batch, or too few documents to hold any out.
    """

    def __init__(
        self, run: Run, sites: Sequence[str], *, batch_rows: int, seed: int = 0, rank: int = 0,
        n_ranks: int = 1, held_out: float = 0.0,
    ) -> None:  # fmt: skip
        self._run, self.sites, self.batch_rows, self._seed = run, tuple(sites), batch_rows, seed
        self._rank, self._n_ranks, self._held_out = rank, n_ranks, held_out
        for site in self.sites:
            if len(run.activations[site].row_shape) != 1:
                raise ActivationsError(
                    f"Rows of {site} must be vectors, got shape {run.activations[site].row_shape} "
                    "each; choose a site with one vector per token, such as layers.0.resid_post."
                )
        self._n_rows = len(run.activations[self.sites[0]])
        self._rows: Int64[np.ndarray, " training"] | None = None
        if held_out:
            self._rows = np.flatnonzero(~kept_out(run, held_out))
            self._n_rows = len(self._rows)
        _require_a_batch(self._n_rows, batch_rows * n_ranks)

    @property
    def n_rows(self) -> int | None:
        """Rows of an epoch."""
        return self._n_rows

    def sample(self) -> dict[str, Tensor]:
        """Some rows of every site, the same each time."""
        size = min(SAMPLE_ROWS, self._n_rows)
        return next(
            self._run.batches(
                list(self.sites),
                size,
                shuffle=True,
                seed=order_seed(self._seed, 0),
                rows=self._rows,
            )
        )

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from step `start` on."""
        per_epoch = self._n_rows // (self.batch_rows * self._n_ranks)
        epoch, skipped = divmod(start, per_epoch)
        while True:
            every = self._run.batches(
                list(self.sites), self.batch_rows, shuffle=True,
                seed=order_seed(self._seed, epoch), drop_last=True, rows=self._rows,
            )  # fmt: skip
            stop = per_epoch * self._n_ranks
            yield from islice(every, skipped * self._n_ranks + self._rank, stop, self._n_ranks)
            epoch, skipped = epoch + 1, 0

    def describe(self) -> dict[str, Any]:
        """What the rows are."""
        origin = self._run.provenance
        return {
            "run": self._run.path.name,
            "model": origin.model.get("name"),
            "weights_digest": origin.model.get("weights_digest"),
            "corpus": origin.corpus.get("description"),
            "held_out": self._held_out,
            "n_rows": self._n_rows,
            "seed": self._seed,
            "batch_rows": self.batch_rows,
        }


class TensorRows(RowSource):
    """Rows in memory.

    Args:
        rows: Rows by site, equally many.
        batch_rows: Rows of a batch.
        seed: Fixes the order.

    Raises:
        OptionError: Sites have unequal numbers of rows, or too few for one batch.
    """

    def __init__(
        self, rows: Mapping[str, Float[Tensor, "rows d"]], *, batch_rows: int, seed: int = 0
    ) -> None:
        lengths = {site: len(held) for site, held in rows.items()}
        if len(set(lengths.values())) != 1:
            raise OptionError(f"All sites must have equally many rows, got {lengths}.")
        self._rows, self.sites, self.batch_rows, self._seed = (
            dict(rows),
            tuple(rows),
            batch_rows,
            seed,
        )
        self._n_rows = next(iter(lengths.values()))
        _require_a_batch(self._n_rows, batch_rows)

    @property
    def n_rows(self) -> int | None:
        """Rows of an epoch."""
        return self._n_rows

    def sample(self) -> dict[str, Tensor]:
        """Some rows of every site, the same each time."""
        chosen = self._order(0)[:SAMPLE_ROWS]
        return {site: held[chosen] for site, held in self._rows.items()}

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from step `start` on."""
        per_epoch = self._n_rows // self.batch_rows
        epoch, skipped = divmod(start, per_epoch)
        while True:
            order = self._order(epoch)[: per_epoch * self.batch_rows].view(per_epoch, -1)
            for chosen in order[skipped:]:
                yield {site: held[chosen] for site, held in self._rows.items()}
            epoch, skipped = epoch + 1, 0

    def describe(self) -> dict[str, Any]:
        """What the rows are."""
        return {"n_rows": self._n_rows, "seed": self._seed, "batch_rows": self.batch_rows}

    def _order(self, epoch: int) -> Tensor:
        generator = np.random.default_rng(order_seed(self._seed, epoch))
        return torch.from_numpy(generator.permutation(self._n_rows))


def _require_a_batch(n_rows: int, batch_rows: int) -> None:
    if not 1 <= batch_rows <= n_rows:
        raise OptionError(
            f"batch_rows must be from 1 to the {n_rows:,} rows there are, got {batch_rows:,}; take "
            "smaller batches or capture more tokens."
        )
