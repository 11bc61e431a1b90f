"""Recorded passes without a GPU: a stand-in that replays by calling again.

It shares with the real one what can go wrong in our own hands: a replay reads the tensors that were
recorded, of the size that was recorded, and writes the same result.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fluoroscope.decoding import graphs


def stand_in(patch: pytest.MonkeyPatch) -> list[int]:
    """Have passes on a CPU recorded, in a manner of speaking; returns the rows of each replay."""
    replayed: list[int] = []

    def record(
        call: Callable[[], Tensor], device: torch.device
    ) -> tuple[Tensor, Callable[[], None]]:
        for _ in range(graphs.N_TRIED):
            call()
        result = call().clone()

        def replay() -> None:
            replayed.append(len(result))
            result.copy_(call())

        return result, replay

    patch.setattr(graphs, "is_recordable", lambda device: True)
    patch.setattr(graphs, "record", record)
    return replayed
