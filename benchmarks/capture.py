"""Capture of all layers.*.resid_post of the embedded model to disk, against peers.

    python benchmarks/capture.py [--rounds N] [--saelens ENV]

Every contestant reads the same batches of 8 x 256 tokens in float32 and writes the same rows to HDF5
(peers with plain h5py); "bare" runs the forward pass with logits and writes nothing. Peak memory is
measured in a process of its own per contestant, opening the model left out.

SAELens pins transformer-lens < 4 and so needs an environment of its own, which --saelens names; where
there is none yet, the command that makes it is printed. Its caching runner stores one site, not thirty.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import torch
from peak import peak_mb

from fluoroscope.probes import capture_corpus, from_texts, open_corpus, open_model
from fluoroscope.probes.batching import windows
from fluoroscope.probes.model import Model

ROWS, CONTEXT, BATCHES = 8, 256, 2
SAELENS = "SAELens CacheActivationsRunner, 1 site of 30"
REQUIREMENTS = ("sae-lens==6.54.12", "torch==2.13.0")
N_TOKENS = ROWS * CONTEXT * BATCHES


def batches(model: Model) -> list[torch.Tensor]:
    """The same ids for everybody: full windows of the standard library."""
    found = windows(model, open_corpus(), context=CONTEXT, n_tokens=4 * N_TOKENS)
    full = [w.ids for w in found if len(w.ids) == CONTEXT][: ROWS * BATCHES]
    stacked = torch.from_numpy(np.stack(full))
    return list(stacked.split(ROWS))


def store(file: h5py.File, batch: int, layer: int, rows: torch.Tensor) -> None:
    """One layer's rows of one batch, as a user would write them."""
    name, width = f"layer{layer}", rows.shape[-1]
    flat = rows.reshape(-1, width).numpy()
    if name not in file:
        file.create_dataset(name, (N_TOKENS, width), "f4")
    start = batch * ROWS * CONTEXT
    file[name][start : start + len(flat)] = flat


def bare(folder: Path) -> Callable[[], object]:
    """The forward pass with logits, nothing kept."""
    model = open_model()
    data = batches(model)

    @torch.no_grad()
    def run() -> None:
        for ids in data:
            model.module(ids, use_cache=False)

    return run


def fluoroscope(folder: Path) -> Callable[[], object]:
    """Ours."""
    model = open_model()
    texts = [model.decode(row) for ids in batches(model) for row in ids]
    # The very same ids: decoding and encoding is exact for a byte-level tokenizer up to merges, so
    # windows are cut to the context again and the token count is fixed.
    corpus = from_texts(texts)

    def run() -> None:
        capture_corpus(
            model, corpus, "layers.*.resid_post", folder / "ours.h5", n_tokens=N_TOKENS,
            context=CONTEXT, batch_tokens=ROWS * CONTEXT, overwrite=True,
        )  # fmt: skip

    return run


def hidden_states(folder: Path) -> Callable[[], object]:
    """Transformers' own hidden states."""
    model = open_model()
    data = batches(model)

    @torch.no_grad()
    def run() -> None:
        with h5py.File(folder / "hf.h5", "w") as file:
            for number, ids in enumerate(data):
                output = model.module(ids, use_cache=False, output_hidden_states=True)
                for layer, rows in enumerate(output.hidden_states[1:]):
                    store(file, number, layer, rows)

    return run


def transformer_lens(folder: Path) -> Callable[[], object]:
    """TransformerLens' cache, filtered to what is stored."""
    model = open_model(backend="transformer_lens")
    data = batches(model)
    names = [f"blocks.{layer}.hook_out" for layer in range(model.n_layers)]

    @torch.no_grad()
    def run() -> None:
        with h5py.File(folder / "tl.h5", "w") as file:
            for number, ids in enumerate(data):
                _, cache = model.native.run_with_cache(ids, names_filter=lambda n: n in names)
                for layer, name in enumerate(names):
                    store(file, number, layer, cache[name])

    return run


def nnsight(folder: Path) -> Callable[[], object]:
    """Nnsight's trace."""
    from nnsight import save

    model = open_model(backend="nnsight")
    data = batches(model)
    native = model.native

    @torch.no_grad()
    def run() -> None:
        with h5py.File(folder / "nn.h5", "w") as file:
            for number, ids in enumerate(data):
                with native.trace(ids):
                    saved = save([])
                    for layer in native.model.layers:
                        saved.append(layer.output)
                for layer, rows in enumerate(saved):
                    store(file, number, layer, rows[0] if isinstance(rows, tuple) else rows)

    return run


CONTESTANTS = {
    "bare forward with logits": bare,
    "fluoroscope": fluoroscope,
    "output_hidden_states + h5py": hidden_states,
    "nnsight trace + h5py": nnsight,
    "TransformerLens run_with_cache + h5py": transformer_lens,
}


class SaeLens:
    """SAELens' runner in its own environment: a process that answers commands with numbers."""

    def __init__(self, environment: Path, folder: Path) -> None:
        model = open_model()
        ids = folder / "ids.npy"
        np.save(ids, torch.cat(batches(model)).numpy())
        model.module.save_pretrained(folder / "model")
        model.tokenizer.save_pretrained(folder / "model")
        worker = Path(__file__).with_name("saelens_worker.py")
        command = [python_of(environment), worker, folder / "model", ids, ROWS, folder]
        self._process = subprocess.Popen(
            [str(part) for part in command], text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        )  # fmt: skip

    def ask(self, what: str) -> str:
        """Run once; seconds or peak megabytes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit("SAELens' process ended; run benchmarks/saelens_worker.py by hand.")
        return answer


def python_of(environment: Path) -> Path:
    """The interpreter of an environment; says how to make one where there is none."""
    python = environment / "bin" / "python"
    if not python.exists():
        wanted = " ".join(f"'{name}'" for name in REQUIREMENTS)
        raise SystemExit(
            f"There is no environment at {environment}. This makes it:\n"
            f"  {sys.executable} -m venv {environment} && {python} -m pip install {wanted}"
        )
    return python


def main() -> None:
    """Run all contestants and print the table."""
    from common import console, header, interleaved, show

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--saelens", type=Path, metavar="ENV", help="environment that has SAELens")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.peak_of:
            run = CONTESTANTS[chosen.peak_of](folder)
            sys.stdout.write(str(peak_mb(run) or "-"))
            return
        header(
            "Capture of layers.*.resid_post to disk",
            batch=f"{ROWS} x {CONTEXT}", dtype="float32", tokens=N_TOKENS, rounds=chosen.rounds,
        )  # fmt: skip
        peaks = {title: {"peak MB": peak_of(title)} for title in CONTESTANTS}
        runs = {title: make(folder) for title, make in CONTESTANTS.items()}
        if chosen.saelens is not None:
            peer = SaeLens(chosen.saelens, folder)
            peaks[SAELENS] = {"peak MB": peer.ask("peak")}
            runs[SAELENS] = lambda: peer.ask("time")
        times = interleaved(runs, rounds=chosen.rounds)
        show(times, work=N_TOKENS, unit="tokens", against="bare forward with logits", extra=peaks)
        if chosen.saelens is None:
            console.print("Not measured: SAELens' caching runner; --saelens ENV adds it.")


def peak_of(title: str) -> str:
    """Peak resident memory of a contestant alone, MB."""
    command = [sys.executable, __file__, "--peak-of", title]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
