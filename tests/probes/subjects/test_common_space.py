"""Generalised CCA: two views are ordinary CCA, missing items do not enter, maps undo bases."""

import numpy as np
import pytest
import torch
from sklearn.cross_decomposition import CCA

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.subjects import VoxelOptions, voxel_subjects
from fluoroscope.probes.subjects.baselines import (
    generalised,
    paired_common_space,
    relative,
    relative_ridge,
)
from fluoroscope.probes.subjects.common_space import fit_common_space
from fluoroscope.probes.subjects.metrics import explained, two_way


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def views(n: int, *widths: int, noise: float = 0.3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    cause = normal(n, 3)
    return cause, [
        cause @ normal(3, width, seed=width) + noise * normal(n, width, seed=width + 50)
        for width in widths
    ]


def test_two_complete_views_agree_by_their_canonical_correlations() -> None:
    _, (one, other) = views(200, 6, 4)
    every = [torch.arange(200)] * 2
    space = fit_common_space([one, other], every, n_components=4, ridge=0)
    x, y = CCA(4, max_iter=5000, tol=1e-12).fit_transform(one.numpy(), other.numpy())
    exact = [np.corrcoef(x[:, k], y[:, k])[0, 1] for k in range(4)]
    np.testing.assert_allclose(space.agreement, (1 + np.array(exact)) / 2, atol=1e-6)
    torch.testing.assert_close(2 * space.scores.T @ space.scores, torch.eye(4).double())
    # Both views' own scores are the canonical variates, up to scale.
    found = torch.corrcoef(
        torch.stack([space.project(k, v)[:, 0] for k, v in ((0, one), (1, other))])
    )
    assert float(found[0, 1]) == pytest.approx(exact[0], abs=1e-6)


def test_the_solution_is_no_worse_than_any_other_scores(seed: int) -> None:
    _, three = views(60, 5, 4, 3)
    rows = [torch.arange(40), torch.arange(20, 60), torch.arange(60)]
    held = [view[own] for view, own in zip(three, rows, strict=True)]
    space = fit_common_space(held, rows, n_components=2, ridge=1e-9)
    counts = torch.bincount(torch.cat(rows)).double()

    def loss(scores: torch.Tensor) -> float:
        total = 0.0
        for view, own in zip(held, rows, strict=True):
            centred = view - view.mean(0)
            fitted = centred @ torch.linalg.lstsq(centred, scores[own]).solution
            total += float((scores[own] - fitted).square().sum())
        return total

    best = loss(space.scores)
    torch.testing.assert_close(
        space.scores.T @ (counts[:, None] * space.scores), torch.eye(2).double()
    )
    assert best == pytest.approx(2 - float(space.agreement.sum()), abs=1e-6)
    other = torch.linalg.qr(normal(60, 2, seed=seed) * counts[:, None].sqrt()).Q
    assert best < loss(other / counts[:, None].sqrt())
    near = space.scores + 0.05 * normal(60, 2, seed=seed) / 60**0.5
    near = torch.linalg.qr(near * counts[:, None].sqrt()).Q / counts[:, None].sqrt()
    assert best < loss(near)


def test_a_basis_of_a_view_changes_nothing() -> None:
    _, (one, other) = views(80, 5, 4)
    every = [torch.arange(80)] * 2
    turned = one @ torch.linalg.qr(normal(5, 5, seed=9)).Q
    plain = fit_common_space([one, other], every, n_components=3)
    again = fit_common_space([turned, other], every, n_components=3)
    torch.testing.assert_close(plain.agreement, again.agreement)
    torch.testing.assert_close(plain.project(0, one).abs(), again.project(0, turned).abs())


def test_impossible_views_are_refused() -> None:
    view = normal(10, 2)
    with pytest.raises(OptionError, match="at least two views, got 1"):
        fit_common_space([view], [torch.arange(10)], n_components=1)
    gap = torch.tensor([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    with pytest.raises(OptionError, match="got none for 1"):
        fit_common_space([view, view], [gap, gap], n_components=1)


def test_subjects_meet_in_the_meaning_and_in_their_anchors() -> None:
    """Disjoint items: the common space and the cosines read held-out items far above chance."""
    subjects = voxel_subjects(
        VoxelOptions(
            widths=(90, 70, 60), n_train=200, n_test=60, d_cause=8, d_semantic=8, noise=0.3
        )
    )
    for found in (generalised(subjects), relative_ridge(subjects, subjects)):
        for subject in subjects:
            assert two_way(found[subject.name], subject.test_targets).mean() > 0.9
    # The newcomer's meanings are not used; 0.5 would be chance, with a standard deviation under 0.065.
    unseen = relative_ridge(subjects[:2], subjects[2:])
    assert list(unseen) == ["subject 3"]
    assert two_way(unseen["subject 3"], subjects[2].test_targets).mean() > 0.7


def test_relative_representations_do_not_care_for_a_rotation() -> None:
    signals, anchors = normal(20, 6), normal(9, 6, seed=1)
    turn = torch.linalg.qr(normal(6, 6, seed=2)).Q
    torch.testing.assert_close(
        relative(signals, anchors), relative(3 * signals @ turn, anchors @ turn)
    )
    assert relative(anchors, anchors).diagonal().min() == pytest.approx(1)


def test_one_subjects_signals_are_built_from_anothers() -> None:
    cause = normal(120, 3).float()
    held = [cause @ normal(3, width, seed=width).float() for width in (8, 6, 5)]
    built = paired_common_space(
        [part[:80] for part in held], [part[80:] for part in held], held[2][:80]
    )
    for found in built:
        assert explained(found, held[2][80:]) > 0.98
    mixed = [held[0][:80].roll(1, 0), *(part[:80] for part in held[1:])]
    wrong = paired_common_space(mixed, [part[80:] for part in held], held[2][:80])
    assert explained(wrong[0], held[2][80:]) < 0.3, "pairs are what it learns from"


def test_subjects_without_anchors_cannot_be_compared_with_them() -> None:
    subjects = voxel_subjects(VoxelOptions(widths=(30, 20), n_train=40, n_test=8, n_anchors=0))
    with pytest.raises(OptionError, match="subject 1 has no anchors"):
        relative_ridge(subjects, subjects)
