"""Rows from a model at work, mixed in a buffer: training without storing activations.

Neighbouring rows come from one text and resemble each other. A buffer of many rows is filled, shuffled,
served down to half and filled again, so that a batch mixes rows of many texts. Windows are read in an
order fixed by the seed, in another one each pass through the corpus. The buffer is part of a
checkpoint; a training that goes on finds the same rows in it.

Memory: `buffer_rows` x width x 4 bytes for each site.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..probes.batching import Batch, Window, plan
from ..probes.capture import capture
from ..probes.errors import OptionError
from ..probes.model import Model
from ..probes.rows import Mask
from .sources import SAMPLE_ROWS, RowSource, order_seed


class LiveRows(RowSource):
    """Rows captured while the model reads windows.

    Args:
        model: An opened model.
        windows: Texts as `probes.batching.windows` cuts them.
        sites: Sites to read.
        batch_rows: Rows of a batch.
        buffer_rows: Rows the buffer holds when full; at least two batches.
        batch_tokens: Positions of a forward pass.
        seed: Fixes the order of windows and the mixing.
        skip_first: Positions at the beginning of each window that are left out.

    Raises:
        OptionError: The buffer is too small, or there are no windows.
    """

    def __init__(
        self, model: Model, windows: Sequence[Window], sites: Sequence[str], *, batch_rows: int,
        buffer_rows: int = 131_072, batch_tokens: int = 4096, seed: int = 0, skip_first: int = 1,
    ) -> None:  # fmt: skip
        if not windows or buffer_rows < 2 * batch_rows:
            raise OptionError(
                f"A live source needs windows and buffer_rows of at least 2 x batch_rows = "
                f"{2 * batch_rows:,}, got {len(windows)} windows and {buffer_rows:,}."
            )
        if all(len(window.ids) <= skip_first for window in windows):
            raise OptionError(f"No window is longer than skip_first = {skip_first}.")
        self.sites = tuple(site.name for site in model.sites.resolve(tuple(sites)))
        self.batch_rows, self._model = batch_rows, model
        self._windows, self._buffer_rows = list(windows), buffer_rows
        self._batch_tokens, self._seed, self._skip = batch_tokens, seed, skip_first
        self._epoch, self._place = 0, 0
        self._held: dict[str, Tensor] | None = None
        self._served = 0
        self._generator = torch.Generator().manual_seed(seed)
        self._order: tuple[int, list[Batch]] | None = None

    @property
    def n_rows(self) -> int | None:
        """Rows of an epoch."""
        return sum(max(len(window.ids) - self._skip, 0) for window in self._windows)

    def sample(self) -> dict[str, Tensor]:
        """Some rows of every site, the same each time."""
        self._fill()
        assert self._held is not None
        return {site: held[:SAMPLE_ROWS] for site, held in self._held.items()}

    def batches(self, start: int = 0) -> Iterator[dict[str, Tensor]]:
        """Batches from where the buffer stands; `load_state_dict` is what moves it.

        Raises:
            OptionError: `start` is not where the buffer stands.
        """
        if start != self._served:
            raise OptionError(
                f"The buffer stands at step {self._served}, not {start}; load its state first."
            )
        while True:
            self._fill()
            assert self._held is not None
            batch = {site: held[: self.batch_rows] for site, held in self._held.items()}
            self._held = {site: held[self.batch_rows :] for site, held in self._held.items()}
            self._served += 1
            yield batch

    def describe(self) -> dict[str, Any]:
        """What the rows are."""
        return {
            "model": self._model.name,
            "n_windows": len(self._windows),
            "n_rows": self.n_rows,
            "seed": self._seed,
            "batch_rows": self.batch_rows,
            "buffer_rows": self._buffer_rows,
            "skip_first": self._skip,
        }

    def state_dict(self) -> dict[str, Any]:
        """The buffer and where it stands."""
        held = self._held or {}
        return {
            "held": {site: rows.clone() for site, rows in held.items()},
            "served": self._served,
            "epoch": self._epoch,
            "place": self._place,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self._held = dict(state["held"]) or None
        self._served, self._epoch, self._place = state["served"], state["epoch"], state["place"]
        self._generator.set_state(state["generator"])

    def _fill(self) -> None:
        """Fill and mix the buffer when it is at most half full."""
        n_held = 0 if self._held is None else len(self._held[self.sites[0]])
        if n_held > self._buffer_rows // 2 or n_held >= self._buffer_rows:
            return
        parts = {site: [] if self._held is None else [self._held[site]] for site in self.sites}
        while n_held < self._buffer_rows:
            rows = self._read(self._next_batch())
            n_held += len(rows[self.sites[0]])
            for site in self.sites:
                parts[site].append(rows[site])
        order = torch.randperm(n_held, generator=self._generator)
        self._held = {site: torch.cat(parts[site])[order] for site in self.sites}

    def _next_batch(self) -> Batch:
        if self._order is None or self._order[0] != self._epoch:
            generator = np.random.default_rng(order_seed(self._seed, self._epoch))
            mixed = generator.permutation(len(self._windows))
            self._order = (
                self._epoch, plan([self._windows[i] for i in mixed], batch_tokens=self._batch_tokens)
            )  # fmt: skip
        found = self._order[1][self._place]
        self._place += 1
        if self._place == len(self._order[1]):
            self._epoch, self._place = self._epoch + 1, 0
        return found

    def _read(self, batch: Batch) -> dict[str, Tensor]:
        mask = batch.mask.clone()
        options = {}
        if batch.is_padded:
            options = {"attention_mask": mask.long().to(self._model.device)}
        mask[:, : self._skip] = False
        with (
            torch.no_grad(),
            capture(
                self._model, *self.sites, rows=Mask(mask), dtype=torch.float32, device="cpu",
                stop_early=True,
            ) as acts,
        ):  # fmt: skip
            self._model(batch.ids(int(batch.windows[0].ids[0])), use_cache=False, **options)
        return {site: acts[site] for site in self.sites}
