"""What a capture or intervention must know of the forward pass it stands in.

Where the pass starts in the text (generation with a cache runs one token at a time), and which
positions are padding. Both are read off the model's own arguments, so they hold under
`model.generate`, engines and traces alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import Cache


@dataclass(frozen=True)
class Forward:
    """One forward pass under way."""

    n_rows: int
    """Batch size."""
    n_positions: int
    """Positions computed in this pass."""
    offset: int
    """Absolute position of the first of them: how many a cache already holds."""
    real: Bool[Tensor, "batch positions"] | None
    """True where a position is no padding; None where nothing is padded."""
    start: Int[Tensor, " batch"] | None = None
    """Absolute position of each row's first token after padding on the left; None without any."""

    def last(self) -> Int[Tensor, " batch"]:
        """Index, within this pass, of each row's last position that is no padding."""
        if self.real is None:
            return torch.full((self.n_rows,), self.n_positions - 1)
        steps = torch.arange(self.n_positions, device=self.real.device)
        return torch.where(self.real, steps, -1).amax(dim=1).cpu()

    def lengths(self) -> Int[Tensor, " batch"]:
        """Length of each row's text up to the end of this pass, padding not counted."""
        return self.last() + 1 + self.offset


def watch_forwards(
    module: nn.Module, begin: Callable[[Forward], None], end: Callable[[], None]
) -> Callable[[], None]:
    """Call `begin` before and `end` after every forward pass of `module`.

    A pass that ends in an exception calls no `end`. A purely recurrent cache does not say how many
    tokens it has read: those of the passes watched here are counted.

    Returns:
        A function that stops watching.
    """
    read: WeakKeyDictionary[Cache, int] = WeakKeyDictionary()

    def before(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        begin(_forward_of(args, kwargs, read))

    def after(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        end()

    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]

    def stop() -> None:
        for handle in handles:
            handle.remove()

    return stop


def _forward_of(
    args: tuple[Any, ...], kwargs: dict[str, Any], read: WeakKeyDictionary[Cache, int]
) -> Forward:
    ids = args[0] if args else kwargs.get("input_ids")
    if ids is None:
        ids = kwargs["inputs_embeds"]
    n_rows, n_positions = ids.shape[:2]
    cache = kwargs.get("past_key_values", kwargs.get("cache_params"))
    offset = _held(cache, n_positions, read) if isinstance(cache, Cache) else 0
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or bool(mask.all()):
        return Forward(n_rows, n_positions, offset, None)
    now = mask[:, -n_positions:].bool()
    start = mask.int().argmax(dim=1).cpu()
    return Forward(
        n_rows,
        n_positions,
        offset,
        None if bool(now.all()) else now,
        start if bool(start.any()) else None,
    )


def _held(cache: Cache, n_positions: int, read: WeakKeyDictionary[Cache, int]) -> int:
    """Tokens a cache holds before this pass."""
    try:
        return int(cache.get_seq_length())
    except ValueError:  # no layer of it has attention
        held = read.get(cache, 0)
        read[cache] = held + n_positions
        return held
