"""Effective features layer by layer, through dictionaries trained alike on every site of a run file.

For each site: rows are cleaned (first tokens and rows of more than ten times the median norm are
left out, since a massive activation would own the dictionary), scaled to E||x||^2 = N, a ReLU
autoencoder is trained on them with the room's `Trainer`, and its activation mass is summed per
document. Out come F with an interval over documents, F(n), the fit beside which it must be read,
and the intrinsic dimension of the same rows. Layers are ranked only where F(n) has settled (arXiv
2512.13568; intervals and refusal are ours).

Deviations from the paper: encoder and decoder are not tied; atoms have unit length, which fixes the
same gauge. The penalty is l1 sqrt(N), so that `l1` means what it does on rows of mean square norm
1, for sites of any width. As in the paper, dictionaries are read on the rows they were trained on.

With several penalties F is also given at one FVU for all layers, on the line through ln F over FVU:
layers through dictionaries that fit equally well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.errors import OptionError, UnknownSiteError
from ...probes.runfile import Run
from ..base import SparseAutoencoder
from ..learner import LearnOptions
from ..relu import ReluOptions, ReluSae
from ..schedule import ScheduleOptions
from ..train import Member, Trainer
from .convergence import Curve, feature_curve, rank
from .dimension import participation_ratio, two_nn
from .entropy import CAVEAT, hill_number
from .intervals import document_bootstrap
from .journal import Journal, run_units
from .profile import LayerProfile
from .usage import DocumentUsage

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOptions:
    """One recipe for all layers."""

    expansion: float = 2.0
    """Latents over the site's width."""
    l1: float = 0.1
    """Penalty in units of rows of mean square norm 1. SAEBench sweeps 0.012 to 0.06 over 500 million
    tokens; dictionaries as short as these hardly select below 0.1 (docs/results/superposition.md)."""
    match_fvu: float | None = None
    """Also give F at this FVU, from dictionaries of a third and of three times the penalty as well."""
    n_steps: int = 400
    """Steps of each dictionary."""
    batch_rows: int = 256
    """Rows per step, drawn without replacement pass by pass."""
    max_rows: int = 16_384
    """Rows of a site at most, whole documents from the beginning."""
    max_norm_ratio: float = 10.0
    """Rows of more than so many times the median norm are left out."""
    skip_first: int = 1
    """Tokens left out at the beginning of each document."""
    seed: int = 0
    """Fixes weights, order of rows and resampling."""

    def __post_init__(self) -> None:
        least = min(self.n_steps, self.batch_rows, self.max_rows)
        if least < 1 or self.expansion <= 0 or self.l1 < 0 or self.max_norm_ratio <= 1:
            raise OptionError(
                "n_steps, batch_rows and max_rows must be at least 1, expansion above 0, l1 at least 0 "
                f"and max_norm_ratio above 1, got {self}."
            )
        if self.match_fvu is not None and not 0 < self.match_fvu < 1:
            raise OptionError(f"match_fvu must lie between 0 and 1, got {self.match_fvu}.")

    @property
    def penalties(self) -> tuple[float, ...]:
        """The penalties trained with, the main one first."""
        if self.match_fvu is None:
            return (self.l1,)
        return (self.l1, self.l1 / 3, self.l1 * 3)


@dataclass(frozen=True)
class SiteRows:
    """Cleaned and scaled rows of a site."""

    rows: Float[Tensor, "rows d"]
    """Activations, scaled to a mean square norm of their width."""
    documents: Int[Tensor, " rows"]
    """Document of each row, counted from 0."""
    n_documents: int
    scale: float
    """What activations were multiplied by."""
    n_dropped: int
    """Rows left out for their norm."""


def layer_superposition(
    run: Run,
    sites: Sequence[str],
    options: LayerOptions | None = None,
    *,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> LayerProfile:
    """Train one dictionary per site, all alike, and count effective features.

    Args:
        run: A run file with the sites' activations.
        sites: Site names, in the order of the profile.
        options: The one recipe.
        journal: Keeps finished sites.
        progress: Called with (done, total, note).

    Raises:
        UnknownSiteError: The run file does not hold a site.
        OptionError: No site is given, or a site has too few rows.
    """
    chosen = options or LayerOptions()
    missing = [site for site in sites if site not in run.sites]
    if missing or not sites:
        held = ", ".join(run.sites[:6]) or "none"
        raise UnknownSiteError(
            f"{run.path.name} must hold activations of each site, got "
            f"{', '.join(missing) or 'no site'}; it holds {held}"
            f"{', ...' if len(run.sites) > 6 else ''}. Capture them: fluoroscope capture."
        )
    found = run_units(
        list(sites),
        lambda site, inner: [measure_site(run, site, chosen, progress=inner)],
        Journal(None, "layers", chosen) if journal is None else journal,
        progress,
    )
    return _profile(found, chosen)


def clean_rows(run: Run, site: str, options: LayerOptions) -> SiteRows:
    """Rows of a site without first tokens and massive activations, scaled.

    Raises:
        OptionError: Fewer rows are left than one batch needs.
    """
    offsets = run.tokens.offsets
    n_documents = max(int(np.searchsorted(offsets, options.max_rows, side="right")) - 1, 1)
    stop = int(offsets[n_documents])
    rows = run.activations[site].read(slice(0, stop)).float()
    documents = np.repeat(np.arange(n_documents), np.diff(offsets[: n_documents + 1]))
    late = torch.from_numpy(run.tokens.positions()[:stop] >= options.skip_first)
    norms = rows.norm(dim=1)
    usual = torch.isfinite(norms) & (norms <= options.max_norm_ratio * norms[late].median())
    keep = late & usual
    if int(keep.sum()) < options.batch_rows:
        raise OptionError(
            f"{site} must have at least {options.batch_rows} usable rows, got {int(keep.sum())}; "
            "capture more tokens, or take a smaller batch_rows."
        )
    kept = rows[keep]
    scale = (rows.shape[1] / kept.square().sum(1).double().mean()).sqrt().item()
    # Documents whose rows were all left out do not count as documents.
    _, numbers = torch.unique(torch.from_numpy(documents)[keep], return_inverse=True)
    n_left = int(numbers.max()) + 1
    return SiteRows(kept * scale, numbers, n_left, scale, int((late & ~usual).sum()))


@torch.no_grad()
def document_usage(
    sae: SparseAutoencoder, rows: SiteRows, *, batch_rows: int = 2048
) -> tuple[DocumentUsage, float, float]:
    """Activation mass per document through any autoencoder, with its FVU and L0.

    Codes are weighed by decoder norms, so that architectures with free norms compare.

    Args:
        sae: Any autoencoder of the room.
        rows: Rows scaled as it expects them.
        batch_rows: Rows encoded at once.
    """
    usage = DocumentUsage(rows.n_documents, sae.d_sae)
    norms = sae.W_dec.norm(dim=1)
    error = active = 0.0
    for chosen in torch.arange(len(rows.rows)).split(batch_rows):
        x = rows.rows[chosen]
        codes = sae.encode(x)
        usage.update(codes, rows.documents[chosen], norms=norms)
        error += (x - sae(x).reconstruction).double().square().sum().item()
        active += (codes != 0).sum().item()
    wide = rows.rows.double()
    variation = (wide - wide.mean(0)).square().sum().item()
    return usage, error / variation if variation else float("nan"), active / len(rows.rows)


def measure_site(
    run: Run, site: str, options: LayerOptions, *, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything about one site, ready for JSON: trained, read, resampled."""
    rows = clean_rows(run, site, options)
    width = rows.rows.shape[1]
    members = {
        f"{l1:g}": Member(
            ReluSae(
                ReluOptions(
                    d_in=width, d_sae=max(round(options.expansion * width), 1), l1=l1 * width**0.5
                ),
                seed=options.seed,
            ),
            LearnOptions(
                schedule=ScheduleOptions(n_steps=options.n_steps), learning_rate=LEARNING_RATE
            ),
        )
        for l1 in options.penalties
    }
    for member in members.values():
        member.sae.initialise(rows.rows)
    trainer = Trainer(members)
    trainer.fit(
        _batches(rows.rows, options),
        progress=lambda done, total, note: progress and progress(done, total or done, "training"),
    )
    fits = []
    for member in members.values():
        usage, fvu, l0 = document_usage(member.sae, rows)
        fits.append((usage, fvu, l0, hill_number(usage.mass.sum(0)).item()))
    usage, fvu, l0, _ = fits[0]
    return _numbers(site, rows, usage, options) | {
        "fvu": fvu,
        "l0": l0,
        "matched": _matched([(f[1], f[3]) for f in fits], options.match_fvu),
    }


LEARNING_RATE = 1e-3
"""Adam's for the small dictionaries of a profile; the rule for large ones is lower."""


def _numbers(
    site: str, rows: SiteRows, usage: DocumentUsage, options: LayerOptions
) -> dict[str, Any]:
    width = rows.rows.shape[1]
    whole = usage.result(width)
    interval = document_bootstrap(usage.mass, seed=options.seed)
    curve = feature_curve(usage.mass, seed=options.seed)
    dimension = two_nn(rows.rows, seed=options.seed)
    shares = usage.mass.sum(0)
    ranked = (shares / shares.sum()).sort(descending=True).values[:N_RANKS]
    return {
        "site": site,
        "width": width,
        "n_rows": len(rows.rows),
        "n_documents": rows.n_documents,
        "n_dropped": rows.n_dropped,
        "scale": rows.scale,
        "features": whole.features,
        "features_low": interval.low,
        "features_high": interval.high,
        "bias": interval.bias,
        "alive": whole.alive,
        "participation": whole.participation,
        "entropy_bits": whole.entropy_bits,
        "curve_n": curve.n_documents.tolist(),
        "curve": curve.features.tolist(),
        "rise": curve.rise,
        "two_nn": dimension.value,
        "two_nn_low": dimension.low,
        "two_nn_high": dimension.high,
        "linear_dimension": participation_ratio(rows.rows),
        "shares": ranked.tolist(),
    }


N_RANKS = 200
"""Largest budget shares that are kept for the rank-usage curve."""


def _batches(rows: Tensor, options: LayerOptions) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(options.seed)
    while True:
        for chosen in torch.randperm(len(rows), generator=generator).split(options.batch_rows):
            if len(chosen) == options.batch_rows or len(rows) < options.batch_rows:
                yield rows[chosen]


def _matched(fits: list[tuple[float, float]], target: float | None) -> float:
    """F at the target FVU, between the two dictionaries around it on a line of ln F; NaN outside."""
    if target is None:
        return float("nan")
    fvu, features = zip(*sorted(fits), strict=True)
    if not fvu[0] <= target <= fvu[-1]:
        return float("nan")
    return float(np.exp(np.interp(target, fvu, np.log(features))))


def _profile(found: list[dict[str, Any]], options: LayerOptions) -> LayerProfile:
    curves = {
        f["site"]: Curve(
            n_documents=np.array(f["curve_n"]),
            features=np.array(f["curve"]),
            low=np.array(f["curve"]),
            high=np.array(f["curve"]),
            rise=f["rise"],
        )
        for f in found
    }
    ranking = rank(curves)
    longest = max(found, key=lambda f: len(f["curve_n"]))
    sizes = np.array(longest["curve_n"])
    curve = np.full((len(found), len(sizes)), np.nan)
    shares = np.full((len(found), N_RANKS), np.nan)
    for i, one in enumerate(found):
        at = np.searchsorted(sizes, one["curve_n"])
        fits = at < len(sizes)
        curve[i, at[fits]] = np.array(one["curve"])[fits]
        shares[i, : len(one["shares"])] = one["shares"]
    columns = (
        "width", "n_rows", "n_dropped", "scale", "features", "features_low", "features_high", "bias",
        "alive", "participation", "entropy_bits", "fvu", "l0", "matched", "rise", "two_nn",
        "two_nn_low", "two_nn_high", "linear_dimension",
    )  # fmt: skip
    numbers: dict[str, Any] = {name: np.array([f[name] for f in found]) for name in columns}
    place = {site: number + 1 for number, site in enumerate(ranking.ranked)}
    return LayerProfile(
        sites=np.array([f["site"] for f in found], dtype=str),
        psi=numbers["features"] / numbers["width"],
        place=np.array([place.get(f["site"], 0) for f in found]),
        curve_documents=sizes,
        curve=curve,
        shares=shares,
        n_documents=int(found[0]["n_documents"]),
        n_latents=round(options.expansion * int(numbers["width"].max())),
        l1=options.l1,
        n_steps=options.n_steps,
        match_fvu=float("nan") if options.match_fvu is None else options.match_fvu,
        caveat=CAVEAT,
        **numbers,
    )
