"""Which process of several this is, as `torchrun` and `accelerate launch` tell it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import IncompleteError


@dataclass(frozen=True)
class Rank:
    """This process among its peers."""

    number: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that links what all wrote."""
        return self.number == 0


def this_rank() -> Rank:
    """The rank from the environment; the only one where nothing launched several."""
    return Rank(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def local_device(device: str | None) -> str | None:
    """The GPU of this process where several share a machine and none was named."""
    local = os.environ.get("LOCAL_RANK")
    if device is None and local is not None:
        import torch

        return f"cuda:{local}" if torch.cuda.is_available() else None
    return device


def wait_until(done: Callable[[], bool], *, what: str, timeout_s: float = 6 * 3600.0) -> None:
    """Wait for other ranks by looking at what they leave on disk.

    Files rather than collective calls: a rank that was restarted finds its place, and the wait holds
    no connection.

    Raises:
        IncompleteError: They did not finish in time.
    """
    deadline = time.monotonic() + timeout_s
    while not done():
        if time.monotonic() > deadline:
            raise IncompleteError(
                f"{what} did not finish within {timeout_s:,.0f} s. Start all ranks again with the "
                "same command; each goes on where it stopped."
            )
        time.sleep(0.2)
