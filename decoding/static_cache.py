"""A cache of one size: attention always gets whole buffers, whatever of them is filled.

Passes over as many rows then have the same shapes from the first token to the last, which compiled
code and CUDA graphs need; what they cost does not depend on the text's length either, and on a CPU
that is a price. Empty places hold zeros or what was forgotten and are hidden by the mask, which
`Target` gives with every pass, as it says where the pass writes. A text that outgrows the buffers
moves into longer ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import StaticLayer

from .growing_cache import ROOM


class FixedLayer(StaticLayer):
    """One layer's keys and values in buffers of one size.

    Args:
        home: The cache that it belongs to: gives it its buffers and says where a pass writes.
    """

    def __init__(self, home: FixedCache) -> None:
        super().__init__(home.size)
        self._home = home

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Take buffers for keys and values like these."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.max_cache_len = self._home.size
        self.keys, self.values = self._home.buffer(key_states), self._home.buffer(value_states)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write keys and values; returns the whole buffers, (batch, heads, size, width)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        places = self._home.places(self, key_states)
        self.keys.index_copy_(2, places, key_states)
        self.values.index_copy_(2, places, value_states)
        return self.keys, self.values


class FixedCache(Cache):
    """A cache whose layers all have one size.

    Buffers of one shape lie in one slab, so that moving tokens is one operation, not one per layer.

    Args:
        n_layers: Layers that keep keys and values.
        device: Where the model begins.
        size: Tokens that the buffers hold at first; None for `ROOM`.

    Attributes:
        size: Tokens that the buffers hold.
    """

    def __init__(self, n_layers: int, device: torch.device, size: int | None = None) -> None:
        self.size, self._held = size or ROOM, 0
        with torch.inference_mode(mode=False):  # so that passes inside and outside of it may write
            self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._places = self._place
        self._n_buffers = 2 * n_layers
        self._slabs: dict[tuple[object, ...], Slab] = {}
        self._fixed = [FixedLayer(self) for _ in range(n_layers)]
        super().__init__(layers=list(self._fixed))

    def write_at(self, place: int) -> None:
        """Have the next pass write from `place` on."""
        self._held = place
        self._place.fill_(place)

    def places(self, layer: FixedLayer, states: Tensor) -> Int64[Tensor, " tokens"]:
        """Where keys or values of the pass under way are written; the first layer finds out."""
        if layer is self._fixed[0]:
            n_tokens, device = states.shape[-2], states.device
            self._places = torch.arange(n_tokens, device=device) + self._place.to(device)
        return self._places.to(states.device)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before those of the next pass."""
        return self._held

    def crop(self, tokens_to_remove: int) -> None:
        """Nothing: what is forgotten stays behind the place that the next pass writes at."""

    def make_room(self, tokens: int) -> None:
        """Have room for `tokens` tokens, those that are held included."""
        if tokens <= self.size:
            return
        self.size = max((tokens // ROOM + 2) * ROOM, 2 * self.size)
        shorter, self._slabs = self._slabs, {}
        for layer in self._fixed:
            if layer.is_initialized:
                assert layer.keys is not None
                assert layer.values is not None
                layer.lazy_initialization(layer.keys, layer.values)
        for kind, slab in shorter.items():
            self._slabs[kind].buffers[..., : slab.buffers.shape[-2], :] = slab.buffers

    def gather(self, places: Sequence[int], start: int) -> None:
        """Move tokens from some places to `start` and those behind it."""
        for slab in self._slabs.values():
            device = slab.buffers.device
            moved = slab.buffers.index_select(-2, torch.tensor(places, device=device))
            slab.buffers[..., start : start + len(places), :] = moved

    def clear(self) -> None:
        """Forget everything; buffers stay where they are."""
        self.write_at(0)
        for slab in self._slabs.values():
            slab.buffers.zero_()

    def buffer(self, like: Tensor) -> Float[Tensor, "batch heads size width"]:
        """An empty buffer for keys or values like these."""
        batch, heads, _, width = like.shape
        kind = (batch, heads, width, like.dtype, like.device)
        if kind not in self._slabs:
            shape = (self._n_buffers, batch, heads, self.size, width)
            with torch.inference_mode(mode=False):
                self._slabs[kind] = Slab(torch.zeros(shape, dtype=like.dtype, device=like.device))
        return self._slabs[kind].take()


class Slab:
    """Buffers of one shape, handed out one after the other.

    Args:
        buffers: All of them, (buffer, batch, heads, size, width).
    """

    def __init__(self, buffers: Float[Tensor, "buffer batch heads size width"]) -> None:
        self.buffers, self._n_taken = buffers, 0

    def take(self) -> Float[Tensor, "batch heads size width"]:
        """The next one."""
        self._n_taken += 1
        return self.buffers[self._n_taken - 1]
