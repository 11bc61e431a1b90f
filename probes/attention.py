"""The port of attention probabilities, without changing the numerics of anything else.

Asking a model for attention weights usually means switching it to its slow "eager" attention, which
changes every number a little. Here the model keeps its own attention function; where somebody looks,
the probabilities are recomputed beside it from the same queries, keys, mask and scale. Models that
run eager attention hand out the probabilities they really used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .ports import Port

_DISPATCH = "get_interface"
"""Name of the method by which a model asks transformers for its attention function."""

_watched: dict[nn.Module, list[PatternPort]] = {}
"""Attention modules somebody looks at; transformers' one dispatcher serves all models."""


KeysValues = Callable[[Tensor, Tensor], None]
"""Takes keys and values of one pass, each (batch, kv_heads, key, d_head)."""


class AttentionPort(Port):
    """What ports of attention probabilities have in common: whoever looks may hear keys and values.

    Args:
        attention: The attention module.
    """

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention
        self._listeners: list[KeysValues] = []

    def listen(self, hear: KeysValues) -> Callable[[], None]:
        """Let `hear` have keys and values on every pass in which somebody looks at the pattern.

        Returns:
            A function that ends it.
        """
        self._listeners.append(hear)
        return lambda: self._listeners.remove(hear)

    def _tell(self, key: Tensor, value: Tensor) -> None:
        for hear in self._listeners:
            hear(key, value)


class PatternPort(AttentionPort):
    """Attention probabilities of one attention module, (batch, heads, query, key).

    Values are float32 where recomputed (float64 in a float64 model). Edited probabilities replace
    the attention output by `pattern @ values`: from there on the numbers follow the eager formula.
    """

    def _open(self) -> Callable[[], None]:
        if not _watched:
            setattr(ALL_ATTENTION_FUNCTIONS, _DISPATCH, _watching_interface)
        ports = _watched.setdefault(self.attention, [])
        ports.append(self)

        def close() -> None:
            ports.remove(self)
            if not ports:
                del _watched[self.attention]
            if not _watched:
                delattr(ALL_ATTENTION_FUNCTIONS, _DISPATCH)

        return close

    def run(
        self, function: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        """Call the model's own attention function and show the probabilities beside it."""
        output, weights = function(module, *args, **kwargs)
        query, key, value, mask = args[:4]
        self._tell(key, value)
        pattern = weights
        if pattern is None:
            pattern = attention_probabilities(
                query, key, mask, scale=kwargs.get("scaling"), causal=self._is_causal(kwargs)
            )
        replacement = self._show(pattern)
        if replacement is None:
            return output, weights
        edited = with_pattern(replacement, value)
        return edited.transpose(1, 2).contiguous(), replacement

    def _is_causal(self, kwargs: dict[str, Any]) -> bool:
        asked = kwargs.get("is_causal")
        return getattr(self.attention, "is_causal", True) if asked is None else asked


def _watching_interface(implementation: str, default: Callable[..., Any]) -> Callable[..., Any]:
    function = type(ALL_ATTENTION_FUNCTIONS).get_interface(
        ALL_ATTENTION_FUNCTIONS, implementation, default
    )

    def attend(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        watched = function
        for port in _watched.get(module, ()):
            watched = partial(port.run, watched)
        return watched(module, *args, **kwargs)

    return attend


def attention_probabilities(
    query: Float[Tensor, "batch heads query d_head"],
    key: Float[Tensor, "batch kv_heads key d_head"],
    mask: Tensor | None,
    *,
    scale: float | None,
    causal: bool,
) -> Float[Tensor, "batch heads query key"]:
    """softmax(query @ key * scale + mask) in at least float32: scaled dot-product attention's own.

    Args:
        query: Queries.
        key: Keys; fewer heads than queries where heads are grouped.
        mask: Boolean (True = may attend) or additive, broadcastable to the result; None for none.
        scale: Factor on the scores; None for 1 / sqrt(d_head).
        causal: Whether a missing mask means causal attention (with one query: to everything).
    """
    key = repeat(key, "b h k d -> b (h g) k d", g=query.shape[1] // key.shape[1])
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    exact = torch.promote_types(query.dtype, torch.float32)
    scores = torch.einsum("bhqd,bhkd->bhqk", query.to(exact), key.to(exact)) * factor
    n_query, n_key = scores.shape[-2:]
    if mask is not None:
        mask = mask[..., :n_key]
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
    elif causal and n_query > 1:
        allowed = torch.ones(n_query, n_key, dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~allowed, -torch.inf)
    return scores.softmax(dim=-1).nan_to_num(0.0)


def with_pattern(
    pattern: Float[Tensor, "batch heads query key"],
    value: Float[Tensor, "batch kv_heads key d_head"],
) -> Float[Tensor, "batch heads query d_head"]:
    """What attention gives with these probabilities, in the values' type."""
    values = repeat(value, "b h k d -> b (h g) k d", g=pattern.shape[1] // value.shape[1])
    return torch.einsum("bhqk,bhkd->bhqd", pattern.to(values.dtype), values)


def pattern_source(module: PreTrainedModel) -> str:
    """Which computation attention probabilities of this model come from, in words."""
    implementation = module.config._attn_implementation
    if implementation == "eager":
        return "eager attention's own probabilities"
    return f"recomputed in float32 beside {implementation}"


def dispatches(attention: nn.Module) -> bool:
    """Whether this module's attention runs through transformers' dispatcher, where we can look."""
    return _DISPATCH in inspect.unwrap(type(attention).forward).__code__.co_names
