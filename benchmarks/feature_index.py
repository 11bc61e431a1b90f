"""How fast the feature index answers, and how much memory building it takes.

Usage: python benchmarks/feature_index.py [rows] [latents] [active]

A run of random rows is written, a random decoder encodes it, and questions are asked of the index
and of what one would do without: encode the rows again (torch), or search a scipy CSC matrix of all
codes, held in memory. Prints medians over repeated questions and their ratio, both from one run.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.sae.features import build_index
from fluoroscope.sae.metrics import RandomDecoder

SITE = "layers.0.resid_post"
D_MODEL = 64
DOCUMENT = 256
ROUNDS = 30


def write_run(path: Path, n_rows: int) -> None:
    """A run file of random rows in documents of equal length."""
    generator = torch.Generator().manual_seed(0)
    with create_run(path, provenance=Provenance(sites=(SITE,))) as writer:
        for number in range(n_rows // DOCUMENT):
            ids = torch.randint(0, 1000, (DOCUMENT,), generator=generator).numpy()
            rows = torch.randn(DOCUMENT, D_MODEL, generator=generator)
            writer.append([str(number)], [number], [ids], {SITE: rows})
        writer.close()


def median_ms(question: Callable[[int], object], seeds: range) -> list[float]:
    """Time of one answer, in milliseconds, for each seed."""
    found = []
    for seed in seeds:
        started = time.perf_counter()
        question(seed)
        found.append((time.perf_counter() - started) * 1e3)
    return found


def main(n_rows: int = 131_072, n_latents: int = 2048, k: int = 32) -> None:
    """Build, ask, print."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.h5"
        write_run(path, n_rows)
        run = open_run(path)
        held = run.activations[SITE]
        generator = torch.Generator().manual_seed(1)
        dictionary = RandomDecoder(held.read(slice(4096)), n_latents, k, generator=generator)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        started = time.perf_counter()
        index = build_index(run, SITE, dictionary, memory_bytes=2**26)
        seconds = time.perf_counter() - started
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        size = index.path.stat().st_size / 2**20
        print(
            f"{len(held):,} rows, {n_latents} latents, {k} active: built in {seconds:.1f} s "
            f"({len(held) / seconds:,.0f} rows/s), {size:.0f} MiB, peak memory +{grown:.0f} MiB"
        )
        firing = index.on_rows(0, index.n_rows)
        codes = sparse.csc_matrix(
            sparse.csr_matrix(
                (
                    firing.values,
                    firing.latents,
                    np.searchsorted(firing.rows, np.arange(len(held) + 1)),
                ),
                shape=(len(held), n_latents),
            )
        )
        names = np.random.default_rng(0).integers(0, n_latents, ROUNDS)
        starts = np.random.default_rng(1).integers(0, len(held) - 32, ROUNDS)
        print(f"{'question':44} {'index':>10} {'other':>12} {'ratio':>8}")
        questions: list[tuple[str, Callable[[int], object], Callable[[int], object]]] = [
            (
                "features of 32 tokens, against encoding",
                lambda i: index.strongest(int(starts[i]), int(starts[i]) + 32),
                lambda i: dictionary.encode(held.read(slice(int(starts[i]), int(starts[i]) + 32))),
            ),
            (
                "20 top rows of a feature, against CSC",
                lambda i: index.top_rows(int(names[i]), 20),
                lambda i: np.sort(codes[:, int(names[i])].toarray().ravel())[::-1][:20],
            ),
            (
                "10 top contexts of a feature, against CSC",
                lambda i: index.top_contexts(run, int(names[i]), 10),
                lambda i: np.sort(codes[:, int(names[i])].toarray().ravel())[::-1][:10],
            ),
        ]
        _ = run.tokens
        for title, ours, theirs in questions:
            mine = median_ms(ours, range(ROUNDS))
            other = median_ms(theirs, range(ROUNDS))
            a, b = statistics.median(mine), statistics.median(other)
            print(f"{title:44} {a:8.2f}ms {b:10.2f}ms {b / a:7.1f}x")


if __name__ == "__main__":
    main(*(int(value) for value in sys.argv[1:]))
