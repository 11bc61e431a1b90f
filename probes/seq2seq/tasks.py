"""Tasks whose every answer stands in the source, however long the target has grown.

    recall    the source lists pairs of key and value; the target asks for each key once, with filler
              and decoys between the questions, and the value must follow
    copy      the target is the source
    reverse   the target is the source backwards

Only positions whose next token is determined are scored, so filler and questions cost nothing. A
question's answer never stands in the target, which makes every answer a look at the source. Decoys
are pairs in the target that look like the source's, a key of the source and another value than its
own: the longer the target, the more of them compete with the one true pair, which is how a growing
target draws attention off the source.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from ..errors import OptionError

Kind = Literal["recall", "copy", "reverse"]
START = 0
"""First target token."""
SPECIAL = 1
"""Tokens that are none of the task's symbols."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """A task and its size."""

    kind: Kind = "recall"
    """Which task."""
    n_items: int = 16
    """Pairs in the source (recall), or its tokens (copy, reverse); sources of a batch vary below it."""
    n_symbols: int = 32
    """Symbols of each sort: keys, values, filler; or of the one sort that is copied."""
    n_filler: int = 6
    """Filler tokens before each question of recall."""
    n_decoys: int = 0
    """Wrong pairs before each question of recall, behind its filler."""

    def __post_init__(self) -> None:
        if min(self.n_items, self.n_symbols) < 2 or min(self.n_filler, self.n_decoys) < 0:
            raise OptionError(
                "n_items and n_symbols must be at least 2, n_filler and n_decoys at least 0, got "
                f"{self.n_items}, {self.n_symbols}, {self.n_filler}, {self.n_decoys}."
            )
        if self.kind == "recall" and self.n_items > self.n_symbols:
            raise OptionError(
                f"recall needs a key of its own per item: n_items {self.n_items} must not exceed "
                f"n_symbols {self.n_symbols}."
            )

    @property
    def d_vocab(self) -> int:
        """Tokens in all."""
        return SPECIAL + self.n_symbols * (3 if self.kind == "recall" else 1)

    @property
    def n_source(self) -> int:
        """Longest source."""
        return self.n_items * (2 if self.kind == "recall" else 1)

    @property
    def n_target(self) -> int:
        """Longest target."""
        question = self.n_filler + 2 * self.n_decoys + 2
        return self.n_items * (question if self.kind == "recall" else 1)


@dataclass(frozen=True)
class Batch:
    """Sources, what is fed of the targets, and what must come out."""

    source: Int64[Tensor, "b s"]
    lengths: Int64[Tensor, " b"]
    fed: Int64[Tensor, "b t"]
    """The target behind a start token, its last token left out."""
    wanted: Int64[Tensor, "b t"]
    """The token after each fed one."""
    scored: Bool[Tensor, "b t"]
    """Where it is determined by source and target so far."""


def draw(options: TaskOptions, n_rows: int, generator: torch.Generator) -> Batch:
    """Draw a batch; sources have between half and all of the items.

    Args:
        options: The task.
        n_rows: Sources.
        generator: Draws everything.
    """
    rows = [_row(options, generator) for _ in range(n_rows)]
    source = torch.zeros(n_rows, options.n_source, dtype=torch.int64)
    target = torch.zeros(n_rows, options.n_target, dtype=torch.int64)
    scored = torch.zeros(n_rows, options.n_target, dtype=torch.bool)
    for number, (given, answer, known) in enumerate(rows):
        source[number, : len(given)] = given
        target[number, : len(answer)] = answer
        scored[number, : len(answer)] = known
    fed = torch.cat([torch.full((n_rows, 1), START), target[:, :-1]], dim=1)
    lengths = torch.tensor([len(given) for given, _, _ in rows])
    return Batch(source, lengths, fed, target, scored)


def _row(options: TaskOptions, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    most, symbols = options.n_items, options.n_symbols
    n = int(torch.randint(-(-most // 2), most + 1, (), generator=generator))

    def symbol(sort: int, *shape: int) -> Tensor:
        drawn = torch.randint(0, symbols, shape, generator=generator)
        return SPECIAL + sort * symbols + drawn

    if options.kind != "recall":
        given = symbol(0, n)
        answer = given.clone() if options.kind == "copy" else given.flip(0)
        return given, answer, torch.ones(n, dtype=torch.bool)
    keys = SPECIAL + torch.randperm(symbols, generator=generator)[:n]
    values = symbol(1, n)
    given = torch.stack([keys, values], 1).flatten()
    order = torch.randperm(n, generator=generator)
    asked = torch.stack([keys[order], values[order]], 1)
    chosen = torch.randint(0, n, (n, options.n_decoys), generator=generator)
    off = torch.randint(1, symbols, chosen.shape, generator=generator)
    first = SPECIAL + symbols
    wrong = first + (values[chosen] - first + off) % symbols
    decoys = torch.stack([keys[chosen], wrong], 2).flatten(1)
    answer = torch.cat([symbol(2, n, options.n_filler), decoys, asked], dim=1)
    known = torch.zeros_like(answer, dtype=torch.bool)
    known[:, -1] = True
    return given, answer.flatten(), known.flatten()
