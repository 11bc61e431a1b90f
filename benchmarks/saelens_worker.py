"""SAELens' caching runner as a peer of capture.py, in an environment of its own.

Run by `capture.py --saelens ENV` with that Python, never by hand: reads "time" or "peak" line by line
and answers each with one number. The runner stores a single hook point (the last block's output, so
that the whole stack runs); for thirty sites it would have to read the corpus thirty times.

    saelens_worker.py MODEL_FOLDER IDS.npy ROWS FOLDER
"""

# Peers live in environments of their own, where the type checker does not look.
# pyright: reportMissingImports=false

from __future__ import annotations

import itertools
import logging
import sys
import time
from pathlib import Path

import datasets
import numpy as np
import torch
from peak import peak_mb
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig
from sae_lens.cache_activations_runner import _mk_activations_store


def main() -> None:
    """Answer commands until the input ends."""
    # Bars and log lines of the libraries must not mix with the answers.
    answers, sys.stdout = sys.stdout, sys.stderr
    logging.disable(logging.WARNING)
    datasets.disable_progress_bars()
    model, ids, rows, folder = (
        sys.argv[1],
        np.load(sys.argv[2]),
        int(sys.argv[3]),
        Path(sys.argv[4]),
    )
    config = CacheActivationsRunnerConfig(
        dataset_path="ids", model_name=model, model_class_name="AutoModelForCausalLM",
        model_from_pretrained_kwargs={"dtype": torch.float32}, device="cpu", dtype="float32",
        hook_name="model.layers.29", d_in=576, model_batch_size=rows, prepend_bos=False,
        context_size=ids.shape[1], training_tokens=ids.size, shuffle=False, streaming=False,
        buffer_size_gb=ids.size * 576 * 4 / 1e9, new_cached_activations_path=str(folder / "unused"),
    )  # fmt: skip
    data = datasets.Dataset.from_dict({"tokens": ids.tolist()})
    runner = CacheActivationsRunner(config, override_dataset=data)
    numbers = itertools.count()

    def run() -> None:
        runner.activations_store = _mk_activations_store(runner.model, config, data)
        config.new_cached_activations_path = str(folder / f"saelens{next(numbers)}")
        runner.run()

    for line in sys.stdin:
        started = time.perf_counter()
        peak = peak_mb(run) if line.strip() == "peak" else run()
        answers.write(f"{peak if peak is not None else time.perf_counter() - started}\n")
        answers.flush()


if __name__ == "__main__":
    main()
