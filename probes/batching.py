"""From documents to forward passes: tokens, windows, and batches that waste little on padding.

A document longer than the context is cut into windows, each of which is a document of the run file
and begins at position 0 of its own forward pass. Windows are batched with others of their length;
what padding remains stays inside the forward pass and never reaches a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from .corpus import Document
from .errors import CorpusError, OptionError
from .model import Model

Bos = Literal["auto", "always", "never"]
"""Beginning-of-sequence token: as the tokenizer does by default, before every window, or nowhere."""

BUCKET = 256
"""Windows sorted together by length before being cut into batches; fixes the order in the file."""


@dataclass(frozen=True)
class Window:
    """A piece of a document, at most one context long."""

    name: str
    index: int
    """Number among all windows of the corpus."""
    ids: Int64[np.ndarray, " tokens"]


@dataclass(frozen=True)
class Batch:
    """Windows that run together."""

    windows: tuple[Window, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens, padding left out."""
        return sum(len(window.ids) for window in self.windows)

    @property
    def mask(self) -> Bool[Tensor, "batch positions"]:
        """True where a position is no padding."""
        lengths = torch.tensor([len(window.ids) for window in self.windows])
        return torch.arange(int(lengths.max())) < lengths[:, None]

    @property
    def is_padded(self) -> bool:
        """Whether any window is shorter than the longest."""
        return len({len(window.ids) for window in self.windows}) > 1

    def ids(self, pad_id: int) -> Int64[Tensor, "batch positions"]:
        """Token ids, padded on the right."""
        width = max(len(window.ids) for window in self.windows)
        ids = torch.full((len(self.windows), width), pad_id)
        for row, window in enumerate(self.windows):
            ids[row, : len(window.ids)] = torch.from_numpy(window.ids)
        return ids


def windows(
    model: Model,
    documents: Iterable[Document],
    *,
    context: int,
    bos: Bos = "auto",
    n_tokens: int | None = None,
    per_document: int | None = None,
) -> list[Window]:
    """Tokenise documents and cut them into windows.

    Args:
        model: Whose tokenizer to use.
        documents: Texts; empty ones are left out.
        context: Longest window, the beginning-of-sequence token included.
        bos: Where that token goes.
        n_tokens: Stop after this many tokens; the last window is cut to fit.
        per_document: At most this many windows of one document; None for all.

    Raises:
        OptionError: The context exceeds what the model can attend to, or `per_document` is below 1.
        CorpusError: There is no text at all.
    """
    limit = model.max_positions
    if context < 2 or (limit is not None and context > limit):
        raise OptionError(f"context must be from 2 to {limit} for {model.name}, got {context}.")
    if per_document is not None and per_document < 1:
        raise OptionError(
            f"per_document must be at least 1, or None for all windows, got {per_document}."
        )
    found: list[Window] = []
    total = 0
    for document in documents:
        pieces = islice(_pieces(model, document.text, context, bos), per_document)
        for number, ids in enumerate(pieces):
            room = len(ids) if n_tokens is None else min(len(ids), n_tokens - total)
            if room > 0:
                name = document.name if number == 0 else f"{document.name}#{number}"
                found.append(Window(name, len(found), ids[:room]))
                total += room
        if n_tokens is not None and total >= n_tokens:
            break
    if not found:
        raise CorpusError("The corpus holds no text that gives tokens; give some.")
    return found


def plan(found: Sequence[Window], *, batch_tokens: int) -> list[Batch]:
    """Put windows of like length together.

    The order depends only on the windows, so an interrupted capture finds its place again.

    Args:
        found: Windows in corpus order.
        batch_tokens: At most this many positions per pass, padding included.

    Raises:
        OptionError: A window is longer than a batch may be.
    """
    longest = max(len(window.ids) for window in found)
    if longest > batch_tokens:
        raise OptionError(
            f"batch_tokens must be at least the longest window, {longest}, got {batch_tokens}."
        )
    return [batch for group in _buckets(found) for batch in _cut(group, batch_tokens)]


def padding_share(batches: Sequence[Batch]) -> float:
    """Share of computed positions that are padding."""
    computed = sum(len(b.windows) * max(len(w.ids) for w in b.windows) for b in batches)
    return 1 - sum(batch.n_tokens for batch in batches) / computed


def _pieces(
    model: Model, text: str, context: int, bos: Bos
) -> Iterator[Int64[np.ndarray, " tokens"]]:
    if not text.strip():
        return
    first = model.encode(text, bos=None if bos == "auto" else False).numpy()
    head = np.array([model.tokenizer.bos_token_id], dtype=np.int64) if bos == "always" else None
    step = context if head is None else context - 1
    for start in range(0, len(first), step):
        piece = first[start : start + step]
        yield piece if head is None else np.concatenate([head, piece])


def _buckets(found: Sequence[Window]) -> Iterator[list[Window]]:
    for start in range(0, len(found), BUCKET):
        yield sorted(found[start : start + BUCKET], key=lambda window: -len(window.ids))


def _cut(group: list[Window], batch_tokens: int) -> Iterator[Batch]:
    while group:
        width = len(group[0].ids)
        n_rows = max(batch_tokens // width, 1)
        # A shorter window joins only while padding stays small beside what is computed anyway.
        fitting = [w for w in group[:n_rows] if len(w.ids) >= 0.9 * width]
        yield Batch(tuple(fitting))
        del group[: len(fitting)]
