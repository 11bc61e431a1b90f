"""Judging dictionaries on rows they should not have seen: one table, baselines always beside them.

All dictionaries of a call read the same rows, of documents that none was trained on where the
trainings held some out; see `heldout`.

Offline, with a small model: fidelity, geometry, activity and probes of token classes can be
measured. Not measured, and why: absorption by spelling and automatic interpretation mean nothing
below about a billion parameters or need a judge model; RAVEL, SCR, TPP and unlearning need data
sets and models that no package carries. Absorption is measured where the truth is known
(`synthetic/`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import OptionError
from ..probes.model import Model
from ..probes.readings.texts import Texts
from ..probes.runfile import Run
from .comparison import SaeComparison
from .documents import unseen
from .heldout import EvaluateOptions, HeldOut, held_out
from .metrics import (
    ActivityStats,
    Dictionary,
    FidelityTable,
    PrincipalComponents,
    RandomDecoder,
    ReconstructionStats,
    atoms_of,
    babel,
    coactive_babel,
    coactive_cosine,
    effective_rank,
    encoder_decoder_cosines,
    fidelity,
    max_cosines,
    mean_cosine,
    rebuild,
    sparse_codes,
    supports,
)
from .metrics.activity import BIN_EDGES
from .token_probes import token_probes

Progress = Callable[[int, int, str], None]

CHUNK = 1024
BABEL_SIZES = 16
MAX_BASELINES = 3


@torch.no_grad()
def evaluate(
    run: Run,
    site: str,
    dictionaries: Mapping[str, Dictionary],
    *,
    model: Model | None = None,
    options: EvaluateOptions | None = None,
    progress: Progress | None = None,
) -> SaeComparison:
    """Measure dictionaries of one site.

    Args:
        run: A run file with rows of the site.
        site: Which.
        dictionaries: By name; all must be as wide as the rows.
        model: The model of the run, for fidelity; None leaves that out.
        options: How much to measure.
        progress: Called with units done, units in all, what is done.

    Raises:
        UnknownSiteError: The run holds no rows of the site.
        OptionError: No dictionary, or too few documents.
    """
    options = options or EvaluateOptions()
    if not dictionaries:
        raise OptionError("evaluate needs at least one dictionary, got none.")
    records = [getattr(one, "metadata", {}) for one in dictionaries.values()]
    parts = held_out(run, options, records)
    held = run.activations[site]
    parts = parts.without_long(held, options.max_norm_ratio)
    everyone = dict(dictionaries)
    if options.baselines:
        everyone |= _baselines(held.gather(parts.fit).float(), dictionaries, options)
    measured = {}
    for number, (name, dictionary) in enumerate(everyone.items()):
        if progress is not None:
            progress(number, len(everyone), f"reconstruction: {name}")
        measured[name] = _measure(run, site, dictionary, parts, options)
    columns = {
        key: np.array([one[key] for one in measured.values()])
        for key in next(iter(measured.values()))
    }
    test_kept = parts.test[parts.kept[parts.test]]
    return SaeComparison(
        site=site,
        conditions=np.array(list(everyone), dtype=str),
        architecture=np.array([_kind(one) for one in everyone.values()], dtype=str),
        trained_here=np.array([_trained_here(run, one, parts) for one in everyone.values()]),
        n_rows=len(test_kept),
        n_documents=len(np.unique(parts.source[test_kept])),
        n_long=parts.n_long,
        density_edges=BIN_EDGES,
        **columns,
        **_fidelity(run, site, everyone, model, parts, options, progress),
        **token_probes(run, site, everyone, parts, options, progress),
    )


def _trained_here(run: Run, dictionary: Dictionary, parts: HeldOut) -> bool:
    """Whether a dictionary was trained on some of the rows it is judged on, by its own record."""
    return not bool(unseen(run, getattr(dictionary, "metadata", {}))[parts.test].all())


def _kind(dictionary: Dictionary) -> str:
    if isinstance(dictionary, PrincipalComponents):
        return "principal components"
    if isinstance(dictionary, RandomDecoder):
        return "random decoder"
    return str(getattr(dictionary, "architecture", type(dictionary).__name__))


def _baselines(
    fit: Float[Tensor, "rows d_model"],
    dictionaries: Mapping[str, Dictionary],
    options: EvaluateOptions,
) -> dict[str, Dictionary]:
    """Principal components and random decoders at the L0 of what they stand beside."""
    sizes = [
        round(float(sparse_codes(one, fit[:CHUNK]).l0().float().mean()))
        for one in dictionaries.values()
    ]
    ks = sorted({min(max(k, 1), fit.shape[1]) for k in sizes})
    if len(ks) > MAX_BASELINES:
        ks = [ks[round(i * (len(ks) - 1) / (MAX_BASELINES - 1))] for i in range(MAX_BASELINES)]
    d_sae = max(len(atoms_of(one)) for one in dictionaries.values())
    generator = torch.Generator().manual_seed(options.seed)
    found: dict[str, Dictionary] = {}
    for k in ks:
        found[f"PCA, k={k}"] = PrincipalComponents(fit, k)
        found[f"random, k={k}"] = RandomDecoder(fit, d_sae, k, generator=generator)
    return found


def _measure(
    run: Run, site: str, dictionary: Dictionary, parts: HeldOut, options: EvaluateOptions
) -> dict[str, object]:
    atoms = atoms_of(dictionary)
    clean, everything = ReconstructionStats(atoms.shape[1]), ReconstructionStats(atoms.shape[1])
    activity = ActivityStats(len(atoms))
    sample: list[Tensor] = []
    for start in range(0, len(parts.test), CHUNK):
        where = parts.test[start : start + CHUNK]
        rows = run.activations[site].gather(where).float()
        codes = sparse_codes(dictionary, rows)
        made = rebuild(dictionary, codes, rows)
        kept = torch.from_numpy(parts.kept[where])
        everything.add(rows, made)
        clean.add(rows[kept], made[kept], parts.source[where][kept.numpy()])
        dense = codes.dense()[kept]
        activity.add(dense)
        if sum(map(len, sample)) < options.n_geometry_rows:
            sample.append(dense)
    found, fires = clean.result(), activity.result()
    return {
        "d_sae": len(atoms),
        "l0": fires.l0,
        "l0_std": fires.l0_std,
        "fvu": found.fvu,
        "fvu_low": found.fvu_low,
        "fvu_high": found.fvu_high,
        "fvu_all": everything.result().fvu,
        "nmse": found.nmse,
        "cosine": found.cosine,
        "norm_ratio": found.norm_ratio,
        "relative_bias": found.relative_bias,
        "n_dead": fires.n_dead,
        "n_frequent": fires.n_frequent,
        "n_dense": fires.n_dense,
        "density_counts": fires.histogram,
        **_geometry(dictionary, atoms, torch.cat(sample)[: options.n_geometry_rows]),
    }


def _geometry(
    dictionary: Dictionary, atoms: Float[Tensor, "latents d_model"], codes: Tensor
) -> dict[str, object]:
    indices, used = supports(codes)
    up_to = min(BABEL_SIZES, len(atoms) - 1)
    w_enc = getattr(dictionary, "W_enc", None)
    whole, together = np.full(BABEL_SIZES, np.nan), np.full(BABEL_SIZES, np.nan)
    whole[:up_to] = babel(atoms, up_to)
    together[:up_to] = coactive_babel(atoms, indices, used, up_to)
    return {
        "max_cosine": float(np.median(max_cosines(atoms))),
        "encoder_cosine": float("nan")
        if w_enc is None
        else float(encoder_decoder_cosines(w_enc.detach().float().cpu(), atoms).mean()),
        "mean_cosine": mean_cosine(atoms),
        "coactive_cosine": coactive_cosine(atoms, indices, used),
        "babel": whole,
        "babel_coactive": together,
        "effective_rank": effective_rank(codes),
    }


def _fidelity(
    run: Run,
    site: str,
    dictionaries: Mapping[str, Dictionary],
    model: Model | None,
    parts: HeldOut,
    options: EvaluateOptions,
    progress: Progress | None,
) -> dict[str, Any]:
    table: FidelityTable | None = None
    if model is not None and options.n_loss_tokens:
        texts = _texts(run, parts, options.n_loss_tokens)
        mean = run.activations[site].gather(parts.fit).float().mean(0)
        table = fidelity(model, site, texts, dictionaries, mean=mean, progress=progress)
    empty = np.full(len(dictionaries), np.nan)

    def column(name: str) -> np.ndarray:
        if table is None:
            return empty
        return np.array([getattr(one, name) for one in table.dictionaries.values()])

    names = (
        "loss", "delta_loss", "delta_low", "delta_high", "kl", "ce_score", "ce_score_mean", "kl_score",
    )  # fmt: skip
    nan = float("nan")
    return {name: column(name) for name in names} | {
        "clean_loss": table.clean_loss if table else nan,
        "zero_loss": table.zero_loss if table else nan,
        "mean_loss": table.mean_loss if table else nan,
        "n_loss_tokens": table.n_tokens if table else 0,
    }


def _texts(run: Run, parts: HeldOut, n_tokens: int) -> Texts:
    """Documents of the measured part, up to a number of tokens."""
    offsets = run.tokens.offsets
    ids, names, total = [], [], 0
    for number in range(run.tokens.n_documents):
        document = run.tokens.document(number).astype(np.int64)
        if len(document) > 1 and int(parts.source[offsets[number]]) in parts.judged:
            ids.append(document)
            names.append(run.tokens.names[number])
            total += len(document)
        if total >= n_tokens:
            break
    return Texts(tuple(ids), tuple(names))
