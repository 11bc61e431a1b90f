"""What a bridge between subjects must beat: maps that are linear, fitted in closed form.

Relative representations (arXiv 2209.15430) describe an item by its cosines to anchors, items that every
subject answered, so that a decoder fitted on some subjects reads another without ever seeing what its
items mean. Deviation: signals are standardised per unit before the cosines, without which a few large
units own them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import svd
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from torch import Tensor
from torch.nn import functional as F

from .bridge import aggregate
from .common_space import fit_common_space
from .data import Subject

PENALTIES = tuple(10.0**k for k in range(7))
"""Ridge penalties, of which leave-one-out error chooses one."""
PENALTIES_SCALED = tuple(10.0**k for k in range(-3, 5))
"""The same for cosines and scores, which are smaller than standardised signals."""


def ridge(
    train: Float[Tensor, "items width"],
    targets: Float[Tensor, "items d"],
    test: Float[Tensor, "test_items width"],
) -> Float[Tensor, "test_items d"]:
    """Ridge regression with the penalty chosen by leave-one-out: one subject's own decoder."""
    fitted = RidgeCV(alphas=PENALTIES).fit(train.double().numpy(), targets.double().numpy())
    return torch.from_numpy(fitted.predict(test.double().numpy())).float()


def shared_linear(subjects: Sequence[Subject], width: int) -> dict[str, Float[Tensor, "items d"]]:
    """One ridge for all subjects, their signals cut and padded to one width.

    Args:
        subjects: Whose items are put together.
        width: The width.

    Returns:
        Predictions for every subject's test signals.
    """
    train = torch.cat([aggregate(subject.train, "pad", width) for subject in subjects])
    targets = torch.cat([subject.train_targets for subject in subjects])
    fitted = RidgeCV(alphas=PENALTIES).fit(train.double().numpy(), targets.double().numpy())
    return {
        subject.name: torch.from_numpy(
            fitted.predict(aggregate(subject.test, "pad", width).double().numpy())
        ).float()
        for subject in subjects
    }


def canonical(
    train: Float[Tensor, "items width"],
    targets: Float[Tensor, "items d"],
    test: Float[Tensor, "test_items width"],
    *,
    n_components: int = 16,
    n_principal: int = 64,
) -> Float[Tensor, "test_items d"]:
    """Canonical correlation analysis between signals and targets, after principal components.

    Args:
        train: Signals.
        targets: What they mean.
        test: Held-out signals.
        n_components: Pairs of canonical directions.
        n_principal: Principal components of the signals that enter; more overfit.
    """
    n_principal = min(n_principal, *train.shape)
    principal = PCA(n_principal, random_state=0).fit(train.numpy())
    n_components = min(n_components, n_principal, targets.shape[1], len(train) - 1)
    fitted = CCA(n_components, max_iter=2000)
    fitted.fit(principal.transform(train.numpy()), targets.numpy())
    predicted = fitted.predict(principal.transform(test.numpy()))
    return torch.from_numpy(np.asarray(predicted)).float()


def generalised(
    subjects: Sequence[Subject], *, n_components: int = 64, n_principal: int = 64
) -> dict[str, Float[Tensor, "items d"]]:
    """Generalised CCA of all subjects and the meanings, then one ridge from the common space.

    Args:
        subjects: Whose signals are views; the meanings are one more, which all items have.
        n_components: Directions of the common space.
        n_principal: Principal components of each subject's signals that enter.

    Returns:
        Predictions for every subject's test signals.
    """
    targets = torch.cat([subject.train_targets for subject in subjects])
    principal = [_principal(subject.train, n_principal) for subject in subjects]
    views = [part(subject.train) for part, subject in zip(principal, subjects, strict=True)]
    rows = list(torch.arange(len(targets)).split([len(view) for view in views]))
    space = fit_common_space(
        [*views, targets], [*rows, torch.arange(len(targets))], n_components=n_components
    )
    scores = torch.cat([space.project(number, view) for number, view in enumerate(views)])
    fitted = RidgeCV(alphas=PENALTIES_SCALED).fit(_scaled(scores), targets.double().numpy())
    return {
        subject.name: torch.from_numpy(
            fitted.predict(_scaled(space.project(number, part(subject.test)), like=scores))
        ).float()
        for number, (part, subject) in enumerate(zip(principal, subjects, strict=True))
    }


def relative(
    signals: Float[Tensor, "items width"], anchors: Float[Tensor, "anchors width"]
) -> Float[Tensor, "items anchors"]:
    """Cosine of every signal with every anchor."""
    return F.normalize(signals, dim=1) @ F.normalize(anchors, dim=1).T


def relative_ridge(
    learning: Sequence[Subject], reading: Sequence[Subject]
) -> dict[str, Float[Tensor, "items d"]]:
    """One ridge on relative representations, fitted on some subjects and reading others.

    Args:
        learning: Subjects whose items' meanings are used.
        reading: Subjects whose test signals are read; they may be others, unseen so far.

    Raises:
        OptionError: A subject has no anchors.
    """
    train = torch.cat([relative(one.train, one.anchored()) for one in learning])
    targets = torch.cat([one.train_targets for one in learning])
    fitted = RidgeCV(alphas=PENALTIES_SCALED).fit(train.double().numpy(), targets.double().numpy())
    return {
        one.name: torch.from_numpy(
            fitted.predict(relative(one.test, one.anchored()).double().numpy())
        ).float()
        for one in reading
    }


def paired_common_space(
    train: Sequence[Float[Tensor, "items _"]],
    test: Sequence[Float[Tensor, "test_items _"]],
    wanted: Float[Tensor, "items pooled"],
) -> list[Float[Tensor, "test_items pooled"]]:
    """One subject's signals from every subject's, by generalised CCA of items that all answered.

    Args:
        train: Every subject's signals of the same items.
        test: Every subject's signals of other items.
        wanted: Signals of the subject to build, of the first items.

    Returns:
        What is built from each subject's test signals.
    """
    principal = [_principal(part, max(len(wanted) // 4, 1)) for part in train]
    views = [part(rows) for part, rows in zip(principal, train, strict=True)]
    every = [torch.arange(len(wanted))] * len(views)
    space = fit_common_space(views, every, n_components=len(wanted))
    mean = torch.stack([space.project(number, view) for number, view in enumerate(views)]).mean(0)
    fitted = RidgeCV(alphas=PENALTIES_SCALED).fit(_scaled(mean), wanted.double().numpy())
    return [
        torch.from_numpy(fitted.predict(_scaled(space.project(n, part(rows)), like=mean))).float()
        for n, (part, rows) in enumerate(zip(principal, test, strict=True))
    ]


def _principal(
    rows: Float[Tensor, "items width"], n: int
) -> Callable[[Float[Tensor, "others width"]], Float[Tensor, "others n"]]:
    """The map to leading principal components of some rows."""
    fitted = PCA(min(n, *rows.shape), random_state=0).fit(rows.numpy())
    return lambda others: torch.from_numpy(np.asarray(fitted.transform(others.numpy())))


def _scaled(scores: Tensor, like: Tensor | None = None) -> np.ndarray:
    """Scores at unit mean square of those fitted on, so that penalties mean the same for all."""
    scale = (scores if like is None else like).square().mean().sqrt().clamp_min(1e-30)
    return (scores / scale).numpy()


def procrustes(
    train: Float[Tensor, "items width"],
    others: Float[Tensor, "items other"],
    test: Float[Tensor, "test_items width"],
) -> Float[Tensor, "test_items other"]:
    """The best rotation from one subject's signals to another's, both padded to one width.

    With fewer items than units only the span of the items is turned; what stands outside it, where any
    rotation would be as good, is dropped. (The full cross-covariance is then singular, which LAPACK's
    divide-and-conquer may not survive.)

    Args:
        train: The source's signals of items that both have.
        others: The target's signals of the same items.
        test: Held-out signals of the source.
    """
    width = max(train.shape[1], others.shape[1])
    padded = [aggregate(part, "pad", width).double().numpy() for part in (train, others, test)]
    (basis, own), (other_basis, other) = (np.linalg.qr(part.T) for part in padded[:2])
    left, _, right = svd(own @ other.T, lapack_driver="gesvd")
    rotation = basis @ left @ right @ other_basis.T
    scale = (padded[1] * (padded[0] @ rotation)).sum() / max(np.square(padded[0]).sum(), 1e-30)
    return torch.from_numpy(scale * padded[2] @ rotation)[:, : others.shape[1]].float()
