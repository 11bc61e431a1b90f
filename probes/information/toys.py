"""Small transformers trained on synthetic sources: models whose every information is known.

A Llama of a few thousand weights learns an order-1 or order-2 chain in seconds on one core, so that
the whole path (hidden states, unembedding, estimators) can be held against closed forms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ..errors import OptionError
from ..model import Model
from ..open import wrap_model
from .sources import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyOptions:
    """How large the transformer is and how it is trained."""

    d_model: int = 32
    """Width of the residual stream."""
    n_layers: int = 2
    """Decoder layers."""
    n_heads: int = 2
    """Attention heads per layer."""
    length: int = 32
    """Tokens per document."""
    batch: int = 64
    """Documents per step."""
    n_steps: int = 300
    """Steps of Adam, learning rate falling linearly to zero."""
    learning_rate: float = 1e-2
    """Learning rate at the start."""
    seed: int = 0
    """Fixes weights and documents."""

    def __post_init__(self) -> None:
        sizes = (self.d_model, self.n_layers, self.n_heads, self.batch, self.n_steps)
        if min(sizes) < 1 or self.length < 4 or self.learning_rate <= 0:
            raise OptionError(
                "Sizes and n_steps must be at least 1, length at least 4 and learning_rate positive, "
                f"got {sizes}, {self.length}, {self.learning_rate}."
            )


def train_toy(source: Source, options: ToyOptions | None = None) -> Model:
    """A small transformer trained on fresh documents of a source."""
    chosen = options or ToyOptions()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        module = LlamaForCausalLM(_config(source.n_tokens, chosen))
    optimiser = torch.optim.Adam(module.parameters(), lr=chosen.learning_rate)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, start_factor=1.0, end_factor=0.01, total_iters=chosen.n_steps
    )
    drawn = source.sample(chosen.batch * chosen.n_steps, chosen.length, seed=chosen.seed)
    for ids in torch.from_numpy(drawn).split(chosen.batch):
        logits = module(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    module.requires_grad_(requires_grad=False)
    return wrap_model(module.eval(), name="a toy of a synthetic source")


def _config(n_tokens: int, options: ToyOptions) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=n_tokens,
        hidden_size=options.d_model,
        intermediate_size=2 * options.d_model,
        num_hidden_layers=options.n_layers,
        num_attention_heads=options.n_heads,
        num_key_value_heads=options.n_heads,
        max_position_embeddings=4 * options.length,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
