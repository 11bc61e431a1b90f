"""Shuffled row batches from a run file against a numpy memmap of the same rows.

    python benchmarks/read_batches.py [--rounds N]

Both are read warm, 4,096 rows a batch, every row once per epoch. The memmap contestant draws a
permutation of all rows and indexes the map, which is what one would write by hand.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import header, interleaved, show

from fluoroscope.probes import Provenance, create_run, open_run

N_ROWS, WIDTH, SIZE = 200_000, 576, 4096


def main() -> None:
    """Run all contestants and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = torch.randn(N_ROWS, WIDTH)
        np.save(folder / "rows.npy", rows.numpy())
        with create_run(folder / "run.h5", provenance=Provenance()) as writer:
            for start in range(0, N_ROWS, 2000):
                part = rows[start : start + 2000]
                writer.append([f"d{start}"], [start], [np.arange(len(part))], {"x": part})
            writer.close()
        run = open_run(folder / "run.h5")
        mapped = np.load(folder / "rows.npy", mmap_mode="r")

        def by_memmap() -> None:
            order = np.random.default_rng(0).permutation(N_ROWS)
            for start in range(0, N_ROWS, SIZE):
                torch.from_numpy(mapped[order[start : start + SIZE]])

        def by_run(memory: int) -> None:
            for _ in run.batches("x", SIZE, shuffle=True, memory_bytes=memory):
                pass

        header(
            "Shuffled row batches",
            rows=N_ROWS, width=WIDTH, dtype="float32", batch=SIZE, shards=len(run.shards),
            rounds=rounds,
        )  # fmt: skip
        times = interleaved(
            {
                "numpy memmap, permuted": by_memmap,
                "run file, whole-file window": lambda: by_run(2**31),
                "run file, 64 MB window": lambda: by_run(2**26),
            },
            rounds=rounds,
        )
        show(times, work=N_ROWS, unit="rows", against="numpy memmap, permuted")


if __name__ == "__main__":
    main()
