"""What a forward pass over several rows costs on this machine.

Measured on chains behind a short text; a branching draft adds a mask, which costs little beside a row.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ..probes import Model
from .target import Target

ROWS = (1, 2, 4, 8, 16, 32, 64)
N_TEXT = 32
_curves: WeakKeyDictionary[nn.Module, CostCurve] = WeakKeyDictionary()


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a forward pass over some numbers of rows; straight lines between and beyond them."""

    rows: tuple[int, ...]
    times: tuple[float, ...]

    def seconds(self, rows: int) -> float:
        """Seconds of a pass over `rows` rows."""
        if rows <= self.rows[-1] or len(self.rows) == 1:
            return float(np.interp(rows, self.rows, self.times))
        slope = (self.times[-1] - self.times[-2]) / (self.rows[-1] - self.rows[-2])
        return self.times[-1] + slope * (rows - self.rows[-1])


def cost_curve(model: Model) -> CostCurve:
    """The model's curve, measured once and remembered with it."""
    if model.module not in _curves:
        _curves[model.module] = _measure(model, ROWS)
    return _curves[model.module]


@torch.inference_mode()
def _measure(model: Model, sizes: Sequence[int]) -> CostCurve:
    target = Target(model, rolls_back=True)
    limit = target.max_length or N_TEXT + max(sizes)
    n_text = max(1, min(N_TEXT, limit // 2))
    fitting = [size for size in sizes if n_text + size <= limit]
    target.prefill(torch.zeros(n_text, dtype=torch.int64))
    times = []
    for size in fitting:
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            target.feed([0] * size, range(-1, size - 1))
            _wait(model.device)
            best = min(best, time.perf_counter() - started)
            target.commit([])
        times.append(best)
    return CostCurve(tuple(fitting), tuple(np.maximum.accumulate(times).tolist()))


def _wait(device: torch.device) -> None:
    """Let the device finish what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
