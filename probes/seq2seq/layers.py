"""What the small sequence-to-sequence models of this folder are made of.

All are pre-norm transformers with learned positions and a tied unembedding. Axes: b batch, s source
position, t target position, d model. Masks are boolean, True = may be looked at; every row may look
at itself, so that padding never makes a row of the softmax empty.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class Seq2SeqOptions:
    """Size of a small model."""

    d_vocab: int
    """Tokens, special ones included."""
    d_model: int = 64
    """Width of the residual stream."""
    n_layers: int = 2
    """Layers."""
    n_heads: int = 4
    """Attention heads per layer."""
    max_positions: int = 256
    """Longest source plus target."""
    source_weight: float = 1.0
    """Weight of the source's own loss; 1 is a plain language model's."""
    seed: int = 0
    """Draws the initial weights."""

    def __post_init__(self) -> None:
        if self.d_model % self.n_heads:
            raise OptionError(
                f"d_model must be a multiple of n_heads, got {self.d_model} and {self.n_heads}."
            )
        if self.source_weight < 0:
            raise OptionError(f"source_weight must not be negative, got {self.source_weight}.")


@dataclass(frozen=True)
class Memory:
    """What decoding needs of a source; computed once per source."""

    layers: tuple[Float[Tensor, "b s d"], ...]
    """The stream that enters each layer's attention as keys and values."""
    partial: tuple[Float[Tensor, "b s d"], ...]
    """What each layer's partial attention reads; empty for models without one."""
    present: Bool[Tensor, "b s"]
    """False on padding."""
    logits: Float[Tensor, "b s v"]
    """Predictions made at the source positions themselves."""


class Seq2Seq(nn.Module, abc.ABC):
    """A model from a source to a target; `encode` never sees the target."""

    options: Seq2SeqOptions
    source_shift: int
    """0 if the source's own loss predicts each token at its place, 1 if the one that follows."""

    @abc.abstractmethod
    def encode(self, source: Int64[Tensor, "b s"], lengths: Int64[Tensor, " b"]) -> Memory:
        """Read sources, padded on the right to one length."""

    @abc.abstractmethod
    def decode(self, memory: Memory, target: Int64[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """Logits of the token after each target token; the first is a start token."""

    def forward(
        self,
        source: Int64[Tensor, "b s"],
        lengths: Int64[Tensor, " b"],
        target: Int64[Tensor, "b t"],
    ) -> tuple[Float[Tensor, "b t v"], Memory]:
        """Logits at the target's positions, and the source's memory."""
        memory = self.encode(source, lengths)
        return self.decode(memory, target), memory

    def source_loss(self, memory: Memory, source: Int64[Tensor, "b s"]) -> Tensor:
        """Mean negative log-likelihood of the source's tokens under the model's own rule, nats."""
        n, shift = source.shape[1], self.source_shift
        wanted = source.masked_fill(~memory.present, -100)[:, shift:]
        logits = memory.logits[:, : n - shift]
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100)


class Attention(nn.Module):
    """Multi-head attention from one set of states to another."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )

    def forward(
        self,
        states: Float[Tensor, "b q d"],
        memory: Float[Tensor, "b k d"],
        allowed: Bool[Tensor, "b q k"],
    ) -> Float[Tensor, "b q d"]:
        """What the states gather from the memory in one softmax."""
        query, key, value = (
            rearrange(part, "b p (h e) -> b h p e", h=self.n_heads)
            for part in (self.query(states), self.key(memory), self.value(memory))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed[:, None])
        return self.out(rearrange(mixed, "b h p e -> b p (h e)"))


class Mlp(nn.Sequential):
    """The feed-forward half of a layer."""

    def __init__(self, d_model: int) -> None:
        super().__init__(
            nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model)
        )


class Layer(nn.Module):
    """Attention, then MLP, each after a norm and added to the stream."""

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention, self.mlp = Attention(d_model, n_heads), Mlp(d_model)

    def attend(
        self,
        stream: Float[Tensor, "b q d"],
        memory: Float[Tensor, "b k d"],
        allowed: Bool[Tensor, "b q k"],
    ) -> Float[Tensor, "b q d"]:
        """The stream after attention; `memory` is a stream too and gets the same norm."""
        gathered = self.attention(self.attention_norm(stream), self.attention_norm(memory), allowed)
        return stream + gathered

    def think(self, stream: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
        """The stream after the MLP."""
        return stream + self.mlp(self.mlp_norm(stream))

    def forward(
        self,
        stream: Float[Tensor, "b q d"],
        memory: Float[Tensor, "b k d"],
        allowed: Bool[Tensor, "b q k"],
    ) -> Float[Tensor, "b q d"]:
        """Both halves."""
        return self.think(self.attend(stream, memory, allowed))


class Vocabulary(nn.Module):
    """Token and position embedding, final norm and tied unembedding."""

    def __init__(self, options: Seq2SeqOptions) -> None:
        super().__init__()
        self.tokens = nn.Embedding(options.d_vocab, options.d_model)
        self.positions = nn.Embedding(options.max_positions, options.d_model)
        self.norm = nn.LayerNorm(options.d_model)

    def embed(
        self, tokens: Int64[Tensor, "b p"], positions: Int64[Tensor, "b p"]
    ) -> Float[Tensor, "b p d"]:
        """Sum of both embeddings.

        Raises:
            OptionError: A position lies beyond the table.
        """
        longest = int(positions.max()) + 1
        if longest > self.positions.num_embeddings:
            raise OptionError(
                f"source and target must fit {self.positions.num_embeddings} positions, got "
                f"{longest}; build the model with max_positions={longest}."
            )
        return self.tokens(tokens) + self.positions(positions)

    def logits(self, stream: Float[Tensor, "b p d"]) -> Float[Tensor, "b p v"]:
        """Unembedding."""
        return self.norm(stream) @ self.tokens.weight.T


def initialise(module: nn.Module, seed: int) -> None:
    """Draw all weights afresh: normal with standard deviation 0.02 times the usual width rule."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=part.embedding_dim**-0.5, generator=generator)


def present(lengths: Int64[Tensor, " b"], longest: int) -> Bool[Tensor, "b s"]:
    """Which positions of right-padded rows hold a token."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def causal(batch: int, n: int, device: torch.device) -> Bool[Tensor, "b q k"]:
    """Every row may see itself and what comes before."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril().expand(batch, n, n)
