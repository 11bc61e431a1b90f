"""Pursuit paths: which atom a token's row gave up first, and how much was left after each.

A matching-pursuit autoencoder picks atoms one after the other, each on what the ones before have
left. The order is the interpretation: early atoms are coarse, late ones explain residuals; the
number of steps to nine tenths of the energy is a description length of the position (arXiv
2506.03093).

Any other autoencoder can be read the same way by pursuing with its decoder (inference-time
optimisation), but then the path is not what it computed; only pursuit autoencoders are read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError
from ...probes.results import Result, described
from ...probes.runfile import Run
from ..matching_pursuit import PursuitPath
from ..mp import MpSae
from .build import kept_rows

SHARE = 0.9
N_ATOMS = 40


@dataclass(frozen=True, kw_only=True)
class PursuitPaths(Result):
    """Paths of the tokens of one text, and means over many rows."""

    kind: ClassVar[str] = "sae_paths"
    site: str = described("site whose rows are pursued")
    label: str = described("which dictionary")
    text_ids: np.ndarray = described("tokens of the text shown", axes=("tokens",))
    atoms: np.ndarray = described("atom taken at each step; -1 none", axes=("tokens", "steps"))
    values: np.ndarray = described("what was taken of it", axes=("tokens", "steps"))
    energy: np.ndarray = described(
        "share of the row's squared length left", axes=("tokens", "steps_plus_1")
    )
    mean_energy: np.ndarray = described("the same, mean over rows measured", axes=("steps_plus_1",))
    low_energy: np.ndarray = described("its 10 % quantile over rows", axes=("steps_plus_1",))
    high_energy: np.ndarray = described("its 90 % quantile", axes=("steps_plus_1",))
    steps_to_share: np.ndarray = described(
        "rows that needed so many steps to nine tenths of the energy; the last did not get there",
        axes=("steps_plus_1",),
    )
    early: np.ndarray = described("atoms taken earliest on average", axes=("ranks",))
    early_rank: np.ndarray = described("mean step at which, from 1", axes=("ranks",))
    early_count: np.ndarray = described("rows that took it", axes=("ranks",))
    late: np.ndarray = described("atoms taken latest on average", axes=("ranks",))
    late_rank: np.ndarray = described("mean step at which, from 1", axes=("ranks",))
    late_count: np.ndarray = described("rows that took it", axes=("ranks",))
    repeats: float = described("share of steps that took an atom again")
    n_rows: int = described("rows measured")


@torch.no_grad()
def pursuit_paths(
    run: Run,
    site: str,
    sae: MpSae,
    *,
    name: str = "sae",
    document: int = 0,
    n_tokens: int = 24,
    n_rows: int = 4096,
) -> PursuitPaths:
    """Paths of one document's tokens, and of many rows.

    Args:
        run: A run file with rows of the site.
        site: Which.
        sae: A matching-pursuit autoencoder.
        name: What to call it.
        document: Whose first tokens are shown, the very first left out.
        n_tokens: How many.
        n_rows: Rows that means are taken over.

    Raises:
        OptionError: No such document, or one of a single token.
    """
    if not 0 <= document < run.tokens.n_documents:
        raise OptionError(
            f"document must be from 0 to {run.tokens.n_documents - 1}, got {document}."
        )
    start, stop = (int(v) for v in run.tokens.offsets[document : document + 2])
    shown = np.arange(start + 1, min(start + 1 + n_tokens, stop))
    if not len(shown):
        raise OptionError(f"Document {document} has a single token; choose a longer one.")
    held = run.activations[site]
    text = sae.pursue(held.gather(shown).float())
    many = np.flatnonzero(kept_rows(run))[:n_rows]
    path = sae.pursue(held.gather(many).float())
    energy = _energy(path)
    low, high = np.quantile(energy, [0.1, 0.9], axis=0)
    ranks = _ranks(path)
    early, late = ranks[:N_ATOMS], ranks[::-1][:N_ATOMS]
    return PursuitPaths(
        site=site,
        label=name,
        text_ids=run.tokens.ids[shown].astype(np.int64),
        atoms=torch.where(text.values != 0, text.indices, -1).numpy(),
        values=text.values.numpy(),
        energy=_energy(text),
        mean_energy=energy.mean(0),
        low_energy=low,
        high_energy=high,
        steps_to_share=_steps(energy),
        early=early[:, 0].astype(np.int64),
        early_rank=early[:, 1],
        early_count=early[:, 2].astype(np.int64),
        late=late[:, 0].astype(np.int64),
        late_rank=late[:, 1],
        late_count=late[:, 2].astype(np.int64),
        repeats=float(path.repeats.sum() / (path.values != 0).sum().clamp(min=1)),
        n_rows=len(many),
    )


def _energy(path: PursuitPath) -> Float[np.ndarray, "rows steps_plus_1"]:
    """Share of each row's squared length that is left before the first step and after each."""
    squared: Tensor = path.residual_norms.double().square()
    return (squared / squared[:, :1].clamp(min=1e-30)).cpu().numpy()


def _steps(energy: Float[np.ndarray, "rows steps_plus_1"]) -> np.ndarray:
    """Rows by the number of steps after which a tenth of the energy or less is left."""
    reached = energy <= 1 - SHARE
    steps = np.where(reached.any(1), reached.argmax(1), energy.shape[1])
    return np.bincount(steps, minlength=energy.shape[1] + 1)[1:]


def _ranks(path: PursuitPath) -> np.ndarray:
    """(atom, mean step from 1, rows) of atoms taken on at least ten rows, the earliest first."""
    taken = (path.values != 0).cpu().numpy()
    step = np.broadcast_to(np.arange(1, taken.shape[1] + 1), taken.shape)[taken]
    atom = path.indices.cpu().numpy()[taken]
    counts = np.bincount(atom, minlength=path.d_sae)
    sums = np.bincount(atom, step, minlength=path.d_sae)
    used = np.flatnonzero(counts >= min(10, counts.max(initial=0)))
    found = np.stack([used, sums[used] / np.maximum(counts[used], 1), counts[used]], axis=1)
    return found[np.argsort(found[:, 1], kind="stable")]
