"""What the information section costs on the embedded model: seconds by stage and peak memory.

Run: python benchmarks/information.py [run.h5] [tokens]

Where there is no such run file, it is captured first (every fourth layer and the last, float32 rows,
at most two windows of a document); that time is given apart. Seconds of the processor stand beside
those of the clock: on a machine that others use, the clock says little.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from common import console, header
from rich.table import Table

from fluoroscope.probes import Run, capture_corpus, open_corpus, open_model, open_run
from fluoroscope.probes.information.reading import information_readings

LAYERS = (0, 4, 8, 12, 16, 20, 24, 28, 29)


def opened(path: Path, n_tokens: int) -> Run:
    """The run file, captured if it is not there."""
    if path.exists():
        return open_run(path)
    started = time.perf_counter()
    sites = [f"layers.{layer}.resid_post" for layer in LAYERS]
    run = capture_corpus(
        open_model(), open_corpus(), sites, path, n_tokens=n_tokens, per_document=2
    )
    console.print(f"capture: {time.perf_counter() - started:.0f} s")
    return run


def main() -> None:
    """Time every result, keep it in the run file."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "information.h5")
    n_tokens = int(sys.argv[2]) if len(sys.argv) > 2 else 200_000
    run, model = opened(path, n_tokens), open_model()
    header("The information section", model=model.name, run=repr(run), tokens=n_tokens)
    table = Table("result", "clock (s)", "processor (s)", "peak memory so far (GB)")
    begun = last = (time.perf_counter(), time.process_time())
    for name, found in information_readings(model, run, n_tokens=n_tokens, again=True):
        now = (time.perf_counter(), time.process_time())
        table.add_row(name, f"{now[0] - last[0]:.1f}", f"{now[1] - last[1]:.1f}", f"{_peak():.2f}")
        console.print(f"{name}: {now[0] - last[0]:.1f} s, {now[1] - last[1]:.1f} s of processor")
        run.add_result(name, found)
        last = (time.perf_counter(), time.process_time())
    table.add_row("all", f"{last[0] - begun[0]:.1f}", f"{last[1] - begun[1]:.1f}", f"{_peak():.2f}")
    console.print(table)


def _peak() -> float:
    """Largest resident set of the process, in GB, the run file's mapped pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    main()
