"""How much memory is free, asked before weights are loaded rather than found out by being killed."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from .errors import NotEnoughMemoryError

_CGROUP_LIMIT, _CGROUP_USED = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory.current"),
)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    candidates = [_available_in_linux(), _available_in_cgroup()]
    known = [size for size in candidates if size is not None]
    return min(known) if known else None


def require_bytes(needed: int, device: torch.device, what: str) -> None:
    """Make sure that `needed` bytes are free.

    Raises:
        NotEnoughMemoryError: They are not.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise NotEnoughMemoryError(
            f"{what} needs {needed / 1e9:.1f} GB on {device}, {free / 1e9:.1f} GB are free. Free "
            "memory, use a smaller dtype (dtype='bfloat16') or another device."
        )


def _available_in_linux() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        pages, size = "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"
        names = getattr(os, "sysconf_names", {})
        return os.sysconf(pages) * os.sysconf(size) if pages in names else None
    available = next((line for line in lines if line.startswith("MemAvailable:")), None)
    return int(available.split()[1]) * 1024 if available else None


def _available_in_cgroup() -> int | None:
    try:
        return int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USED.read_text())
    except (OSError, ValueError):
        return None
