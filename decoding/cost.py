"""What a forward pass over several rows costs on this machine."""

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
_curves: WeakKeyDictionary[nn.Module, CostCurve] = WeakKeyDictionary()


@dataclass(frozen=True)
class CostCurve:
    """Seconds of a forward pass over some numbers of rows; in between, straight lines."""

    rows: tuple[int, ...]
    times: tuple[float, ...]

    def seconds(self, rows: int) -> float:
        """Seconds of a pass over `rows` rows."""
        return float(np.interp(rows, self.rows, self.times))


def cost_curve(model: Model) -> CostCurve:
    """The model's curve, measured once and remembered with it."""
    if model.module not in _curves:
        _curves[model.module] = _measure(model, ROWS)
    return _curves[model.module]


@torch.inference_mode()
def _measure(model: Model, sizes: Sequence[int]) -> CostCurve:
    target = Target(model, rolls_back=True)
    target.prefill(torch.zeros(32, dtype=torch.int64))
    times = []
    for size in sizes:
        best = float("inf")
        for _ in range(3):
            started = time.perf_counter()
            target.feed([0] * size, range(-1, size - 1))
            best = min(best, time.perf_counter() - started)
            target.commit([])
        times.append(best)
    return CostCurve(tuple(sizes), tuple(np.maximum.accumulate(times).tolist()))
