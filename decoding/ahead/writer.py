"""The draft model's side of writing ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..drafters.draft_model import DraftModel
from ..errors import DraftError


class Writer:
    """A draft model writing windows; runs wherever its `Ahead` put it.

    Args:
        draft: The draft model.
        rows: Two slots that take the distributions in turn, (2, longest, d_vocab); None if greedy.
    """

    def __init__(self, draft: DraftModel, rows: Tensor | None) -> None:
        self.draft, self._rows = draft, rows

    @torch.inference_mode()
    def begin(self, prompt: Sequence[int], seed: int) -> None:
        """Read a new text."""
        self.draft.reseed(seed)
        self.draft.begin()
        self.draft.after(prompt)

    @torch.inference_mode()
    def write(self, text: Sequence[int], length: int, slot: int) -> tuple[list[int], list[float]]:
        """The next tokens after `text`, and the draft's probability of each."""
        tokens: list[int] = []
        trust: list[float] = []
        length = min(length, self.draft.room(text))
        row = self.draft.after(text) if length > 0 else None
        while row is not None:
            token = self.draft.draw(row)
            if self._rows is not None:
                self._rows[slot, len(tokens)] = row
            tokens.append(token)
            trust.append(float(row[token]))
            more = len(tokens) < length
            row = self.draft.grow([token], [len(tokens) - 2])[0] if more else None
        if not all(math.isfinite(share) for share in trust):
            raise DraftError(f"{self.draft.model.name} gives probabilities that are no numbers.")
        return tokens, trust


def slots(draft: DraftModel, longest: int) -> Tensor | None:
    """Where a draft's distributions go, two windows in turn; None if it takes the likeliest."""
    if draft.greedy:
        return None
    model = draft.model
    return torch.zeros(2, longest, model.d_vocab, device=model.device)
