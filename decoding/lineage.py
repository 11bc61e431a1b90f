"""Who may look at whom while several continuations of one text are in the cache.

Tokens that were fed but not yet committed form a forest behind the text. A token sees the whole
text, its ancestors and itself; its position is the text's length plus its depth, wherever it lies in
the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Lineage:
    """The forest of pending tokens, in the order they were fed."""

    def __init__(self) -> None:
        self.depths: list[int] = []
        self._ancestors = np.zeros((0, 0), dtype=np.bool_)
        self._is_chain = True

    @classmethod
    def chain(cls, n: int) -> Lineage:
        """Of `n` tokens, each following the one before."""
        made = cls()
        made.depths, made._ancestors = list(range(n)), np.tri(n, dtype=np.bool_)
        return made

    def __len__(self) -> int:
        return len(self.depths)

    @property
    def is_chain(self) -> bool:
        """Whether every pending token follows the one fed before it."""
        return self._is_chain

    def grow(self, parents: Sequence[int]) -> None:
        """Add tokens; a parent is a pending token's number, or -1 for the end of the text."""
        first, total = len(self), len(self) + len(parents)
        grown = np.zeros((total, total), dtype=np.bool_)
        grown[:first, :first] = self._ancestors
        for node, parent in enumerate(parents, start=first):
            if parent >= 0:
                grown[node, : parent + 1] = grown[parent, : parent + 1]
            grown[node, node] = True
            self._is_chain &= parent == node - 1
            self.depths.append(0 if parent < 0 else self.depths[parent] + 1)
        self._ancestors = grown

    def sees(self, first: int) -> Bool[np.ndarray, "new pending"]:
        """Which pending tokens those from `first` on may look at."""
        return self._ancestors[first:]


def attention_mask(
    lineage: Lineage,
    first: int,
    n_text: int,
    *,
    window: int | None,
    n_cached: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Float[Tensor, "1 1 new cached"]:
    """What is added to the attention scores of the pending tokens from `first` on.

    Zero where a token may look, the least number of `dtype` where it may not: the form that eager
    attention and scaled-dot-product attention both take.

    Args:
        lineage: The pending tokens, the new ones included.
        first: Number of the first new one.
        n_text: Committed tokens before them.
        window: How far back a token may look, itself included; None for everything.
        n_cached: Places that attention sees, at least those of text and pending tokens; nobody looks
            at those behind.
        dtype: Of the scores.
        device: Of the scores.
    """
    end = n_text + len(lineage)
    may_look = np.zeros((len(lineage) - first, n_cached), dtype=np.bool_)
    may_look[:, :n_text] = True
    may_look[:, n_text:end] = lineage.sees(first)
    if window is not None:
        positions = np.concatenate([np.arange(n_text), n_text + np.array(lineage.depths)])
        may_look[:, :end] &= positions[None] > positions[n_text + first :, None] - window
    mask = torch.zeros(may_look.shape, dtype=dtype)
    mask.masked_fill_(torch.from_numpy(~may_look), torch.finfo(dtype).min)
    return mask[None, None].to(device)
