"""Which atoms of two dictionaries belong together: one-to-one matching by the largest total cosine.

Used against a known truth (mean correlation coefficient, precision and recall of matched latents)
and between two trainings that differ in their seed (stability). Signs do not count where codes may
be signed; with non-negative codes an atom and its opposite are different features.

References:
    Hungarian matching for dictionaries: arXiv 2506.03093 (section on synthetic data).
    Seed stability: arXiv 2501.16615.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ...probes.errors import OptionError


@dataclass(frozen=True)
class Matching:
    """A one-to-one matching of atoms."""

    rows: Int[np.ndarray, " pairs"]
    """Atoms of the first dictionary, ascending."""
    columns: Int[np.ndarray, " pairs"]
    """Their partners in the second."""
    cosines: Float[np.ndarray, " pairs"]
    """Cosine of each pair (absolute where matched without sign)."""

    @property
    def mean_cosine(self) -> float:
        """Mean cosine of matched pairs: the mean correlation coefficient of dictionaries."""
        return float(self.cosines.mean())


def unit_rows(dictionary: Float[Tensor, "latents d_model"]) -> Float[Tensor, "latents d_model"]:
    """Atoms at unit length, in float64 on the CPU; atoms of no length stay zero."""
    dictionary = dictionary.detach().double().cpu()
    return dictionary / dictionary.norm(dim=1, keepdim=True).clamp(min=1e-12)


def match(
    first: Float[Tensor, "latents d_model"],
    second: Float[Tensor, "others d_model"],
    *,
    signed: bool = True,
) -> Matching:
    """Match atoms of two dictionaries so that the sum of cosines is largest.

    Args:
        first: Atoms as rows; with the truth here, `columns` says which latent learned it.
        second: Atoms as rows, possibly of another number.
        signed: Whether an opposite direction counts as different.

    Raises:
        OptionError: The dictionaries live in spaces of different width.
    """
    if first.shape[1] != second.shape[1]:
        raise OptionError(
            f"Dictionaries must have equal width, got {first.shape[1]} and {second.shape[1]}."
        )
    cosines = (unit_rows(first) @ unit_rows(second).T).numpy()
    if not signed:
        cosines = np.abs(cosines)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    return Matching(rows, columns, cosines[rows, columns])


@dataclass(frozen=True, kw_only=True)
class Stability:
    """How far two trainings agree."""

    mean_cosine: float
    """Mean over matched pairs."""
    shared: float
    """Share of matched pairs whose cosine is at least 0.7 (the threshold of arXiv 2501.16615)."""
    weighted_cosine: float
    """Mean weighted by how often the first's latents fire; equals `mean_cosine` without densities."""


SHARED_COSINE = 0.7


def seed_stability(
    first: Float[Tensor, "latents d_model"],
    second: Float[Tensor, "others d_model"],
    density: Float[np.ndarray, " latents"] | None = None,
) -> Stability:
    """Agreement of two dictionaries trained on the same data from different seeds.

    Args:
        first: Decoder of one.
        second: Decoder of the other.
        density: How often the first's latents fire, as weights.
    """
    matched = match(first, second)
    weights = np.ones(len(matched.rows)) if density is None else density[matched.rows]
    total = weights.sum()
    return Stability(
        mean_cosine=matched.mean_cosine,
        shared=float((matched.cosines >= SHARED_COSINE).mean()),
        weighted_cosine=float(matched.cosines @ weights / total) if total else float("nan"),
    )


@dataclass(frozen=True, kw_only=True)
class Detection:
    """How well matched latents say when true features are there, means over features."""

    precision: float
    recall: float
    f1: float


def detection(
    codes: Float[Tensor, "rows latents"],
    truth: Float[Tensor, "rows features"],
    matched: Matching,
) -> Detection:
    """Precision, recall and F1 of matched latents as detectors of true features.

    Args:
        codes: What the dictionary says.
        truth: True coefficients; a feature is there where they are not 0.
        matched: From `match(true_dictionary, learned_dictionary)`.
    """
    says = codes[:, torch.from_numpy(matched.columns)] != 0
    is_there = truth[:, torch.from_numpy(matched.rows)] != 0
    both = (says & is_there).sum(0).double()
    precision = both / says.sum(0).clamp(min=1)
    recall = both / is_there.sum(0).clamp(min=1)
    f1 = 2 * both / (says.sum(0) + is_there.sum(0)).clamp(min=1)
    return Detection(
        precision=float(precision.mean()), recall=float(recall.mean()), f1=float(f1.mean())
    )
