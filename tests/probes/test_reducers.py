"""Reducers: any split and merge of the same rows gives numpy's answer on all of them."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.reducers import Histogram, Moments, Norms, RunningMax

splits = st.lists(st.integers(0, 40), max_size=5)


def rows_of(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40, 6, generator=generator) * 10 + 3


def fed(make, rows: torch.Tensor, cuts: list[int]):
    """A reducer fed in pieces, the second half through a merge."""
    first, second = make(), make()
    half = len(rows) // 2
    for target, part in ((first, rows[:half]), (second, rows[half:])):
        edges = sorted({0, len(part), *(min(cut, len(part)) for cut in cuts)})
        for start, stop in pairwise(edges):
            target.update(part[start:stop])
    first.merge(second)
    return first


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), splits)
def test_moments_equal_numpy(seed: int, cuts: list[int]) -> None:
    rows = rows_of(seed)
    moments = fed(Moments, rows, cuts)
    array = rows.double().numpy()
    np.testing.assert_allclose(moments.mean, array.mean(0), rtol=1e-10)
    np.testing.assert_allclose(moments.covariance, np.cov(array.T, bias=True), rtol=1e-8, atol=1e-9)
    diagonal = fed(lambda: Moments(covariance=False), rows, cuts)
    np.testing.assert_allclose(diagonal.variance, array.var(0), rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), splits)
def test_running_max_finds_value_row_and_channel(seed: int, cuts: list[int]) -> None:
    rows = rows_of(seed)
    top = fed(lambda: RunningMax(3), rows, cuts)
    order = np.argsort(-rows.abs().numpy().ravel(), kind="stable")[:3]
    assert top.values.tolist() == rows.flatten()[order.copy()].tolist()
    assert top.rows.tolist() == (order // 6).tolist()
    assert top.channels.tolist() == (order % 6).tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), splits)
def test_norms_and_histograms_do_not_depend_on_the_split(seed: int, cuts: list[int]) -> None:
    rows = rows_of(seed)
    rows[3, 2] = 0
    norms = fed(Norms, rows, cuts)
    expected = np.linalg.norm(rows.double().numpy(), axis=1)
    np.testing.assert_allclose(
        [norms.mean, norms.std, norms.largest, norms.smallest],
        [expected.mean(), expected.std(), expected.max(), expected.min()],
        rtol=1e-9,
    )
    histogram = fed(Histogram, rows, cuts)
    assert histogram.n_zeros == 1
    assert int(histogram.counts.sum()) == rows.numel() - 1
    sizes = np.abs(rows.double().numpy().ravel())
    counts, _ = np.histogram(sizes[sizes > 0], bins=histogram.edges.numpy())
    assert histogram.counts.tolist() == counts.tolist()


def test_impossible_reducers_are_refused() -> None:
    with pytest.raises(OptionError, match="k must be at least 1"):
        RunningMax(0)
    with pytest.raises(OptionError, match="seen no rows"):
        _ = Moments().mean
    with pytest.raises(OptionError, match="covariance=False"):
        moments = Moments(covariance=False)
        moments.update(torch.ones(2, 2))
        _ = moments.covariance
    with pytest.raises(OptionError, match="same bins"):
        Histogram().merge(Histogram(n_bins=3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), splits)
def test_ties_go_to_the_earliest_row_whatever_the_split(seed: int, cuts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-2, 3, (40, 6), generator=generator).float()
    top = fed(lambda: RunningMax(5), rows, cuts)
    order = np.argsort(-rows.abs().numpy().ravel(), kind="stable")[:5]
    assert top.rows.tolist() == (order // 6).tolist()
    assert top.channels.tolist() == (order % 6).tolist()


@pytest.mark.parametrize("full", [True, False])
def test_moments_that_keep_different_things_are_not_merged(full: bool) -> None:
    left, right = Moments(covariance=full), Moments(covariance=not full)
    left.update(rows_of(0))
    with pytest.raises(OptionError, match=r"must keep the same.*same `covariance`"):
        left.merge(right)
    right.update(rows_of(1))
    before = left.variance.clone()
    with pytest.raises(OptionError, match="must keep the same"):
        left.merge(right)
    assert torch.equal(left.variance, before)
    assert left.n_rows == 40
