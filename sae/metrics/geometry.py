"""How a dictionary's atoms lie: interference as a whole and among atoms used together.

A good sparse code needs atoms that do not interfere where they are used together; far apart in use,
they may be close (arXiv 2506.03093 calls this conditional orthogonality). So every measure comes
twice: over the whole dictionary and over atoms that fire together.

Atoms are taken at unit length and all measures are unchanged by the order of latents and by
positive scales. A latent of no length counts as orthogonal to all.

References:
    Babel function: Tropp 2004; arXiv 2506.03093, section on coherence.
    Effective rank: Roy & Vetterli 2007.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.errors import OptionError
from .matching import unit_rows

CHUNK = 1024


def babel(dictionary: Float[Tensor, "latents d_model"], up_to: int) -> Float[np.ndarray, " sizes"]:
    """The Babel function of a dictionary, `mu_1(r)` for r = 1 ... up_to.

    `mu_1(r)` is the largest sum of absolute cosines that r other atoms can have with one atom. The
    first value is the mutual coherence. Memory is one chunk of rows of the Gram matrix.

    Raises:
        OptionError: `up_to` is below 1 or not below the number of atoms.
    """
    n_latents = len(dictionary)
    if not 1 <= up_to < n_latents:
        raise OptionError(f"up_to must be from 1 to {n_latents - 1}, got {up_to}.")
    atoms = unit_rows(dictionary).float()
    worst = torch.zeros(up_to)
    for start in range(0, n_latents, CHUNK):
        cosines = _off_diagonal(atoms, start).abs()
        largest = cosines.topk(up_to, dim=1).values.cumsum(1)
        worst = torch.maximum(worst, largest.amax(0))
    return worst.double().numpy()


def max_cosines(dictionary: Float[Tensor, "latents d_model"]) -> Float[np.ndarray, " latents"]:
    """Each atom's largest cosine with another (signed: near-copies count, opposites do not)."""
    atoms = unit_rows(dictionary).float()
    parts = []
    for start in range(0, len(atoms), CHUNK):
        cosines = _off_diagonal(atoms, start, fill=-2.0)
        parts.append(cosines.amax(1))
    return torch.cat(parts).double().numpy()


def encoder_decoder_cosines(
    w_enc: Float[Tensor, "d_model latents"], w_dec: Float[Tensor, "latents d_model"]
) -> Float[np.ndarray, " latents"]:
    """Cosine of each latent's reading and writing direction."""
    return (unit_rows(w_enc.T) * unit_rows(w_dec)).sum(1).numpy()


def supports(
    codes: Float[Tensor, "rows latents"],
) -> tuple[Int[Tensor, "rows width"], Bool[Tensor, "rows width"]]:
    """Indices of each row's firing latents, padded, and which are no padding."""
    fires = codes != 0
    width = max(int(fires.sum(1).max()) if len(codes) else 0, 1)
    order = fires.to(torch.uint8).topk(width, dim=1)
    return order.indices.cpu(), (order.values > 0).cpu()


def coactive_babel(
    dictionary: Float[Tensor, "latents d_model"],
    indices: Int[Tensor, "rows width"],
    used: Bool[Tensor, "rows width"],
    up_to: int,
) -> Float[np.ndarray, " sizes"]:
    """Mean over rows of the Babel function of the atoms a row uses.

    Args:
        dictionary: All atoms.
        indices: Latents of each row, as `supports` gives them.
        used: Which of them are no padding.
        up_to: Largest size r.

    Returns:
        For r = 1 ... up_to the mean of `mu_1(r)` over rows with more than r latents; NaN where there
        is no such row.
    """
    atoms = unit_rows(dictionary).float()
    totals, counts = torch.zeros(up_to, dtype=torch.float64), torch.zeros(up_to, dtype=torch.int64)
    width = indices.shape[1]
    sizes = torch.arange(1, up_to + 1)
    step = max(2**22 // (width * max(width, atoms.shape[1])), 1)
    for start in range(0, len(indices), step):
        mask = used[start : start + step]
        chosen = atoms[indices[start : start + step]] * mask[..., None]
        cosines = (chosen @ chosen.mT).abs()
        cosines.diagonal(dim1=1, dim2=2).zero_()
        reach = min(up_to, width)
        largest = cosines.topk(reach, dim=2).values.cumsum(2).amax(1)
        if reach < up_to:
            largest = torch.cat([largest, largest[:, -1:].expand(-1, up_to - reach)], dim=1)
        counted = mask.sum(1, keepdim=True) > sizes
        totals += (largest * counted).sum(0, dtype=torch.float64)
        counts += counted.sum(0)
    return torch.where(counts > 0, totals / counts, torch.nan).numpy()


def coactive_cosine(
    dictionary: Float[Tensor, "latents d_model"],
    indices: Int[Tensor, "rows width"],
    used: Bool[Tensor, "rows width"],
) -> float:
    """Mean absolute cosine over pairs of atoms that fire on the same row; NaN if no pair does."""
    atoms = unit_rows(dictionary).float()
    total, n_pairs = 0.0, 0
    width = indices.shape[1]
    step = max(2**22 // (width * max(width, atoms.shape[1])), 1)
    for start in range(0, len(indices), step):
        mask = used[start : start + step]
        chosen = atoms[indices[start : start + step]] * mask[..., None]
        cosines = (chosen @ chosen.mT).abs()
        cosines.diagonal(dim1=1, dim2=2).zero_()
        total += float(cosines.sum(dtype=torch.float64))
        n = mask.sum(1)
        n_pairs += int((n * (n - 1)).sum())
    return total / n_pairs if n_pairs else float("nan")


def mean_cosine(dictionary: Float[Tensor, "latents d_model"]) -> float:
    """Mean absolute cosine over all pairs of atoms: what `coactive_cosine` is compared with."""
    atoms = unit_rows(dictionary).float()
    n = len(atoms)
    total = sum(
        float(_off_diagonal(atoms, start).abs().sum(dtype=torch.float64))
        for start in range(0, n, CHUNK)
    )
    return total / (n * (n - 1)) if n > 1 else float("nan")


def effective_rank(codes: Float[Tensor, "rows latents"]) -> float:
    """Effective rank of co-activation: `exp` of the entropy of normalised eigenvalues of `Z^T Z`.

    Between 1 and the smaller of rows and latents; NaN where nothing fires. The eigenvalues are
    taken from the smaller of the two Gram matrices, so give as many rows as memory allows a square
    of.
    """
    codes = codes.detach().double().cpu()
    codes = codes[:, (codes != 0).any(0)]
    gram = codes @ codes.T if len(codes) < codes.shape[1] else codes.T @ codes
    if not gram.numel():
        return float("nan")
    values = torch.linalg.eigvalsh(gram).clamp(min=0)
    total = values.sum()
    if total == 0:
        return float("nan")
    return float(torch.special.entr(values / total).sum().exp())


def level_cosines(
    dictionary: Float[Tensor, "latents d_model"], levels: Int[np.ndarray, " latents"]
) -> tuple[float, float]:
    """Mean absolute cosine between atoms of one level, and between atoms of different levels.

    Conditional orthogonality (arXiv 2506.03093) asks the second to be 0 and nothing of the first.
    """
    gram = (unit_rows(dictionary) @ unit_rows(dictionary).T).abs().numpy()
    same = levels[:, None] == levels[None, :]
    off = ~np.eye(len(levels), dtype=bool)
    within, across = gram[same & off], gram[~same]
    return (
        float(within.mean()) if within.size else float("nan"),
        float(across.mean()) if across.size else float("nan"),
    )


def gram_errors(
    learned: Float[Tensor, "latents d_model"],
    truth: Float[Tensor, "latents d_model"],
    levels: Int[np.ndarray, " latents"],
) -> tuple[float, float]:
    """Flat and hierarchical error of matched atoms: how learned angles differ from true ones.

    Args:
        learned: Learned atoms, already in the order of the true ones.
        truth: True atoms.
        levels: Level of each true atom.

    Returns:
        Mean of `(G - G_true)^2` over pairs of one level, and over pairs of different levels. The
        paper names the idea; the normaliser (a mean over pairs) is ours.
    """
    difference = (unit_rows(learned) @ unit_rows(learned).T).numpy()
    difference = np.square(difference - (unit_rows(truth) @ unit_rows(truth).T).numpy())
    same = levels[:, None] == levels[None, :]
    off = ~np.eye(len(levels), dtype=bool)
    return float(difference[same & off].mean()), float(difference[~same].mean())


def _off_diagonal(
    atoms: Float[Tensor, "latents d_model"], start: int, *, fill: float = 0.0
) -> Float[Tensor, "chunk latents"]:
    """Rows of the Gram matrix from `start` on, the diagonal replaced."""
    rows = atoms[start : start + CHUNK]
    cosines = rows @ atoms.T
    at = torch.arange(len(rows))
    cosines[at, start + at] = fill
    return cosines
