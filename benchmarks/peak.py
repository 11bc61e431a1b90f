"""Peak resident memory of a piece of work, opening the model left out.

`ru_maxrss` cannot tell: a child inherits its parent's peak through exec, and opening a model may need
more than running it. Linux' own high-water mark can be set back.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_mb(work: Callable[[], object]) -> int | None:
    """Megabytes resident at most while `work` runs, weights included; None where Linux is missing."""
    if not CLEAR.exists():
        return None
    CLEAR.write_text("5")
    work()
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
