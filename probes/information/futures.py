"""States and the tokens after them: the index convention of the whole room, in one place.

H at row i is the state after reading token i; W_0 is token i + 1, W_k token i + 1 + k, never across
the end of a window. (The paper's H_t is computed from the tokens before t and W_t is the next one.)
Tokens may be merged into classes: the most frequent keep one each, the rest share the last one, so
that a probe's output is hundreds wide instead of the vocabulary. What is then measured is
information about the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int64

from ..errors import OptionError
from ..readings.linear_probe import source_documents
from ..runfile import Run
from .resampling import require

SKIPPED = 1
"""Positions at the start of a window left out: the first token's state is an attention sink's."""


@dataclass(frozen=True)
class Futures:
    """Rows of states, and the tokens that follow each."""

    rows: Int64[np.ndarray, " rows"]
    """Number of the state's row."""
    tokens: Int64[np.ndarray, "rows futures"]
    """W_0, W_1, ... of each row."""
    documents: Int64[np.ndarray, " rows"]
    """Number of each row's source document."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_documents(self) -> int:
        """Source documents among the rows."""
        return len(np.unique(self.documents))

    def take(self, chosen: Int64[np.ndarray, " chosen"]) -> Futures:
        """Some of the rows."""
        return Futures(self.rows[chosen], self.tokens[chosen], self.documents[chosen])


def futures_of(
    ids: Int[np.ndarray, " tokens"],
    offsets: Int64[np.ndarray, " windows_plus_1"],
    documents: Int64[np.ndarray, " tokens"],
    *,
    n_futures: int,
    skipped: int = SKIPPED,
) -> Futures:
    """Every row with `n_futures` tokens after it in its own window.

    Args:
        ids: The flat token axis.
        offsets: Where windows begin and end.
        documents: Source document of every row.
        n_futures: Tokens looked ahead.
        skipped: Positions left out at the start of every window.

    Raises:
        OptionError: `n_futures` is below 1 or above 9.
        TooFewTokensError: No window is long enough.
    """
    if not 1 <= n_futures <= 9:
        raise OptionError(f"n_futures must be 1 to 9 (W_0 to W_8), got {n_futures}.")
    starts, ends = offsets[:-1] + skipped, offsets[1:] - n_futures
    lengths = np.maximum(ends - starts, 0)
    require(
        "Looking ahead", f"tokens in some window for {n_futures} futures",
        have=int(np.diff(offsets).max(initial=0)), need=n_futures + skipped + 1,
    )  # fmt: skip
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    rows = np.repeat(starts, lengths) + within
    ahead = rows[:, None] + 1 + np.arange(n_futures)
    return Futures(rows, ids[ahead].astype(np.int64), documents[rows].astype(np.int64))


def futures_of_run(
    run: Run, *, n_futures: int, max_tokens: int | None = None, skipped: int = SKIPPED
) -> Futures:
    """Futures of a run file's rows; windows of one source document count as one document.

    Args:
        run: An open run file.
        n_futures: Tokens looked ahead.
        max_tokens: Only the windows that end within so many tokens; None for all.
        skipped: Positions left out at the start of every window.
    """
    offsets = run.tokens.offsets
    if max_tokens is not None:
        offsets = offsets[offsets <= max(max_tokens, int(offsets[1]))]
    ids = run.tokens.ids[: offsets[-1]]
    documents = source_documents(run, len(ids))
    return futures_of(ids, offsets, documents, n_futures=n_futures, skipped=skipped)


@dataclass(frozen=True)
class Classes:
    """A vocabulary merged into classes."""

    of_token: Int64[np.ndarray, " vocab"]
    """Class of every token."""
    kept: Int64[np.ndarray, " kept"]
    """Tokens with a class of their own, class by class."""

    @property
    def n(self) -> int:
        """Number of classes, the shared one included where there is one."""
        return len(self.kept) + (len(self.kept) < len(self.of_token))

    @property
    def merges(self) -> bool:
        """Whether any tokens share a class (the last one)."""
        return len(self.kept) < len(self.of_token)

    def __call__(self, tokens: Int64[np.ndarray, "*axes"]) -> Int64[np.ndarray, "*axes"]:
        """Classes of tokens."""
        return self.of_token[tokens]


def merge_rare(tokens: Int64[np.ndarray, " tokens"], *, d_vocab: int, n_classes: int) -> Classes:
    """Classes for a vocabulary: the `n_classes` - 1 most frequent tokens and the rest.

    Args:
        tokens: Tokens whose frequencies decide; those that are trained on, never those tested on.
        d_vocab: Size of the vocabulary.
        n_classes: Most classes; where the vocabulary has no more tokens, nothing is merged.

    Raises:
        OptionError: Fewer than two classes.
    """
    if n_classes < 2:
        raise OptionError(f"n_classes must be at least 2, got {n_classes}.")
    if d_vocab <= n_classes:
        return Classes(np.arange(d_vocab), np.arange(d_vocab))
    counts = np.bincount(tokens, minlength=d_vocab)
    kept = np.argsort(-counts, kind="stable")[: n_classes - 1]
    of_token = np.full(d_vocab, n_classes - 1)
    of_token[kept] = np.arange(n_classes - 1)
    return Classes(of_token, kept)
