"""A cache of keys and values that grows in place.

transformers' dynamic cache copies all keys and values of a layer to add one token. Here they lie in a
buffer with room to spare; adding writes behind them, forgetting moves the end. What attention sees is
a view, of the same values in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 256
"""Tokens that a buffer has room for beyond those that made it grow."""


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, each at the beginning of a buffer."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values; returns all of them, (batch, heads, tokens, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = (_room(key_states, 0), _room(value_states, 0))
            self.keys, self.values = (buffer[..., :0, :] for buffer in self._buffers)
        assert self.keys is not None
        assert self.values is not None
        held = self.keys.shape[-2]
        total = held + key_states.shape[-2]
        if total > self._buffers[0].shape[-2]:
            grown = []
            for kept in (self.keys, self.values):
                buffer = _room(kept, total)
                buffer[..., :held, :] = kept
                grown.append(buffer)
            self._buffers = tuple(grown)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., held:total, :] = states
        self.keys, self.values = (buffer[..., :total, :] for buffer in self._buffers)
        return self.keys, self.values


def growing_cache(config: Any = None) -> DynamicCache:
    """An empty cache whose full-attention layers grow in place.

    Args:
        config: The model's; its sliding or recurrent layers keep their own kind. None for growing
            layers only.
    """
    cache = DynamicCache() if config is None else DynamicCache(config=config)
    cache.layers = [GrowingLayer() if type(x) is DynamicLayer else x for x in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    return cache


def _room(like: Tensor, tokens: int) -> Tensor:
    """An uninitialised buffer for `tokens` tokens and more."""
    size = (tokens // ROOM + 2) * ROOM
    return torch.empty(*like.shape[:-2], size, like.shape[-1], dtype=like.dtype, device=like.device)
