"""Transformers compiled by hand from two RASP programs, in the manner of Tracr (arXiv 2301.05062).

Every variable of a program has its own dimensions of the residual stream (tokens, positions and
counts as one-hot vectors, a fraction as a number), attention and MLP weights are written down, not
trained, and the model is exact. Tracr itself needs JAX and is not used; the construction is its:

- reverse: n = selector_width(all), opp = n - position + 1,
  out = aggregate(select(opp == position), tokens)
- sort: rank = selector_width(select(key < query)),
  out = aggregate(select(rank + 1 == position), tokens)

`sort` sorts sequences of distinct tokens (Tracr's sort_unique). A selector's width is read off the
attention to the first token, BOS, 1 / (1 + width), written larger by the number of positions so
that compression does not drown it.

Axis legend: b sequences, s positions (BOS first), e dimensions of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.errors import OptionError

SHARP = 20.0
"""Score of a selected key; what is not selected gets e^-20 of its weight."""
Squeeze = Callable[[Tensor], Tensor]
"""What is done to the residual stream after every write."""


@dataclass(frozen=True)
class Block:
    """Attention, then an MLP, both adding to the residual stream; None is left out."""

    score: Float[Tensor, "e e"] | None
    """Query by key; attention scores are x score x^T."""
    move: Float[Tensor, "e e"] | None
    """What attention writes, from what it reads."""
    into: Float[Tensor, "e u"] | None = None
    """MLP's first weights."""
    bias: Float[Tensor, " u"] | None = None
    """MLP's first bias."""
    out: Float[Tensor, "u e"] | None = None
    """MLP's second weights."""


@dataclass(frozen=True)
class Program:
    """A compiled transformer."""

    name: str
    names: tuple[str, ...]
    """What each dimension of the residual stream holds."""
    blocks: tuple[Block, ...]
    n_tokens: int
    """Vocabulary without BOS."""
    longest: int
    """Longest sequence without BOS."""
    answer: slice
    """Dimensions that hold the output, one-hot."""

    @property
    def size(self) -> int:
        """Dimensions of the residual stream, every variable in its own."""
        return len(self.names)

    def embed(self, tokens: Int[Tensor, "b s"]) -> Float[Tensor, "b s e"]:
        """Residual stream before the first block; token `n_tokens` is BOS, -1 padding."""
        x = torch.zeros(*tokens.shape, self.size)
        real = tokens >= 0
        x.scatter_(2, tokens.clamp(min=0)[..., None], real[..., None].float())
        start = self.names.index("position 0")
        positions = torch.arange(tokens.shape[1]).expand_as(tokens)
        x.scatter_add_(2, (start + positions)[..., None], real[..., None].float())
        return x

    def run(
        self, tokens: Int[Tensor, "b s"], squeeze: Squeeze | None = None
    ) -> tuple[Float[Tensor, "*models b s v"], list[Float[Tensor, "*models b s e"]]]:
        """Answers and the residual stream before the first and after each half of a block.

        Args:
            tokens: Sequences from `sequences`.
            squeeze: Applied to the stream after every write: what compression does to it.
        """
        keep: Bool[Tensor, "b s"] = tokens >= 0
        through = squeeze or (lambda stream: stream)
        x = through(self.embed(tokens))
        stream = [x]
        for block in self.blocks:
            if block.score is not None and block.move is not None:
                scores = torch.einsum("...qe,ef,...kf->...qk", x, block.score, x)
                weights = scores.masked_fill(~keep[:, None, :], -torch.inf).softmax(-1)
                x = through(x + weights @ (x @ block.move))
                stream.append(x)
            if block.into is not None and block.bias is not None and block.out is not None:
                x = through(x + (x @ block.into + block.bias).relu() @ block.out)
                stream.append(x)
        return x[..., self.answer], stream

    def sequences(
        self, n: int, generator: torch.Generator
    ) -> tuple[Int[Tensor, "n s"], Int[Tensor, "n s"]]:
        """Random inputs and the right answers; -1 where there is no token (BOS in the answers)."""
        tokens = torch.full((n, self.longest + 1), -1)
        answers = torch.full((n, self.longest + 1), -1)
        tokens[:, 0] = self.n_tokens
        lengths = torch.randint(1, self.longest + 1, (n,), generator=generator)
        for row, length in enumerate(lengths.tolist()):
            drawn = torch.randperm(self.n_tokens, generator=generator)[:length]
            if self.name == "reverse":
                drawn = torch.randint(self.n_tokens, (length,), generator=generator)
            tokens[row, 1 : length + 1] = drawn
            right = drawn.flip(0) if self.name == "reverse" else drawn.sort().values
            answers[row, 1 : length + 1] = right
        return tokens, answers


def compile_program(
    name: Literal["reverse", "sort"], *, n_tokens: int = 8, longest: int = 6
) -> Program:
    """The transformer of a program.

    Args:
        name: Which program.
        n_tokens: Vocabulary.
        longest: Longest sequence; for sort at most the vocabulary.

    Raises:
        OptionError: Sizes below 2, or sequences longer than there are distinct tokens to sort.
    """
    if min(n_tokens, longest) < 2 or (name == "sort" and longest > n_tokens):
        raise OptionError(
            f"n_tokens and longest must be at least 2, and for sort longest at most n_tokens, got "
            f"{n_tokens} and {longest}."
        )
    return _reverse(n_tokens, longest) if name == "reverse" else _sort(n_tokens, longest)


class _Layout:
    """Names of the dimensions, given out in groups."""

    def __init__(self, n_tokens: int, longest: int) -> None:
        self.names: list[str] = []
        self.n_positions = longest + 1
        self.token = self.take("token", n_tokens)
        self.bos = self.take("BOS", 1).start
        self.position = self.take("position", longest + 1)
        self.fraction = self.take("fraction", 1).start

    def take(self, what: str, n: int) -> slice:
        start = len(self.names)
        self.names += [what] if n == 1 else [f"{what} {i}" for i in range(n)]
        return slice(start, start + n)

    def square(self) -> Tensor:
        return torch.zeros(len(self.names), len(self.names))


def _counted(layout: _Layout, counts: slice) -> tuple[Tensor, Tensor, Tensor]:
    """MLP that turns the fraction 1 / (1 + k) into a one-hot k, except at BOS.

    Each k has a triangle of three ReLUs around its fraction, narrower than the gap to the next one.
    """
    n, size = counts.stop - counts.start, len(layout.names)
    unit_fraction = layout.n_positions
    into, bias, out = torch.zeros(size, 3 * n), torch.zeros(3 * n), torch.zeros(3 * n, size)
    reach = 0.9 * (1 / n - 1 / (n + 1))
    for k in range(n):
        for part, (shift, weight) in enumerate(((-reach, 1.0), (0.0, -2.0), (reach, 1.0))):
            unit = 3 * k + part
            into[layout.fraction, unit] = 1 / (reach * unit_fraction)
            into[layout.bos, unit] = -4 / reach
            bias[unit] = -(1 / (1 + k) + shift) / reach
            out[unit, counts.start + k] = weight
    return into, bias, out


def _reverse(n_tokens: int, longest: int) -> Program:
    layout = _Layout(n_tokens, longest)
    lengths = layout.take("length", longest + 1)
    opposite = layout.take("opposite", longest + 1)
    answer = layout.take("answer", n_tokens)
    count = layout.square()
    count[layout.bos, layout.fraction] = layout.n_positions
    pairs = [(n, i) for n in range(1, longest + 1) for i in range(1, n + 1)]
    into = torch.zeros(len(layout.names), len(pairs))
    out = torch.zeros(len(pairs), len(layout.names))
    for unit, (n, i) in enumerate(pairs):
        into[lengths.start + n, unit] = into[layout.position.start + i, unit] = 1.0
        out[unit, opposite.start + n + 1 - i] = 1.0
    score = layout.square()
    score[opposite, layout.position] = SHARP * torch.eye(longest + 1)
    move = layout.square()
    move[layout.token, answer] = torch.eye(n_tokens)
    blocks = (
        Block(layout.square(), count, *_counted(layout, lengths)),
        Block(None, None, into, -torch.ones(len(pairs)), out),
        Block(score, move),
    )
    return Program("reverse", tuple(layout.names), blocks, n_tokens, longest, answer)


def _sort(n_tokens: int, longest: int) -> Program:
    layout = _Layout(n_tokens, longest)
    ranks = layout.take("rank", longest)
    answer = layout.take("answer", n_tokens)
    score = layout.square()
    score[layout.token, layout.token] = SHARP * torch.ones(n_tokens, n_tokens).tril(-1)
    score[layout.token, layout.bos] = SHARP
    score[layout.bos, layout.bos] = SHARP
    count = layout.square()
    count[layout.bos, layout.fraction] = layout.n_positions
    find = layout.square()
    for rank in range(longest):
        find[layout.position.start + 1 + rank, ranks.start + rank] = SHARP
    move = layout.square()
    move[layout.token, answer] = torch.eye(n_tokens)
    blocks = (Block(score, count, *_counted(layout, ranks)), Block(find, move))
    return Program("sort", tuple(layout.names), blocks, n_tokens, longest, answer)
