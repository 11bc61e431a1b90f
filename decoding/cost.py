"""What a forward pass over several rows costs on this machine.

Measured on chains behind a short text; a branching draft adds a mask, which costs little beside a row.
Curves of models opened from files are kept in the cache folder, one file per machine, weights, data
type, layout, cache, threads and library version, and measured anew when a file is older than `MAX_AGE`
or was found wrong (`forget_curve`). Curves of models made in memory are kept as long as the model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import nn

from ..probes import Model
from ..probes.modelcache import cache_folder
from .errors import RollBackError
from .layout import Layout, laid_out, layouts_for
from .target import CacheKind, Target

ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 64)
N_TEXT = 128
MAX_AGE = 30 * 24 * 3600.0
"""Seconds that a kept curve is trusted."""
N_TIMED = 3
"""Passes timed of each size; the fastest counts."""
LONG_S = 2.0
"""A measurement that will take longer than this, in seconds, is told of beforehand."""
logger = logging.getLogger(__name__)

Key = tuple[str, ...]
"""Layout, cache, data type, device and threads: what a curve of one module may depend on."""
_curves: WeakKeyDictionary[nn.Module, dict[Key, CostCurve]] = WeakKeyDictionary()
_choices: WeakKeyDictionary[nn.Module, dict[Key, Layout]] = WeakKeyDictionary()


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


def cost_curve(model: Model, layout: Layout = "plain", cache: CacheKind = "growing") -> CostCurve:
    """The model's curve in a layout and over a cache: remembered, read from its file, or measured.

    What takes longer than `LONG_S` is told of in the log (level INFO), which commands show.

    Raises:
        RollBackError: The model's state cannot be cut back, so it cannot be measured so.
    """
    known, key = _curves.setdefault(model.module, {}), _key(model, layout, cache)
    if key not in known:
        place = _file(model, layout, cache)
        kept = _read(place)
        known[key] = kept or _measure(model, layout, cache)
        if kept is None:
            _write(place, known[key])
    return known[key]


def forget_curve(model: Model, layout: Layout, cache: CacheKind = "growing") -> None:
    """The curve was found wrong; the next `cost_curve` measures."""
    _curves.get(model.module, {}).pop(_key(model, layout, cache), None)
    place = _file(model, layout, cache)
    if place is not None:
        place.unlink(missing_ok=True)


def choose_layout(model: Model) -> Layout:
    """The layout that makes passes over one to sixteen rows cheapest here, by measurement.

    Chosen once per model; one that cannot be measured so keeps its own.
    """
    known, key = _choices.setdefault(model.module, {}), _key(model, "auto", "growing")
    if key not in known:
        choices = layouts_for(model.module)
        try:
            costs: dict[Layout, float] = {
                layout: _typical(cost_curve(model, layout)) for layout in choices[1:] and choices
            }
        except RollBackError:
            costs = {}
        known[key] = min(costs, key=costs.__getitem__) if costs else "plain"
    return known[key]


def _key(model: Model, layout: str, cache: CacheKind) -> Key:
    return (layout, cache, str(model.dtype), str(model.device), str(torch.get_num_threads()))


def _typical(curve: CostCurve) -> float:
    return curve.seconds(1) + curve.seconds(4) + curve.seconds(16)


@torch.inference_mode()
def _measure(model: Model, layout: Layout, cache: CacheKind) -> CostCurve:
    with laid_out(model.module, layout):
        target = Target(model, rolls_back=True, cache=cache)
        limit = target.max_length or N_TEXT + ROWS[-1]
        n_text = max(1, min(N_TEXT, limit // 2))
        fitting = [size for size in ROWS if n_text + size <= limit]
        target.prefill(torch.zeros(n_text, dtype=torch.int64))
        times = []
        for size in fitting:
            best = float("inf")
            for turn in range(N_TIMED):
                started = time.perf_counter()
                target.feed([0] * size, range(-1, size - 1))
                target.wait()
                best = min(best, time.perf_counter() - started)
                target.commit([])
                if not times and not turn:
                    _tell(model, layout, best * N_TIMED * len(fitting))
            times.append(best)
    return CostCurve(tuple(fitting), tuple(np.maximum.accumulate(times).tolist()))


def _tell(model: Model, layout: Layout, least_s: float) -> None:
    """Say what takes a while, before it does."""
    if least_s > LONG_S:
        kept = f"kept for {MAX_AGE / 86400:.0f} days" if model.is_from_files else "not kept"
        logger.info(
            "Measuring what a pass of %s costs here, %s weights (%s).", model.name, layout, kept
        )


def _file(model: Model, layout: Layout, cache: CacheKind) -> Path | None:
    """Where the curve is kept; None for a model that was made in memory."""
    if not model.is_from_files:
        return None
    key = {
        "machine": _machine(model.device),
        "weights": model.weights_digest,
        "dtype": str(model.dtype),
        "attention": str(model.config._attn_implementation),
        "layout": layout,
        "cache": cache,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "rows": ROWS,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_folder() / "costs" / f"{digest[:32]}.json"


def _machine(device: torch.device) -> str:
    """Processor and number of cores, or the graphics card."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return f"{platform.machine()} {platform.processor()} {sorted(names)} x {os.cpu_count()}"


def _read(place: Path | None) -> CostCurve | None:
    """A kept curve, unless there is none, it is too old, or the file is damaged."""
    try:
        if place is None or time.time() - place.stat().st_mtime > MAX_AGE:
            return None
        held = json.loads(place.read_text(encoding="utf-8"))
        rows, times = tuple(map(int, held["rows"])), tuple(map(float, held["times"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    sound = len(rows) == len(times) > 0 and min(times) > 0 and sorted(rows) == list(rows)
    return CostCurve(rows, times) if sound else None


def _write(place: Path | None, curve: CostCurve) -> None:
    """Keep a curve, whole or not at all; a cache folder that cannot be written costs time only."""
    if place is None:
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=place.parent, suffix=".part", delete=False
        ) as file:
            json.dump({"rows": curve.rows, "times": curve.times}, file)
        Path(file.name).replace(place)
    except OSError:
        return
