"""The two tasks: chess games character by character, and docstrings in byte pairs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ...probes.corpus import Corpus, standard_library
from ...probes.errors import CorpusError
from .board import Labels, label_games
from .games import read_games
from .tokenising import chess_tokenizer, text_tokenizer
from .training import IGNORED

TaskName = Literal["chess", "text"]

N_HELD_OUT = 400
"""Games, or windows of text, that no model is trained on; a quarter where there are few."""
LEAST_HELD_OUT = 8


@dataclass(frozen=True)
class Task:
    """Rows to train on, rows to measure on."""

    name: TaskName
    description: str
    tokenizer: PreTrainedTokenizerFast
    train_rows: Int64[Tensor, "rows positions"]
    """Token ids; IGNORED pads the end."""
    test_rows: Int64[Tensor, "test positions"]
    """The same for what was held out: the first five eighths label features, the rest test."""
    test_texts: tuple[str, ...] = field(repr=False)

    @property
    def n_labelling(self) -> int:
        """How many of the test rows may teach a labelling; the others test it."""
        return len(self.test_rows) * 5 // 8

    @property
    def d_vocab(self) -> int:
        """Number of tokens."""
        return len(self.tokenizer)

    @cached_property
    def stops(self) -> Bool[Tensor, "test positions"]:
        """Chess: where test rows hold a full stop."""
        stop = self.tokenizer.convert_tokens_to_ids(".")
        assert isinstance(stop, int)
        return self.test_rows == stop

    @cached_property
    def labels(self) -> Labels:
        """Chess: properties of the board at those stops, in reading order."""
        return label_games(self.test_texts)


def chess_task(games: str | None = None, *, context: int = 160) -> Task:
    """Games as characters.

    Args:
        games: PGN file; None for the games that come with the package.
        context: Longest text; games are cut there.

    Raises:
        CorpusError: There is no such file, or too few games in it.
        MissingPackageError: The package `chess` is not installed.
    """
    tokenizer = chess_tokenizer()
    texts = [game[:context] for game in read_games(games)]
    n_held_out = min(N_HELD_OUT, len(texts) // 4)
    if n_held_out < LEAST_HELD_OUT:
        raise CorpusError(
            f"At least {4 * LEAST_HELD_OUT} games are needed, a quarter of them to measure on; got "
            f"{len(texts)}."
        )
    rows = _padded([tokenizer(text)["input_ids"] for text in texts], context)
    where = "that come with the package" if games is None else "given"
    return Task(
        "chess", f"{len(texts)} games {where}", tokenizer, rows[:-n_held_out],
        rows[-n_held_out:], tuple(texts[-n_held_out:]),
    )  # fmt: skip


def text_task(corpus: Corpus | None = None, *, context: int = 160, d_vocab: int = 1024) -> Task:
    """Docstrings of a corpus of Python files, or its texts as they are.

    Windows never cross documents, and those held out are of other documents.

    Args:
        corpus: Texts; None for the docstrings of the running Python's standard library.
        context: Longest window, tokens.
        d_vocab: Byte pairs to learn.

    Raises:
        CorpusError: Too little text.
    """
    found = list(docstrings(standard_library()) if corpus is None else (d.text for d in corpus))
    teaching = [text for number, text in enumerate(found) if number % 8]
    held_out = [text for number, text in enumerate(found) if number % 8 == 0]
    tokenizer = text_tokenizer(teaching, size=d_vocab)
    parts = [_windows(tokenizer, texts, context) for texts in (teaching, held_out)]
    if min(map(len, parts)) < LEAST_HELD_OUT:
        raise CorpusError(
            f"The corpus gives {len(parts[0])} windows of {context} tokens to train on and "
            f"{len(parts[1])} to measure on (every eighth document); at least {LEAST_HELD_OUT} of each "
            "are needed."
        )
    test = parts[1][:N_HELD_OUT]
    name = "docstrings of the standard library" if corpus is None else corpus.description
    return Task("text", name, tokenizer, parts[0], test, ())


def docstrings(corpus: Corpus) -> Iterator[str]:
    """All docstrings of each Python file, one text per file; files without any are left out."""
    for document in corpus:
        try:
            tree = ast.parse(document.text)
        except (SyntaxError, ValueError):
            continue
        kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        found = [ast.get_docstring(n) for n in ast.walk(tree) if isinstance(n, kinds)]
        text = "\n\n".join(text for text in found if text)
        if text:
            yield text


def _windows(tokenizer: PreTrainedTokenizerFast, texts: list[str], context: int) -> Tensor:
    bos = tokenizer.bos_token_id
    rows = []
    for ids in tokenizer(texts)["input_ids"] if texts else []:
        for start in range(0, len(ids), context - 1):
            piece = ids[start : start + context - 1]
            if len(piece) >= context // 4:
                rows.append([bos, *piece])
    return _padded(rows, context)


def _padded(rows: list[list[int]], context: int) -> Tensor:
    table = np.full((len(rows), context), IGNORED, dtype=np.int64)
    for number, ids in enumerate(rows):
        table[number, : len(ids)] = ids[:context]
    return torch.from_numpy(table)
