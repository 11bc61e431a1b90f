"""Reading of how contexts that predict alike stand alike, over a run file (see `alignment`)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import PreTrainedModel

from ..model import Model
from ..readings.linear_probe import split_by_document
from ..results import Result, described
from ..runfile import Run
from .alignment import (
    bhattacharyya_kernel,
    correlations,
    dirichlet_energy,
    fit_canonical,
    hellinger_kernel,
    linear_cka,
    operator_spectrum,
    permutation_null,
    rank_correlation,
    state_vectors,
    top_vectors,
)
from .futures import Futures, futures_of_run
from .head_geometry import (
    metric_at,
)
from .one_sided import fit_one_sided, principal_scores, span_overlap
from .predictions import last_site
from .resampling import Estimate

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class SpectralAlignment(Result):
    """How the representation's spectrum goes with that of predictions, on documents not fitted on."""

    kind: ClassVar[str] = "information_alignment"
    variants: np.ndarray = described("what stands for the prediction", axes=("variants",))
    tautological: np.ndarray = described("whether it is a function of the state itself",
                                         axes=("variants",))  # fmt: skip
    cca: np.ndarray = described("mean of the leading held-out correlations", axes=("variants",))
    correlations: np.ndarray = described("held-out canonical correlations",
                                         axes=("variants", "directions"))  # fmt: skip
    cca_null: np.ndarray = described("the same, rows paired at random", axes=("variants",))
    cca_null_high: np.ndarray = described("upper end of the null's central 95 %",
                                          axes=("variants",))  # fmt: skip
    cka: np.ndarray = described("linear CKA, held-out rows", axes=("variants",))
    cka_null: np.ndarray = described("the same, rows paired at random", axes=("variants",))
    cka_null_high: np.ndarray = described("upper end of the null's central 95 %",
                                          axes=("variants",))  # fmt: skip
    overlap: float = described("top-k overlap of states and Bhattacharyya kernel (tautological)")
    overlap_null: float = described("the same, rows paired at random")
    overlap_random_model: float = described("the same of a model with random weights")
    metric_rank: float = described(
        "Spearman of Hellinger distance and metric length, pairs of rows"
    )
    dirichlet: float = described("energy of the leading directions over that of random ones")
    operator: np.ndarray = described("leading eigenvalues of K_BC / N", axes=("order",))
    k: int = described("directions compared")
    n_fit: int = described("rows fitted on")
    n_test: int = described("rows scored on")
    one_sided: np.ndarray | None = described(
        "share of the variance of what stands for the prediction that the leading directions explain, "
        "states alone whitened, held-out rows", axes=("variants",), default=None,
    )  # fmt: skip
    one_sided_curve: np.ndarray | None = described(
        "the same for the first 1, 2, ... directions", axes=("variants", "directions"), default=None
    )
    one_sided_fit: np.ndarray | None = described(
        "share of each direction on the rows of the fit, l / tr S_g",
        axes=("variants", "directions"), default=None,
    )  # fmt: skip
    one_sided_null: np.ndarray | None = described(
        "that of the leading ones, held-out rows paired at random", axes=("variants",), default=None
    )
    one_sided_null_high: np.ndarray | None = described(
        "upper end of the null's central 95 %", axes=("variants",), default=None
    )
    one_sided_overlap: np.ndarray | None = described(
        "overlap of these directions with the states' leading principal ones, held-out rows",
        axes=("variants",), default=None,
    )  # fmt: skip
    cca_overlap: np.ndarray | None = described(
        "the same of the canonical directions", axes=("variants",), default=None
    )
    chance_overlap: float | None = described("that of random white directions", default=None)


@torch.no_grad()
def spectral_alignment(
    model: Model, run: Run, *, n_rows: int, n_fit: int = 4000, n_test: int = 1000, k: int = 16,
    seed: int = 0, progress: Progress | None = None,
) -> SpectralAlignment:  # fmt: skip
    """Compare last states with what they predict, in the weak (generalised CCA) form and one-sided.

    Variants: the unembedding row of the token that came (data), the mean row under the model's own
    prediction (tautological), and either with a model of the same shape whose weights are random, on
    the same texts.

    Args:
        model: The model of the run.
        run: A run file with the last states.
        n_rows: Rows of the run that rows are drawn from.
        n_fit: Rows CCA is fitted on.
        n_test: Rows of other documents it is scored on.
        k: Directions compared.
        seed: Fixes draws, permutations and the random weights.
        progress: Called after every stage.

    Raises:
        MissingResultError: The run lacks the last states.
        TooFewTokensError: Fewer rows than two per dimension of the state.
    """
    site = last_site(run, model)
    futures = futures_of_run(run, n_futures=1, max_tokens=n_rows)
    split = split_by_document(futures.documents, seed=seed)
    generator = np.random.default_rng(seed)
    fit, test = (
        futures.take(_whole_windows(run, futures, part, n, generator))
        for part, n in ((split.train, n_fit), (split.test, n_test))
    )
    states = tuple(_normed(model, run, site, part) for part in (fit, test))
    rows = model.unembedding.weight.detach().float().cpu()  # type: ignore[union-attr]
    prototypes = rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    stages = iter(range(1, 6))

    def stage(note: str) -> None:
        if progress is not None:
            progress(next(stages), 5, note)

    realised = tuple(prototypes[torch.from_numpy(part.tokens[:, 0])] for part in (fit, test))
    expected = tuple(_expected(model, held, prototypes) for held in states)
    stage("prototypes")
    random = _random_model(model, seed)
    blank = tuple(_random_states(random, run, part) for part in (fit, test))
    other = random.unembedding.weight.detach().float()  # type: ignore[union-attr]
    other = other / other.norm(dim=1, keepdim=True).clamp_min(1e-12)
    blank_expected = tuple(_expected(random, held, other) for held in blank)
    stage("random weights")
    variants = {
        "token that came": (states, realised),
        "token that came, random weights": (blank, realised),
        "own prediction": (states, expected),
        "own prediction, random weights": (blank, blank_expected),
    }
    found = [_variant(left, right, k, seed) for left, right in variants.values()]
    stage("canonical correlations")
    probs = model.logits_of(states[1].to(model.device, model.dtype)).float().softmax(-1).cpu()
    kernel = bhattacharyya_kernel(probs)
    top = top_vectors(kernel, k)
    overlap, null = _overlap(top, states[1], k, seed)
    blank_probs = random.logits_of(blank[1].to(random.dtype)).float().softmax(-1)
    blank_overlap, _ = _overlap(
        top_vectors(bhattacharyya_kernel(blank_probs), k), blank[1], k, seed
    )
    stage("kernels")
    similar = hellinger_kernel(probs)
    directions = state_vectors(states[1], k)
    noise = torch.randn(states[1].shape[1], k, generator=torch.Generator().manual_seed(seed))
    energies = [dirichlet_energy(similar, f).mean() for f in (directions, states[1] @ noise)]
    metric_rank = _metric_rank(model, states[1], probs, seed)
    stage("metric")
    columns = {key: np.stack([one[key] for one in found]) for key in found[0]}
    return SpectralAlignment(
        variants=np.array(list(variants)),
        tautological=np.array([False, False, True, True]),
        **columns,
        overlap=overlap,
        overlap_null=null.value,
        overlap_random_model=blank_overlap,
        metric_rank=metric_rank,
        dirichlet=float(energies[0] / energies[1]),
        operator=operator_spectrum(kernel)[:64].numpy(),
        k=k,
        n_fit=len(fit),
        n_test=len(test),
        chance_overlap=k / states[0].shape[1],
    )


def _whole_windows(
    run: Run, futures: Futures, part: np.ndarray, n: int, generator: np.random.Generator
) -> np.ndarray:
    """About `n` of the rows in `part`, by random windows, so that few have to be read anew."""
    window = np.searchsorted(run.tokens.offsets, futures.rows[part], side="right")
    kinds, counts = np.unique(window, return_counts=True)
    order = generator.permutation(len(kinds))
    enough = int((counts[order].cumsum() < n).sum()) + 1
    return part[np.isin(window, kinds[order[:enough]])][:n]


def _normed(model: Model, run: Run, site: str, part: Futures) -> Float[Tensor, "rows d_model"]:
    states = run.activations[site].gather(part.rows).to(model.device, model.dtype)
    return (states if site == "final_norm" else model.final_norm(states)).float().cpu()


def _expected(model: Model, states: Tensor, prototypes: Tensor) -> Float[Tensor, "rows d_model"]:
    """Mean prototype under the model's predictions, some rows at a time."""
    parts = states.to(model.device, model.dtype).split(256)
    return torch.cat([model.logits_of(p).float().softmax(-1).cpu() @ prototypes for p in parts])


def _variant(
    left: tuple[Tensor, ...], right: tuple[Tensor, ...], k: int, seed: int
) -> dict[str, np.ndarray]:
    canonical = fit_canonical(left[0], right[0], n_directions=k)
    x = (left[1].double() - canonical.left_mean) @ canonical.left
    y = (right[1].double() - canonical.right_mean) @ canonical.right

    def cca(order: Int64[np.ndarray, " rows"]) -> float:
        return float(correlations(x, y[torch.from_numpy(order)]).mean())

    null = permutation_null(cca, len(x), seed=seed)
    centred, other = left[1] - left[1].mean(0), right[1] - right[1].mean(0)
    scale = (centred.T @ centred).norm() * (other.T @ other).norm()

    def cka(order: Int64[np.ndarray, " rows"]) -> float:
        return float((centred.T @ other[torch.from_numpy(order)]).square().sum() / scale)

    cka_null = permutation_null(cka, len(x), seed=seed)
    one = fit_one_sided(left[0], right[0], n_directions=k)
    curve = one.explained(left[1], right[1])

    def share(order: Int64[np.ndarray, " rows"]) -> float:
        return float(one.explained(left[1], right[1], torch.from_numpy(order))[-1])

    share_null = permutation_null(share, len(x), seed=seed)
    leading = principal_scores(left[0], left[1], k)
    pairs = correlations(x, y)
    return {
        "cca": np.array(float(pairs.mean())),
        "correlations": pairs.numpy(),
        "cca_null": np.array(null.value),
        "cca_null_high": np.array(null.high),
        "cka": np.array(float(linear_cka(left[1], right[1]))),
        "cka_null": np.array(cka_null.value),
        "cka_null_high": np.array(cka_null.high),
        "one_sided": curve[-1].numpy(),
        "one_sided_curve": curve.numpy(),
        "one_sided_fit": one.shares.numpy(),
        "one_sided_null": np.array(share_null.value),
        "one_sided_null_high": np.array(share_null.high),
        "one_sided_overlap": np.array(span_overlap(one.scores(left[1]), leading)),
        "cca_overlap": np.array(span_overlap(x, leading)),
    }


def _overlap(top: Tensor, states: Tensor, k: int, seed: int) -> tuple[float, Estimate]:
    vectors = state_vectors(states, k)

    def overlap(order: Int64[np.ndarray, " rows"]) -> float:
        return float((top.T @ vectors[torch.from_numpy(order)]).square().sum() / k)

    return overlap(np.arange(len(states))), permutation_null(overlap, len(states), seed=seed)


def _metric_rank(model: Model, states: Tensor, probs: Tensor, seed: int, *, n: int = 24) -> float:
    """Spearman of Hellinger distances and lengths in the metric at the first of both rows."""
    generator = np.random.default_rng(seed)
    distances, lengths = [], []
    for row in generator.integers(len(states), size=n):
        metric = metric_at(model, states[row], dtype=torch.float32)
        for other in generator.integers(len(states), size=8):
            closeness = float((probs[row] * probs[other]).sqrt().sum())
            distances.append((2 * max(1 - closeness, 0)) ** 0.5)
            lengths.append(metric.length(states[other] - states[row]))
    return rank_correlation(np.array(distances), np.array(lengths))


def _random_model(model: Model, seed: int) -> Model:
    """A model of the same configuration with fresh weights."""
    from ..open import wrap_model

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        kind: type[PreTrainedModel] = type(model.module)
        module = kind(copy.deepcopy(model.module.config)).eval()
    return wrap_model(module, name=f"{model.name}, random weights", check=False)


def _random_states(random: Model, run: Run, part: Futures) -> Float[Tensor, "rows d_model"]:
    """States after the random model's final norm at the rows of a part, window by window."""
    from ..capture import capture

    offsets = run.tokens.offsets
    windows = np.searchsorted(offsets, part.rows, side="right") - 1
    found = torch.empty(len(part), random.d_model)
    for window in np.unique(windows):
        own = np.flatnonzero(windows == window)
        places = part.rows[own] - offsets[window]
        ids = run.tokens.document(int(window))[: places.max() + 1].astype(np.int64)
        with capture(random, "final_norm") as acts:
            random(torch.from_numpy(ids)[None], use_cache=False)
        found[torch.from_numpy(own)] = acts["final_norm"][0][torch.from_numpy(places)].float()
    return found
