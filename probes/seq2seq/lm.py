"""A plain causal language model over source and target in a row: the reference."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from .layers import Layer, Memory, Seq2Seq, Seq2SeqOptions, Vocabulary, causal, initialise, present


class CausalLM(Seq2Seq):
    """Decoder-only transformer; padding stands behind the target, never between.

    Args:
        options: Size; `source_weight` 1 makes its loss that of the whole row.
    """

    source_shift = 1

    def __init__(self, options: Seq2SeqOptions) -> None:
        super().__init__()
        self.options = options
        self.vocabulary = Vocabulary(options)
        self.layers = nn.ModuleList(
            Layer(options.d_model, options.n_heads) for _ in range(options.n_layers)
        )
        initialise(self, options.seed)

    def encode(self, source: Int64[Tensor, "b s"], lengths: Int64[Tensor, " b"]) -> Memory:
        """Read the source alone; its states do not depend on what follows."""
        streams, last = self._run(source)
        return Memory(
            layers=streams,
            partial=(),
            present=present(lengths, source.shape[1]),
            logits=self.vocabulary.logits(last),
        )

    def decode(self, memory: Memory, target: Int64[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """Continue from a memory; `rows` does the same in one pass."""
        lengths = memory.present.sum(1)
        b, t = target.shape
        stream = self.vocabulary.embed(target, lengths[:, None] + _count(t, target.device))
        seen = torch.cat([memory.present[:, None].expand(b, t, -1), causal(b, t, target.device)], 2)
        for layer, source in zip(self.layers, memory.layers, strict=True):
            stream = layer(stream, torch.cat([source, stream], 1), seen)
        return self.vocabulary.logits(stream)

    def rows(self, tokens: Int64[Tensor, "b p"]) -> Float[Tensor, "b p v"]:
        """Logits over whole rows, the ordinary way."""
        return self.vocabulary.logits(self._run(tokens)[1])

    def _run(self, tokens: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        b, n = tokens.shape
        stream = self.vocabulary.embed(tokens, _count(n, tokens.device).expand(b, n))
        streams = []
        for layer in self.layers:
            streams.append(stream)
            stream = layer(stream, stream, causal(b, n, tokens.device))
        return tuple(streams), stream


def _count(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, device=device)
