"""PALM, the partial-attention language model (arXiv 2304.04052, section 4).

Each layer has three halves: self-attention over source and target, *partial attention* over the source
alone, MLP. Its attention to the source cannot be diluted by a growing target. What partial attention
reads are the source states of the same layer after self-attention, through a small net
P1 = act(A1 s + a1), P = A2 P1 + a2 + P1 (the residual stands around the second map only). Within the
source attention is bidirectional, target positions begin again at 0, and a language embedding tells the
two apart. The source's own loss predicts each token at its place (an auto-encoder's; under
bidirectional attention that is copying, so its weight matters little).

Deviations: normalisation before each half and learned positions; the paper's sizes and recipe could not
be read. `partial="zero"` begins with an output projection of zero, so that a model without
partial attention is continued from exactly where it was; `"none"` leaves the half out (the ablation).
Public third-party code lets short sources of a batch see future target tokens through padding and
trains on unshifted labels; here the memory is made without any target and padding is masked.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from .layers import (
    Attention,
    Layer,
    Memory,
    Seq2Seq,
    Seq2SeqOptions,
    Vocabulary,
    causal,
    initialise,
    present,
)

Partial = Literal["paper", "zero", "none"]


class PartialAttention(nn.Module):
    """Attention to the source of the same layer, after a small net."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d_model)
        self.first, self.second = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.attention = Attention(d_model, n_heads)

    def read(self, source: Float[Tensor, "b s d"]) -> Float[Tensor, "b s d"]:
        """P of the source's states, computed once per source."""
        hidden = nn.functional.gelu(self.first(source))
        return self.second(hidden) + hidden

    def forward(
        self,
        stream: Float[Tensor, "b q d"],
        memory: Float[Tensor, "b s d"],
        allowed: Bool[Tensor, "b q s"],
    ) -> Float[Tensor, "b q d"]:
        """The stream with what it gathered from the source."""
        return stream + self.attention(self.norm(stream), memory, allowed)


class PartialAttentionLM(Seq2Seq):
    """PALM.

    Args:
        options: Size; `source_weight` is the auto-encoder's (third-party default 0.5).
        partial: How partial attention begins, or that there is none.
    """

    source_shift = 0

    def __init__(self, options: Seq2SeqOptions, partial: Partial = "paper") -> None:
        super().__init__()
        self.options, self.partial = options, partial
        self.vocabulary = Vocabulary(options)
        self.language = nn.Embedding(2, options.d_model)
        sizes = (options.d_model, options.n_heads)
        self.layers = nn.ModuleList(Layer(*sizes) for _ in range(options.n_layers))
        n_partial = 0 if partial == "none" else options.n_layers
        self.partials = nn.ModuleList(PartialAttention(*sizes) for _ in range(n_partial))
        initialise(self, options.seed)
        if partial == "zero":
            for _, half in self._blocks():
                assert half is not None
                nn.init.zeros_(half.attention.out.weight)

    def _blocks(self) -> list[tuple[Layer, PartialAttention | None]]:
        """Layers, each with its partial attention if there is one."""
        halves = list(self.partials) or [None] * len(self.layers)
        return cast("list[Any]", list(zip(self.layers, halves, strict=True)))

    def encode(self, source: Int64[Tensor, "b s"], lengths: Int64[Tensor, " b"]) -> Memory:
        """Read the source, both ways."""
        b, n = source.shape
        here = present(lengths, n)
        itself = torch.eye(n, dtype=torch.bool, device=source.device)
        allowed = here[:, None, :].expand(b, n, n) | itself
        places = torch.arange(n, device=source.device).expand(b, n)
        stream = self.vocabulary.embed(source, places) + self.language.weight[0]
        entering, read = [], []
        for layer, half in self._blocks():
            entering.append(stream)
            stream = layer.attend(stream, stream, allowed)
            if half is not None:
                read.append(half.read(stream))
                stream = half(stream, read[-1], allowed)
            stream = layer.think(stream)
        return Memory(
            layers=tuple(entering),
            partial=tuple(read),
            present=here,
            logits=self.vocabulary.logits(stream),
        )

    def decode(self, memory: Memory, target: Int64[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """Logits after each target token; positions begin at 0."""
        b, t = target.shape
        places = torch.arange(t, device=target.device).expand(b, t)
        stream = self.vocabulary.embed(target, places) + self.language.weight[1]
        source_seen = memory.present[:, None].expand(b, t, -1)
        seen = torch.cat([source_seen, causal(b, t, target.device)], 2)
        read = memory.partial or (None,) * len(memory.layers)
        blocks = zip(self._blocks(), memory.layers, read, strict=True)
        for (layer, half), source, partial in blocks:
            stream = layer.attend(stream, torch.cat([source, stream], 1), seen)
            if half is not None:
                stream = half(stream, partial, source_seen)
            stream = layer.think(stream)
        return self.vocabulary.logits(stream)
