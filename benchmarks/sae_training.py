"""One training step of a sparse autoencoder (forward, backward, Adam), against peers and the floor.

The floor is two dense products, the encoder's forward pass and its weight gradient: what a step costs
whose everything else is free. Peers are timed with their own modules and Adam, each in its fastest
published form without a GPU: sparsify (eai-sparsify), dictionary-learning, SAELens, and for matching
pursuit SAELens and overcomplete. Those that are not installed are left out and named.

    python benchmarks/sae_training.py                     TopK family, then matching pursuit
    python benchmarks/sae_training.py --cpu-time          CPU time of one thread, for a busy machine
    python benchmarks/sae_training.py --memory 100000     peak memory of a step at so many latents,
                                                          each architecture in a process of its own
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
import resource
import sys
import time
import types
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
from common import console, header, interleaved, show

from fluoroscope.sae import Learner, LearnOptions, ScheduleOptions, make_sae

Step = Callable[[], object]
DENSE_AND_SPARSE = ["relu", "gated", "jumprelu", "topk", "batchtopk", "matryoshka"]
"""Whose memory is measured unless others are named; mp takes minutes for each step of 4,096 rows."""


def ours(architecture: str, rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """A step as `Learner` takes it: clipping and unit atoms included."""
    options = {"d_in": rows.shape[1], "d_sae": d_sae}
    options |= {} if architecture in {"relu", "gated"} else {"k": k}
    sae = make_sae(architecture, **options)
    learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=1_000_000)))
    return lambda: learner.step(rows)


def floor(rows: torch.Tensor, d_sae: int) -> Step:
    """Two dense products."""
    weight, grad = torch.randn(d_sae, rows.shape[1]), torch.randn(len(rows), d_sae)
    return lambda: (rows @ weight.t(), grad.t() @ rows)


def stepped(parameters: list[torch.nn.Parameter], loss: Callable[[], torch.Tensor]) -> Step:
    """A peer's loss with torch's fused Adam."""
    adam = torch.optim.Adam(parameters, lr=1e-4, fused=True)

    def step() -> None:
        adam.zero_grad(set_to_none=True)
        loss().backward()
        adam.step()

    return step


def sparsify(rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """TopK of eai-sparsify, with its normalisation of the decoder."""
    from sparsify import SparseCoder, SparseCoderConfig  # pyright: ignore[reportMissingImports]

    sae = SparseCoder(rows.shape[1], SparseCoderConfig(num_latents=d_sae, k=k), device="cpu")
    inner = stepped(list(sae.parameters()), lambda: sae(rows).fvu)

    def step() -> None:
        inner()
        sae.set_decoder_norm_to_unit_norm()

    return step


def dictionary_learning(rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """TopK of dictionary-learning: its trainer's own update."""
    from dictionary_learning.trainers.top_k import (  # pyright: ignore[reportMissingImports]
        TopKTrainer,
    )

    trainer = TopKTrainer(
        steps=10**6, activation_dim=rows.shape[1], dict_size=d_sae, k=k, layer=0, lm_name="none",
        device="cpu",
    )  # fmt: skip
    numbers = iter(range(1, 10**6))
    return lambda: trainer.update(next(numbers), rows)


def saelens(rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """TopK of SAELens: its training step."""
    import sae_lens  # pyright: ignore[reportMissingImports]

    config = sae_lens.TopKTrainingSAEConfig(d_in=rows.shape[1], d_sae=d_sae, k=k)
    return _saelens_step(sae_lens.TopKTrainingSAE(config), rows)


def saelens_pursuit(rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """Matching pursuit of SAELens, k steps."""
    from sae_lens.saes import matching_pursuit_sae as mp  # pyright: ignore[reportMissingImports]

    config = mp.MatchingPursuitTrainingSAEConfig(
        d_in=rows.shape[1], d_sae=d_sae, max_iterations=k, residual_threshold=0.0,
        stop_on_duplicate_support=False, decoder_init_norm=1.0,
    )  # fmt: skip
    return _saelens_step(mp.MatchingPursuitTrainingSAE(config), rows)


def _saelens_step(sae: torch.nn.Module, rows: torch.Tensor) -> Step:
    from sae_lens.saes.sae import TrainStepInput  # pyright: ignore[reportMissingImports]

    given = TrainStepInput(
        sae_in=rows, dead_neuron_mask=None, coefficients={}, n_training_steps=1,
        is_logging_step=False,
    )  # fmt: skip
    return stepped(
        list(sae.parameters()), lambda: sae.training_forward_pass(given).loss  # pyright: ignore[reportCallIssue]
    )  # fmt: skip


def overcomplete(rows: torch.Tensor, d_sae: int, k: int) -> Step:
    """Matching pursuit of overcomplete, whose package imports vision models that are not needed."""
    found = importlib.util.find_spec("overcomplete")
    if found is None or found.submodule_search_locations is None:
        raise ImportError("overcomplete")
    package = types.ModuleType("overcomplete")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["overcomplete"] = package
    from overcomplete.sae.mp_sae import MpSAE  # pyright: ignore[reportMissingImports]

    sae = MpSAE(rows.shape[1], d_sae, k=k)

    def loss() -> torch.Tensor:
        return sae.encode(rows)[0].square().mean()

    return stepped(list(sae.parameters()), loss)


def timed(
    contestants: dict[str, Callable[[], Step]], n_rows: int, rounds: int, against: str,
    clock: Callable[[], float],
) -> None:  # fmt: skip
    """Time what can be made; name what cannot."""
    made = {}
    for name, make in contestants.items():
        try:
            made[name] = make()
        except ImportError as error:
            console.print(f"{name}: left out, not installed ({error})")
    found = interleaved(made, rounds=rounds, clock=clock)
    show(found, work=n_rows, unit="rows", against=against if against in made else next(iter(made)))


def memory(names: list[str], n_latents: int, d: int, k: int, n_rows: int) -> None:
    """Peak memory of two steps, beside what weights, gradients and Adam's moments take."""
    needed = 4 * 4 * 2 * n_latents * d
    console.print(
        f"{n_latents:,} latents, {n_rows:,} rows: weights, gradients and moments "
        f"{needed / 2**30:.2f} GiB; one dense matrix of rows and latents would be "
        f"{4 * n_rows * n_latents / 2**30:.2f} GiB"
    )
    apart = ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    )
    with apart:
        for name in names:
            peak, seconds = apart.submit(two_steps, name, n_latents, d, k, n_rows).result()
            console.print(f"{name}: peak {peak / 2**30:.2f} GiB, {seconds:.1f} s of CPU a step")


def two_steps(architecture: str, n_latents: int, d: int, k: int, n_rows: int) -> tuple[int, float]:
    """Peak memory of this process in bytes, and CPU time of the second step."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    step = ours(architecture, torch.randn(n_rows, d, generator=generator), n_latents, k)
    step()
    started = time.process_time()
    step()
    seconds = time.process_time() - started
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, seconds


def main() -> None:
    """Parse, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d", type=int, default=576)
    parser.add_argument("--latents", type=int, default=8192)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--pursuit-rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["topk", "pursuit"])
    parser.add_argument("--memory", type=int)
    parser.add_argument("--architectures", nargs="+", default=DENSE_AND_SPARSE)
    parser.add_argument("--cpu-time", action="store_true")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    d, p, k = args.d, args.latents, args.k
    header("sae_training", width=d, latents=args.memory or p, k=k, dtype="float32")
    clock = time.perf_counter
    if args.cpu_time:
        torch.set_num_threads(1)
        clock = time.process_time
    if args.memory:
        memory(args.architectures, args.memory, d, k, args.rows)
        return
    generator = torch.Generator().manual_seed(0)
    if args.only != "pursuit":
        rows = torch.randn(args.rows, d, generator=generator)
        contestants: dict[str, Callable[[], Step]] = {
            "floor: two dense products": lambda: floor(rows, p),
            "fluoroscope topk": lambda: ours("topk", rows, p, k),
            "fluoroscope batchtopk": lambda: ours("batchtopk", rows, p, k),
            "sparsify topk": lambda: sparsify(rows, p, k),
            "dictionary_learning topk": lambda: dictionary_learning(rows, p, k),
            "SAELens topk": lambda: saelens(rows, p, k),
        }
        console.print(f"TopK family, {args.rows:,} rows a step")
        timed(contestants, args.rows, args.rounds, "floor: two dense products", clock)
    if args.only != "topk":
        for n_rows in dict.fromkeys((args.pursuit_rows, args.rows)):
            part = torch.randn(n_rows, d, generator=generator)
            pursuits: dict[str, Callable[[], Step]] = {
                "fluoroscope mp": lambda part=part: ours("mp", part, p, k),
                "SAELens mp": lambda part=part: saelens_pursuit(part, p, k),
            }
            if n_rows == args.pursuit_rows:
                pursuits["overcomplete mp"] = lambda part=part: overcomplete(part, p, k)
            console.print(f"Matching pursuit, {n_rows:,} rows a step")
            timed(pursuits, n_rows, max(args.rounds // 2, 2), "SAELens mp", clock)


if __name__ == "__main__":
    main()
