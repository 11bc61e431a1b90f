"""What every benchmark prints besides its numbers, and how times are taken.

Contestants run interleaved, round after round, so that a busy machine slows all alike; the table gives
medians, the spread, and ratios within the run.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

console = Console(width=110)


def header(title: str, **conditions: object) -> None:
    """Print machine, versions and conditions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = models[0].partition(":")[2].strip() if models else cpu
    packages = ("torch", "transformers", "transformer-lens", "nnsight", "h5py", "numpy")
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    console.print(f"[bold]{title}[/bold]")
    load = f"{os.getloadavg()[0]:.1f}"
    machine = f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, load {load}"
    console.print(f"{machine}; Python {platform.python_version()}, {versions}")
    console.print("; ".join(f"{key}: {value}" for key, value in conditions.items()))


def interleaved(
    contestants: dict[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every contestant, round by round, by a clock."""
    for _ in range(warm_up):
        for run in contestants.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            started = clock()
            run()
            times[name].append(clock() - started)
    return times


def show(
    times: dict[str, list[float]],
    *,
    work: float,
    unit: str,
    against: str,
    extra: dict[str, dict[str, str]] | None = None,
) -> None:
    """Print rates, spread and the ratio of rates to one contestant (median of per-round ratios)."""
    columns = list(next(iter(extra.values()))) if extra else []
    table = Table("contestant", f"{unit}/s (median)", "spread", f"ratio to {against}", *columns)
    for name, seconds in times.items():
        rates = [work / second for second in seconds]
        ratios = [a / b for a, b in zip(times[against], seconds, strict=True)]
        spread = f"{min(rates):,.1f} - {max(rates):,.1f}"
        more = list((extra or {}).get(name, {}).values())
        ratio = f"{statistics.median(ratios):.3f}"
        table.add_row(name, f"{statistics.median(rates):,.1f}", spread, ratio, *more)
    console.print(table)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
