"""The regularised encoder-decoder (arXiv 2304.04052, section 2): five constraints make it a causal LM.

    causal-source   the encoder is causal and target and source share one softmax
    source-loss     the source's tokens are predicted too
    shared          encoder and decoder layers have the same weights
    layerwise       decoder layer l reads what enters encoder layer l, not the encoder's end
    consecutive     target positions continue behind the source

With all five the logits are exactly those of the causal language model over source and target in a
row (a test compares them). Leaving out one at a time gives the paper's axes between the two families.
Target and source always share one softmax here; leaving out `causal-source` makes the encoder
bidirectional.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..errors import OptionError
from .layers import Layer, Memory, Seq2Seq, Seq2SeqOptions, Vocabulary, causal, initialise, present

Constraint = Literal["causal-source", "source-loss", "shared", "layerwise", "consecutive"]
CONSTRAINTS: frozenset[str] = frozenset(get_args(Constraint))
"""All five: the causal language model."""


class RegularisedEncoderDecoder(Seq2Seq):
    """An encoder and a decoder under some of the five constraints.

    Args:
        options: Size; `source_weight` counts only under "source-loss".
        constraints: Which hold; all by default.

    Raises:
        OptionError: A constraint of another name.
    """

    def __init__(
        self, options: Seq2SeqOptions, constraints: frozenset[str] | set[str] = CONSTRAINTS
    ) -> None:
        super().__init__()
        unknown = sorted(set(constraints) - CONSTRAINTS)
        if unknown:
            raise OptionError(f"constraints must be among {sorted(CONSTRAINTS)}, got {unknown}.")
        self.options, self.constraints = options, frozenset(constraints)
        self.source_shift = 1 if "causal-source" in constraints else 0
        self.vocabulary = Vocabulary(options)
        sizes = (options.d_model, options.n_heads)
        self.encoder = nn.ModuleList(Layer(*sizes) for _ in range(options.n_layers))
        self.decoder = (
            self.encoder
            if "shared" in constraints
            else nn.ModuleList(Layer(*sizes) for _ in range(options.n_layers))
        )
        initialise(self, options.seed)

    def encode(self, source: Int64[Tensor, "b s"], lengths: Int64[Tensor, " b"]) -> Memory:
        """Read the source."""
        b, n = source.shape
        here = present(lengths, n)
        allowed = causal(b, n, source.device)
        if "causal-source" not in self.constraints:
            itself = torch.eye(n, dtype=torch.bool, device=source.device)
            allowed = here[:, None, :].expand(b, n, n) | itself
        places = torch.arange(n, device=source.device).expand(b, n)
        stream = self.vocabulary.embed(source, places)
        entering = []
        for layer in self.encoder:
            entering.append(stream)
            stream = layer(stream, stream, allowed)
        layers = entering if "layerwise" in self.constraints else [stream] * len(entering)
        return Memory(
            layers=tuple(layers), partial=(), present=here, logits=self.vocabulary.logits(stream)
        )

    def decode(self, memory: Memory, target: Int64[Tensor, "b t"]) -> Float[Tensor, "b t v"]:
        """Logits after each target token."""
        b, t = target.shape
        first = memory.present.sum(1) if "consecutive" in self.constraints else 0 * target[:, 0]
        places = first[:, None] + torch.arange(t, device=target.device)
        stream = self.vocabulary.embed(target, places)
        seen = torch.cat([memory.present[:, None].expand(b, t, -1), causal(b, t, target.device)], 2)
        for layer, source in zip(self.decoder, memory.layers, strict=True):
            stream = layer(stream, torch.cat([source, stream], 1), seen)
        return self.vocabulary.logits(stream)

    def source_loss(self, memory: Memory, source: Int64[Tensor, "b s"]) -> Tensor:
        """Zero where the constraint is left out."""
        if "source-loss" not in self.constraints:
            return memory.logits.new_zeros(())
        return super().source_loss(memory, source)
