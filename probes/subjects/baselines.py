"""What a bridge between subjects must beat: maps that are linear, fitted in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import orthogonal_procrustes
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import RidgeCV
from torch import Tensor

from .bridge import aggregate
from .data import Subject

PENALTIES = tuple(10.0**k for k in range(7))
"""Ridge penalties, of which leave-one-out error chooses one."""


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


def procrustes(
    train: Float[Tensor, "items width"],
    others: Float[Tensor, "items other"],
    test: Float[Tensor, "test_items width"],
) -> Float[Tensor, "test_items other"]:
    """The best rotation from one subject's signals to another's, both padded to one width.

    Args:
        train: The source's signals of items that both have.
        others: The target's signals of the same items.
        test: Held-out signals of the source.
    """
    width = max(train.shape[1], others.shape[1])
    padded = [aggregate(part, "pad", width).double().numpy() for part in (train, others, test)]
    rotation, _ = orthogonal_procrustes(padded[0], padded[1])
    scale = (padded[1] * (padded[0] @ rotation)).sum() / max(np.square(padded[0]).sum(), 1e-30)
    return torch.from_numpy(scale * padded[2] @ rotation)[:, : others.shape[1]].float()
