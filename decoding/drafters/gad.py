"""Generalised Aggressive Decoding (2205.10350): a block written at once, verified in one pass.

A block writer (`seq2seq.nar`) fills a row of masks behind the output so far; the target accepts the
beginning it agrees with and adds its own token. As it is, that is lossless. With `beta` above one and
`tau` above zero it is the paper's GAD++, which is not: a drafted token passes if it is among the
target's `beta` likeliest and its score within `tau` of the best; a correction is the target's own
likeliest token.

Deviations: the target may be causal too, whose source is the prompt; sampling by matching (there:
greedy); blocks are cut to what pays (`thrifty`); several rounds of mask-predict on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ..acceptance import AcceptanceRule
from ..beliefs import Beliefs
from ..drafter import Drafter
from ..engine import About
from ..errors import DraftError
from ..registry import register
from ..seq2seq.nar import BlockWriter, open_block_writer
from ..speculative import Speculative, SpeculativeOptions
from ..tree import DraftTree


@dataclass(frozen=True, slots=True, kw_only=True)
class GadOptions(SpeculativeOptions):
    """Options of `Gad`."""

    max_draft: int = 25
    """Tokens of a block."""
    writer: str | BlockWriter | None = None
    """The block writer, or its file."""
    rounds: int = 1
    """Passes of the writer over one block; above one, the least sure tokens are written again."""
    beta: int = 1
    """A drafted token passes among so many likeliest of the target; above 1 not lossless."""
    tau: float = 0.0
    """A drafted token passes within this of the best score, in logits; above 0 not lossless."""

    def __post_init__(self) -> None:
        SpeculativeOptions.__post_init__(self)
        if min(self.rounds, self.beta) < 1:
            raise OptionError(
                f"rounds and beta must be at least 1, got {self.rounds}, {self.beta}."
            )
        if self.tau < 0:
            raise OptionError(f"tau must be at least 0, got {self.tau}.")
        if self.lossy and self.temperature:
            raise OptionError("beta and tau relax greedy decoding only; use temperature 0.")

    @property
    def lossy(self) -> bool:
        """Whether tokens may pass that are not the target's likeliest."""
        return self.beta > 1 and self.tau > 0


@dataclass(frozen=True)
class TopBeta(AcceptanceRule):
    """The target's `beta` likeliest tokens pass, if their score is within `tau` of the best.

    Not lossless unless `beta` is 1 or `tau` 0; hence not among the `RULES`.

    Args:
        beta: Tokens.
        tau: Logits.
    """

    beta: int
    tau: float
    name = "top-beta"  # type: ignore[misc]
    laws = frozenset({"point"})  # type: ignore[misc]

    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """See `AcceptanceRule`."""
        scores = beliefs.scores(node)
        best = torch.topk(scores, min(self.beta, len(scores)))
        for child in siblings:
            token = tree.tokens[child]
            near = float(best.values[0]) - float(scores[token]) <= self.tau
            if near and token in best.indices.tolist():
                return child, token
        return None, int(scores.argmax())


class BlockDrafter(Drafter):
    """Proposes what a block writer fills in.

    Args:
        writer: The writer.
        rounds: Its passes over one block.
    """

    branches = False

    def __init__(self, writer: BlockWriter, rounds: int = 1) -> None:
        self._writer, self._rounds = writer, rounds
        self._source: list[int] = []
        self._memory: Any = None

    def begin(
        self, prompt: Sequence[int], logits: Float[Tensor, "rows d_vocab"] | None = None
    ) -> None:
        """A new source; it is read at the first proposal."""
        self._source, self._memory = list(prompt), None

    @torch.inference_mode()
    def propose(self, text: Sequence[int], budget: int) -> DraftTree:
        """A block; nothing for sources longer than the writer reads."""
        if len(self._source) > self._writer.options.max_positions:
            return DraftTree()
        if self._memory is None:
            device = self._writer.tokens.weight.device
            self._memory = self._writer.encode(torch.tensor([self._source], device=device))
        tokens, trust = self._writer.write(
            self._memory, text[len(self._source) :], budget, rounds=self._rounds
        )
        return DraftTree.chain(tokens, trust, source="block-writer")


@register
class Gad(Speculative):
    """Drafts whole blocks with a model that is not autoregressive."""

    about = About(
        name="gad",
        summary="A non-autoregressive writer fills a block of masks; the target checks it in one pass.",
        paper="2205.10350",
        lossless=True,
        needs="a block writer taught on the target's outputs (beta and tau relax losslessness)",
    )
    Options = GadOptions

    @property
    def lossless(self) -> bool:
        """Not where tokens may pass that are not the target's likeliest."""
        return not self.options.lossy

    def make_drafter(self) -> BlockDrafter:
        """A drafter over the writer.

        Raises:
            DraftError: There is no writer, or it writes another vocabulary.
        """
        given = self.options.writer
        if given is None:
            raise DraftError("'gad' needs a block writer: writer=..., see `teach_block_writer`.")
        writer = given if isinstance(given, BlockWriter) else open_block_writer(self.model, given)
        if writer.d_vocab != self.model.d_vocab:
            raise DraftError(
                f"The block writer has {writer.d_vocab} tokens and the target {self.model.name} "
                f"{self.model.d_vocab}; it needs its target's vocabulary."
            )
        return BlockDrafter(writer, self.options.rounds)

    def _rule(self, drafter: Drafter) -> AcceptanceRule:
        if self.options.lossy:
            return TopBeta(self.options.beta, self.options.tau)
        return super()._rule(drafter)
