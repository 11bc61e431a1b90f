from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae.metrics import ActivityStats, ReconstructionStats, fvu


def rows(n: int = 60, d: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) * 3 + 7


def test_predicting_the_mean_leaves_all_variance_and_the_rows_themselves_none() -> None:
    x = rows()
    assert fvu(x, x.mean(0).expand_as(x)) == pytest.approx(1.0, abs=1e-6)
    assert fvu(x, x.clone()) == 0.0


def test_fvu_is_what_sklearn_says_weighted_by_variance() -> None:
    x, x_hat = rows(), rows() + 0.7 * rows(seed=1)
    theirs = r2_score(x.double(), x_hat.double(), multioutput="variance_weighted")
    assert 1 - fvu(x, x_hat) == pytest.approx(theirs, rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 60), max_size=6), st.floats(-1e4, 1e4))
def test_chunks_and_constants_change_nothing(cuts: list[int], constant: float) -> None:
    x, x_hat = rows().double(), rows().double() + rows(seed=1).double()
    bounds = [0, *sorted(cuts), len(x)]
    stats = ReconstructionStats(x.shape[1])
    for start, stop in pairwise(bounds):
        stats.add(x[start:stop] + constant, x_hat[start:stop] + constant)
    assert stats.result().fvu == pytest.approx(fvu(x, x_hat), rel=1e-6)


def test_a_constant_error_is_not_forgiven() -> None:
    x = rows()
    assert fvu(x, x + 3.0) > 0.5


def test_shrinkage_bias_and_cosine_of_a_shortened_copy() -> None:
    stats = ReconstructionStats(5)
    stats.add(rows(), 0.8 * rows())
    found = stats.result()
    assert found.norm_ratio == pytest.approx(0.8)
    assert found.relative_bias == pytest.approx(0.8)
    assert found.cosine == pytest.approx(1.0)
    assert found.nmse == pytest.approx(0.04)


def test_interval_resamples_documents() -> None:
    x, documents = rows(200), np.repeat(np.arange(20), 10)
    noise = rows(200, seed=3) - 7
    noise[documents < 10] *= 0.01
    stats = ReconstructionStats(5)
    stats.add(x[:90], (x + noise)[:90], documents[:90])
    stats.add(x[90:], (x + noise)[90:], documents[90:])
    found = stats.result()
    assert found.fvu_low < found.fvu < found.fvu_high
    direct = [
        fvu(x[keep], (x + noise)[keep])
        for keep in (
            np.concatenate([np.flatnonzero(documents == d) for d in drawn])
            for drawn in np.random.default_rng(0).integers(20, size=(1000, 20))
        )
    ]
    expected = np.quantile(direct, [0.025, 0.975])
    np.testing.assert_allclose([found.fvu_low, found.fvu_high], expected, rtol=1e-6)


def test_no_rows_and_wrong_width_are_refused() -> None:
    stats = ReconstructionStats(5)
    with pytest.raises(OptionError, match="at least 2 rows, got 0"):
        stats.result()
    with pytest.raises(OptionError, match="5 wide, got 4"):
        stats.add(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(OptionError, match="at least 1 row"):
        ActivityStats(3).result()


def test_activity_by_hand() -> None:
    codes = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 3.0], [0.0, 1.0, 5.0], [0.0, 0.0, 0.0]])
    stats = ActivityStats(3)
    stats.add(codes[:1])
    stats.add(codes[1:])
    found = stats.result()
    assert (found.l0, found.n_dead, found.n_dense) == (5 / 4, 1, 2)
    assert found.l0_std == pytest.approx(np.std([2, 1, 2, 0]))
    np.testing.assert_allclose(found.density, [0, 0.5, 0.75])
    np.testing.assert_allclose(found.maximum, [0, 2, 5])
    np.testing.assert_allclose(found.mean_active, [0, 1.5, 3])
    assert found.histogram.sum() == 2


def test_order_of_latents_only_permutes() -> None:
    codes = torch.relu(rows(d=8) - 7)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    one, other = ActivityStats(8), ActivityStats(8)
    one.add(codes)
    other.add(codes[:, order])
    np.testing.assert_array_equal(one.result().density[order.numpy()], other.result().density)
    assert one.result().l0 == other.result().l0
