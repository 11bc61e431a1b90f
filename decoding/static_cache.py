"""A cache of one size: attention always gets whole buffers, whatever of them is filled.

Passes over as many rows then have the same shapes from the first token to the last, which compiled
code and CUDA graphs need; what they cost does not depend on the text's length either, and on a CPU
that is a price. Empty places hold zeros and are hidden by the mask, which `Target` gives with every
pass. Beyond transformers' own static layer, tokens can be forgotten, and a text that outgrows the
buffers moves into longer ones, once in `ROOM` tokens.
"""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import StaticLayer

from .growing_cache import ROOM


class FixedLayer(StaticLayer):
    """One layer's keys and values in buffers of one size."""

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their places are overwritten by the next ones."""
        if self.is_initialized:
            self.cumulative_length.sub_(abs(tokens_to_remove))

    def enlarge(self, size: int) -> None:
        """Move into buffers for `size` tokens."""
        shorter = (self.keys, self.values) if self.is_initialized else ()
        n_held, held = self.max_cache_len, self.cumulative_length
        self.max_cache_len = size
        if not shorter:
            return
        keys, values = shorter
        assert keys is not None
        assert values is not None
        self.lazy_initialization(keys, values)
        self.cumulative_length = held
        for buffer, before in zip((self.keys, self.values), (keys, values), strict=True):
            assert isinstance(buffer, torch.Tensor)
            buffer[..., :n_held, :] = before


class FixedCache(Cache):
    """A cache whose layers all have one size.

    Args:
        n_layers: Layers that keep keys and values.

    Attributes:
        size: Tokens that the buffers hold.
    """

    def __init__(self, n_layers: int) -> None:
        self.size = ROOM
        self._fixed = [FixedLayer(self.size) for _ in range(n_layers)]
        super().__init__(layers=list(self._fixed))

    def make_room(self, tokens: int) -> None:
        """Have room for `tokens`, those that are held included."""
        if tokens <= self.size:
            return
        self.size = (tokens // ROOM + 2) * ROOM
        for layer in self._fixed:
            layer.enlarge(self.size)
