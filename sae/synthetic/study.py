"""The benchmark as one call: architectures, seeds, correlations; recovery of known features.

Every finished cell is kept by `on_cell`, and cells given as `done` are not run again, so that a
study that was stopped goes on where it was.

References:
    arXiv 2506.03093: figures on synthetic data, Table 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch

from ...probes.errors import OptionError
from ...probes.results import Result, described
from ..base import SparseAutoencoder
from ..metrics import absorbed_cosine, detection, gram_errors, match
from ..metrics.reconstruction import fvu
from .recipes import recipes, train
from .tree import LEVEL, PARENT, Tree, TreeOptions, table_1

Progress = Callable[[int, int, str], None]

RHOS = (0.0, 0.3, 0.6)
CHILD_MEANS = (0.1, 0.5, 1.0)
N_TEST = 20_000
MEASURES = (
    "matched_cosine", "flat_mse", "hierarchical_mse", "absorption", "children_found", "l0", "fvu", "f1",
)  # fmt: skip
"""What a cell says of a training; all NaN where it diverged."""
FOUND = 0.5
"""A child whose matched latent has at least this cosine with it counts as found (ours)."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training and what came of it."""

    architecture: str
    rho: float
    parent_mean: float
    child_mean: float
    seed: int
    n_steps: int
    matched_cosine: float
    flat_mse: float
    hierarchical_mse: float
    absorption: float
    children_found: float
    l0: float
    fvu: float
    f1: float
    seconds: float

    @property
    def key(self) -> tuple[str, float, float, float, int, int]:
        """What a cell is, whatever came of it."""
        return (
            self.architecture, self.rho, self.parent_mean, self.child_mean, self.seed, self.n_steps,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class SyntheticStudy(Result):
    """Recovery of known features, one entry per training."""

    kind: ClassVar[str] = "sae_synthetic"
    protocol: str = described("'tree' varies the correlation, 'absorption' the size of children")
    architecture: np.ndarray = described("architecture", axes=("cells",))
    rho: np.ndarray = described("cosine of atoms of one level", axes=("cells",))
    parent_mean: np.ndarray = described("mean value of an active parent", axes=("cells",))
    child_mean: np.ndarray = described("mean value of an active child", axes=("cells",))
    seed: np.ndarray = described("seed of data and weights", axes=("cells",))
    n_steps: np.ndarray = described("steps of training", axes=("cells",))
    matched_cosine: np.ndarray = described("mean cosine of true and matched atom", axes=("cells",))
    flat_mse: np.ndarray = described(
        "squared error of cosines between atoms of one level, mean over pairs", axes=("cells",)
    )
    hierarchical_mse: np.ndarray = described("the same across levels", axes=("cells",))
    absorption: np.ndarray = described(
        "mean cosine of a learned child with its true parent; 0 is none", axes=("cells",)
    )
    children_found: np.ndarray = described(
        "share of children whose matched latent has a cosine of at least 0.5", axes=("cells",)
    )
    l0: np.ndarray = described("mean active latents; the truth is 1.36", axes=("cells",))
    fvu: np.ndarray = described("fraction of variance unexplained", axes=("cells",))
    f1: np.ndarray = described("F1 of matched latents as detectors, mean", axes=("cells",))
    seconds: np.ndarray = described("time of training", axes=("cells",), unit="s")

    @property
    def cells(self) -> list[Cell]:
        """The cells again."""
        names = [field.name for field in fields(Cell)]
        columns = [getattr(self, name).tolist() for name in names]
        return [Cell(**dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]


def as_result(cells: Sequence[Cell], protocol: str) -> SyntheticStudy:
    """Cells as a result for a run file."""
    columns = {
        field.name: np.array([getattr(cell, field.name) for cell in cells])
        for field in fields(Cell)
    }
    columns["architecture"] = columns["architecture"].astype(str)
    return SyntheticStudy(protocol=protocol, **columns)


def tree_study(
    *,
    architectures: Sequence[str] | None = None,
    rhos: Sequence[float] = RHOS,
    seeds: Sequence[int] = (0, 1, 2),
    n_steps: int = 5000,
    done: Sequence[Cell] = (),
    on_cell: Callable[[list[Cell]], None] | None = None,
    progress: Progress | None = None,
) -> SyntheticStudy:
    """Compare architectures on the tree benchmark over correlations and seeds.

    Args:
        architectures: Names of recipes; None takes all.
        rhos: Cosines of atoms of one level.
        seeds: One training each.
        n_steps: Steps of a training (the paper: 15,000).
        done: Cells of an earlier, stopped study.
        on_cell: Called with all cells after each.
        progress: Called with steps done, steps in all, and what is being trained.

    Raises:
        OptionError: An unknown architecture.
    """
    options = [TreeOptions(rho=rho) for rho in rhos]
    cells = _run(architectures, options, seeds, n_steps, done, on_cell, progress)
    return as_result(cells, "tree")


def absorption_study(
    *,
    architectures: Sequence[str] | None = None,
    child_means: Sequence[float] = CHILD_MEANS,
    seeds: Sequence[int] = (0, 1, 2),
    n_steps: int = 5000,
    done: Sequence[Cell] = (),
    on_cell: Callable[[list[Cell]], None] | None = None,
    progress: Progress | None = None,
) -> SyntheticStudy:
    """The paper's Table 1: absorption where children are weak; arguments as in `tree_study`."""
    options = [table_1(mean) for mean in child_means]
    cells = _run(architectures, options, seeds, n_steps, done, on_cell, progress)
    return as_result(cells, "absorption")


def score(sae: SparseAutoencoder, tree: Tree, generator: torch.Generator) -> dict[str, float]:
    """What a trained autoencoder recovered of a tree.

    Where codes are signed (omp) an atom and its opposite are the same feature: atoms are matched
    without sign and turned towards the truth.
    """
    if not all(bool(value.isfinite().all()) for value in sae.state_dict().values()):
        return dict.fromkeys(MEASURES, float("nan"))  # the training diverged
    x, truth = tree.sample(N_TEST, generator)
    with torch.no_grad():
        codes = sae.encode(x)
        x_hat = sae.decode(codes)
    atoms = sae.W_dec.detach()
    signed_codes = bool((codes < 0).any())
    matched = match(tree.atoms, atoms, signed=not signed_codes)
    learned = atoms[torch.from_numpy(matched.columns)]
    if signed_codes:
        learned = learned * (learned * tree.atoms).sum(1, keepdim=True).sign()
    flat, hierarchical = gram_errors(learned, tree.atoms, LEVEL)
    return {
        "matched_cosine": matched.mean_cosine,
        "flat_mse": flat,
        "hierarchical_mse": hierarchical,
        "absorption": absorbed_cosine(learned, tree.atoms, PARENT),
        "children_found": float((matched.cosines[PARENT >= 0] >= FOUND).mean()),
        "l0": float((codes != 0).sum(1).double().mean()),
        "fvu": fvu(x, x_hat),
        "f1": detection(codes, truth, matched).f1,
    }


def _run(
    architectures: Sequence[str] | None,
    trees: Sequence[TreeOptions],
    seeds: Sequence[int],
    n_steps: int,
    done: Sequence[Cell],
    on_cell: Callable[[list[Cell]], None] | None,
    progress: Progress | None,
) -> list[Cell]:
    known = recipes()
    names = list(known) if architectures is None else list(architectures)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise OptionError(f"Unknown architecture {unknown[0]!r}; known: {', '.join(known)}.")
    if n_steps < 100 or not seeds:
        raise OptionError(f"A study needs seeds and at least 100 steps, got {seeds}, {n_steps}.")
    wanted = [(name, tree, seed) for tree in trees for name in names for seed in seeds]
    cells = list(done)
    there = {cell.key for cell in cells}
    total = len(wanted) * n_steps
    for number, (name, options, seed) in enumerate(wanted):
        key = (name, options.rho, options.parent_mean, options.child_mean, seed, n_steps)
        if key in there:
            continue

        def tell(step: int, number: int = number, name: str = name, seed: int = seed) -> None:
            if progress is not None and step % 50 == 0:
                progress(number * n_steps + step, total, f"{name}, seed {seed}")

        cells.append(_cell(name, options, seed, n_steps, tell))
        if on_cell is not None:
            on_cell(cells)
    return cells


def _cell(
    name: str, options: TreeOptions, seed: int, n_steps: int, tell: Callable[[int], None]
) -> Cell:
    """One training; atoms, samples and test rows come from the seed, whatever the architecture."""
    tree = Tree(options, generator=torch.Generator().manual_seed(1000 + seed))
    samples = torch.Generator().manual_seed(2000 + seed)
    started = time.perf_counter()
    sae = train(
        recipes()[name],
        lambda n: tree.sample(n, samples)[0],
        n_steps=n_steps,
        seed=seed,
        on_step=tell,
    )
    seconds = time.perf_counter() - started
    found = score(sae, tree, torch.Generator().manual_seed(3000 + seed))
    return Cell(
        architecture=name,
        rho=options.rho,
        parent_mean=options.parent_mean,
        child_mean=options.child_mean,
        seed=seed,
        n_steps=n_steps,
        seconds=seconds,
        **found,
    )
