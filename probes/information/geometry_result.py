"""Reading of the head's geometry over a run file: the metric at sampled positions and on average."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..model import Model
from ..results import Result, described
from ..runfile import Run
from .futures import Futures, futures_of_run
from .head_geometry import (
    PopulationMetric,
    before_norm,
    effective_rank,
    logit_slopes,
    metric_at,
    participation,
)
from .predictions import last_site
from .resampling import mean_estimate, require

Progress = Callable[[int, int, str], None]

N_LEADING = 8
"""Tokens named beside the most sensitive direction."""
N_SHOWN = 6
"""Positions whose leading direction is stored with its tokens."""


@dataclass(frozen=True, kw_only=True)
class HeadGeometry(Result):
    """The metric that predictions induce on states, at sampled positions and on average."""

    kind: ClassVar[str] = "information_geometry"
    rows: np.ndarray = described("row of the run", axes=("positions",))
    trace: np.ndarray = described("trace of the metric", axes=("positions",), unit="nats")
    rank: np.ndarray = described("exp entropy of the eigenvalues", axes=("positions",))
    share: np.ndarray = described("(sum)^2 / sum of squares", axes=("positions",))
    entropy: np.ndarray = described("Shannon entropy", axes=("positions",), unit="nats")
    kept: np.ndarray = described("tokens in the factor", axes=("positions",))
    trace_error: np.ndarray = described("bound on the trace left out", axes=("positions",))
    rank_mean: float = described("mean effective rank")
    rank_low: float = described("lower 95 % bound over documents")
    rank_high: float = described("upper bound")
    spectrum: np.ndarray = described("median eigenvalue by order", axes=("order",))
    population: np.ndarray = described("eigenvalues of the mean metric", axes=("order",))
    population_rank: float = described("effective rank of the mean metric")
    null_before_norm: float = described("|g x| / (|g| |x|) before the norm: 0 is a null direction")
    kl_ratio: float = described("median KL / (1/2 e^2 v g v), small steps along leading directions")
    shown_rows: np.ndarray = described("rows with a named direction", axes=("shown",))
    shown_tokens: np.ndarray = described("what the direction raises", axes=("shown", "tokens"))
    n_documents: int = described("source documents")


@torch.no_grad()
def head_geometry(
    model: Model, run: Run, *, n_rows: int, n_positions: int = 64, seed: int = 0,
    progress: Progress | None = None,
) -> HeadGeometry:  # fmt: skip
    """Measure the pulled-back metric at random positions.

    Args:
        model: The model of the run.
        run: A run file with the last states.
        n_rows: Rows of the run positions are drawn from.
        n_positions: How many.
        seed: Fixes the draw.
        progress: Called after every position.

    Raises:
        MissingResultError: The run lacks the last states.
        TooFewTokensError: Too few positions or documents.
    """
    site = last_site(run, model)
    futures = _drawn(futures_of_run(run, n_futures=1, max_tokens=n_rows), n_positions, seed)
    require("E6, the head's geometry,", "positions", have=len(futures), need=8)
    states = run.activations[site].gather(futures.rows).to(model.device, model.dtype)
    normed = states if site == "final_norm" else model.final_norm(states)
    logits = model.logits_of(normed).float()
    probs = logits.softmax(-1)
    population = PopulationMetric(model)
    population.add(logits)
    head = copy.deepcopy(model.unembedding).double()
    metrics, spectra, ratios, raised = [], [], [], []
    for number, state in enumerate(normed):
        metric = metric_at(model, state, dtype=torch.float32)
        metrics.append((metric.trace, len(metric.token_ids), metric.trace_error))
        spectra.append(metric.spectrum().cpu())
        if number < N_SHOWN:
            direction = metric.leading()
            raised.append(_raised(model, direction))
            ratios.append(_kl_ratio(model, head, state, metric.length(direction), direction))
        if progress is not None:
            progress(number + 1, len(normed), "metrics")
    null = float("nan") if site == "final_norm" else _null(model, normed[0], states[0])
    rank = np.array([effective_rank(spectrum) for spectrum in spectra])
    mean = mean_estimate("E6", rank, futures.documents)
    trace, kept, error = map(np.array, zip(*metrics, strict=True))
    whole = population.spectrum()
    return HeadGeometry(
        rows=futures.rows,
        trace=trace,
        rank=rank,
        share=np.array([participation(spectrum) for spectrum in spectra]),
        entropy=torch.special.entr(probs).sum(-1).cpu().numpy(),
        kept=kept,
        trace_error=error,
        rank_mean=mean.value,
        rank_low=mean.low,
        rank_high=mean.high,
        spectrum=torch.stack(spectra).median(0).values.numpy(),
        population=whole.numpy(),
        population_rank=effective_rank(whole),
        null_before_norm=null,
        kl_ratio=float(np.median(ratios)),
        shown_rows=futures.rows[:N_SHOWN],
        shown_tokens=np.array(raised),
        n_documents=futures.n_documents,
    )


def _drawn(futures: Futures, n: int, seed: int) -> Futures:
    order = np.random.default_rng(seed).permutation(len(futures))[:n]
    return futures.take(np.sort(order))


def _kl_ratio(
    model: Model, head: torch.nn.Module, state: Tensor, length: float, direction: Tensor
) -> float:
    """KL of a small step over half of its squared length, in float64; NaN with a soft cap."""
    if getattr(model.config, "final_logit_softcapping", None) is not None:
        return float("nan")
    scale = float(logit_slopes(model, torch.zeros(1, dtype=torch.float64))[0])
    size = 1e-2 / max(length, 1e-12)
    moved = torch.stack([state, state]).double()
    moved[1] += size * direction.double()
    before, after = (head(moved) * scale).log_softmax(-1)
    kl = (after.exp() * (after - before)).sum()
    return float(kl / (0.5 * (size * length) ** 2))


def _raised(model: Model, direction: Tensor) -> list[int]:
    """Tokens whose logits the direction raises most."""
    weights = model.unembedding.weight
    assert isinstance(weights, Tensor)
    return (weights @ direction.to(weights)).topk(min(N_LEADING, len(weights))).indices.tolist()


def _null(model: Model, normed: Tensor, resid: Tensor) -> float:
    """How far the state itself is from being a null direction before the norm."""
    metric = before_norm(model, metric_at(model, normed, dtype=torch.float32), resid)
    along = metric.factor @ (resid / resid.norm()).to(metric.factor)
    return float(along.norm() / torch.linalg.matrix_norm(metric.factor, 2))
