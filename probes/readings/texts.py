"""Texts that readings run the model over: documents of a run file, batched without padding."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..errors import OptionError
from ..runfile import Run


@dataclass(frozen=True)
class Texts:
    """Token ids of some documents, with their names."""

    ids: tuple[Int64[np.ndarray, " _"], ...]
    names: tuple[str, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens in all documents."""
        return sum(len(document) for document in self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def batches(self, batch_tokens: int = 1024) -> Iterator[tuple[list[int], Tensor]]:
        """Document numbers and their ids, (batch, positions), equal lengths together: no padding."""
        by_length: dict[int, list[int]] = defaultdict(list)
        for number, ids in enumerate(self.ids):
            by_length[len(ids)].append(number)
        for length, numbers in sorted(by_length.items(), reverse=True):
            n_rows = max(batch_tokens // length, 1)
            for start in range(0, len(numbers), n_rows):
                chosen = numbers[start : start + n_rows]
                yield chosen, torch.from_numpy(np.stack([self.ids[n] for n in chosen]))


def texts_of(run: Run, *, n_tokens: int, min_length: int = 8, cut: int | None = None) -> Texts:
    """The first documents of a run, up to `n_tokens` tokens.

    Args:
        run: An open run file.
        n_tokens: At most this many tokens (but at least one document).
        min_length: Shorter documents are left out.
        cut: Cut documents to this length, leaving out those that are shorter.

    Raises:
        OptionError: No document is long enough.
    """
    ids: list[Int64[np.ndarray, " tokens"]] = []
    names: list[str] = []
    total = 0
    for number in range(run.tokens.n_documents):
        document = run.tokens.document(number).astype(np.int64)
        if len(document) < (cut or min_length):
            continue
        ids.append(document[:cut])
        names.append(run.tokens.names[number])
        total += len(ids[-1])
        if total >= n_tokens:
            break
    if not ids:
        raise OptionError(
            f"{run.path.name} must hold a document of at least {cut or min_length} tokens; it has "
            "none. Capture longer documents (--context)."
        )
    return Texts(tuple(ids), tuple(names))
