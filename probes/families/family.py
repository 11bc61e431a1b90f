"""What a family table holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from transformers import PretrainedConfig


@dataclass(frozen=True)
class Place:
    """Where a site's value passes, relative to its layer."""

    path: str
    """Module path from the layer; "" is the layer itself."""
    side: Literal["input", "output"] = "output"
    """Which side of the module."""
    pick: int = 0
    """Which element, where the module returns a tuple."""
    flat: bool = False
    """Whether tokens pass there flattened to (rows, d)."""


def _nowhere(config: PretrainedConfig) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where the sites of one architecture family are."""

    name: str
    """The family's own name."""
    model_types: tuple[str, ...]
    """`config.model_type` of the models it serves."""
    layers: str = "model.layers"
    """Path of the list of decoder layers."""
    embed: str = "model.embed_tokens"
    """Path of the token embedding."""
    final_norm: str = "model.norm"
    """Path of the norm before the unembedding."""
    attention: str = "self_attn"
    """Path of the attention module in a layer, where its probabilities are looked for."""
    router: str = "mlp.gate"
    """Path of the router in a layer, if there is one."""
    experts: str = "mlp.experts"
    """Path of the fused experts in a layer, if there are any."""
    block: str = "mlp"
    """Path of the mixture-of-experts block around them."""
    first_hidden_state: int = 0
    """Which block's input the model's `hidden_states[0]` is (1 where the embedding is left out)."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Sites inside a layer beyond resid_pre and resid_post."""
    home: str = ""
    """Room and module that defines the architecture, where transformers does not."""
    missing: Callable[[PretrainedConfig], frozenset[str]] = _nowhere
    """Sites that a variant of the family lacks (parallel blocks have no resid_mid)."""
