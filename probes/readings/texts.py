"""Texts that readings run the model over: documents of a run file, batched without padding."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    """A document's name, with `#` and a number for its further windows."""

    @property
    def n_tokens(self) -> int:
        """Tokens in all documents."""
        return sum(len(document) for document in self.ids)

    @property
    def sources(self) -> tuple[str, ...]:
        """Name of the document that each text was cut from."""
        return tuple(source_name(name) for name in self.names)

    @property
    def documents(self) -> Int64[np.ndarray, " texts"]:
        """Number of the document that each text was cut from."""
        _, number = np.unique(self.sources, return_inverse=True)
        return number.astype(np.int64)

    @property
    def n_documents(self) -> int:
        """Documents the texts were cut from."""
        return len(np.unique(self.documents))

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


def source_name(name: str) -> str:
    """The document that a window was cut from, by the window's name."""
    return name.partition("#")[0]


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


def varied_texts(run: Run, *, n_texts: int, length: int) -> Texts:
    """Texts of one length from as many documents as there are: all first windows before any second.

    Args:
        run: An open run file.
        n_texts: At most this many.
        length: Tokens of each; windows are cut to it, shorter ones left out.

    Raises:
        OptionError: No document is long enough.
    """
    found = texts_of(run, n_tokens=int(run.tokens.offsets[-1]), cut=length)
    seen: Counter[int] = Counter()
    turns = []
    for document in found.documents.tolist():
        turns.append(seen[document])
        seen[document] += 1
    chosen = np.sort(np.argsort(turns, kind="stable")[:n_texts])
    return Texts(
        tuple(found.ids[n] for n in chosen.tolist()), tuple(found.names[n] for n in chosen.tolist())
    )
