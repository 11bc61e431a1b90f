"""The eigenproblem with one side whitened: designs whose covariances are exact, then peers."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from fluoroscope.probes.errors import TooFewTokensError
from fluoroscope.probes.information.alignment import fit_canonical
from fluoroscope.probes.information.one_sided import (
    fit_one_sided,
    principal_scores,
    span_overlap,
)


def exact_design(n: int, columns: int, *, seed: int = 0) -> torch.Tensor:
    """Columns of mean 0, variance 1 and no covariance, exactly."""
    drawn = torch.randn(n, columns, generator=torch.Generator().manual_seed(seed)).double()
    return torch.linalg.qr(drawn - drawn.mean(0)).Q * n**0.5


GAINS, NOISE, SPREAD = torch.tensor([3.0, 1.0]), torch.tensor([6.0, 0.1]), torch.tensor([0.5, 20.0])


def planted(n: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """h_i = spread_i z_i and g_i = gain_i z_i + noise_i e_i with exact covariances."""
    z, e = exact_design(n, 4).split(2, dim=1)
    return SPREAD.double() * z, GAINS.double() * z + NOISE.double() * e


def test_eigenvalues_are_the_variances_explained() -> None:
    """Var g = gain^2 + noise^2 and Cov(z_i, g) = gain_i, so that l_i = gain_i^2 whatever h's spread."""
    left, right = planted()
    found = fit_one_sided(left, right, n_directions=2, ridge=0.0)
    torch.testing.assert_close(found.eigenvalues, torch.tensor([9.0, 1.0]).double())
    assert found.total == pytest.approx(9 + 36 + 1 + 0.01)
    torch.testing.assert_close(found.shares, torch.tensor([9.0, 1.0]).double() / 46.01)
    along = torch.tensor([[1 / 0.5, 0.0], [0.0, 1 / 20.0]]).double()
    torch.testing.assert_close(found.directions.abs(), along, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(
        found.loadings.abs(), torch.diag(GAINS).double(), atol=1e-9, rtol=1e-9
    )
    curve = found.explained(left, right)
    torch.testing.assert_close(curve, torch.tensor([9.0, 10.0]).double() / 46.01)


def test_the_order_is_not_that_of_correlations() -> None:
    """CCA: r = gain / sqrt(gain^2 + noise^2) is 0.447 and 0.995, the other way round."""
    left, right = planted()
    both = fit_canonical(left, right, n_directions=2, ridge=0.0)
    torch.testing.assert_close(
        both.correlations(left, right), torch.tensor([1 / 1.01**0.5, 3 / 45**0.5]).double()
    )
    one = fit_one_sided(left, right, n_directions=1, ridge=0.0)
    assert span_overlap(one.scores(left), left[:, :1]) == pytest.approx(1)
    assert span_overlap((left - both.left_mean) @ both.left[:, :1], left[:, 1:]) == pytest.approx(1)


@given(seed=st.integers(0, 1000), columns=st.integers(1, 6), others=st.integers(1, 6))
def test_it_is_the_generalised_eigenproblem_and_the_regression_of_least_rank(
    seed: int, columns: int, others: int
) -> None:
    """Peers: scipy's eigh of (C_hg C_gh, S_h); scikit-learn's PCA of fitted values."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(60, columns, generator=generator).double()
    right = left @ torch.randn(columns, others, generator=generator).double()
    right = right + torch.randn(60, others, generator=generator).double()
    kept = min(columns, others)
    found = fit_one_sided(left, right, n_directions=kept, ridge=0.0)
    x, y = (left - left.mean(0)).numpy(), (right - right.mean(0)).numpy()
    across = x.T @ y / 60
    values = scipy.linalg.eigh(across @ across.T, x.T @ x / 60, eigvals_only=True)[::-1][:kept]
    np.testing.assert_allclose(found.eigenvalues, values, rtol=1e-7, atol=1e-9)
    fitted = LinearRegression().fit(x, y).predict(x)
    principal = PCA(kept).fit(fitted)
    np.testing.assert_allclose(
        found.eigenvalues, principal.explained_variance_ * 59 / 60, rtol=1e-7, atol=1e-9
    )
    rank_one = principal.transform(fitted)[:, :1] @ principal.components_[:1]
    expected = 1 - np.square(y - rank_one).sum() / np.square(y).sum()
    assert float(found.explained(left, right)[0]) == pytest.approx(expected, abs=1e-8)
    # Any other coordinates of h: the same; g turned and stretched: the same shares.
    mix = torch.randn(columns, columns, generator=generator).double() + 3 * torch.eye(columns)
    turn = torch.linalg.qr(torch.randn(others, others, generator=generator).double()).Q
    again = fit_one_sided(left @ mix + 5, 7 * right @ turn - 2, n_directions=kept, ridge=0.0)
    torch.testing.assert_close(again.shares, found.shares, rtol=1e-6, atol=1e-9)


def test_with_the_other_side_white_it_is_the_square_of_cca() -> None:
    left, right = planted()
    left = left + right.flip(1)  # correlations that are neither 0 nor 1
    white = right / right.std(0, unbiased=False)
    one = fit_one_sided(left, white, n_directions=2, ridge=0.0)
    both = fit_canonical(left, white, n_directions=2, ridge=0.0)
    torch.testing.assert_close(one.eigenvalues, both.correlations(left, white).square())


def test_fresh_rows_tell_overfitting_from_what_is_there(seed: int) -> None:
    """Noise alone: the fit claims about 30 / 100 of the variance, fresh rows less than nothing.

    Standard error of the share on 2,000 fresh rows of 5 columns is below 0.01; p < 1e-4.
    """
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(2100, 30, generator=generator).double()
    right = torch.randn(2100, 5, generator=generator).double()
    found = fit_one_sided(left[:100], right[:100], n_directions=5)
    assert float(found.shares.sum()) > 0.15
    assert float(found.explained(left[100:], right[100:])[-1]) < -0.05
    signal = left[:, :5] + right
    true = fit_one_sided(left[:1000], signal[:1000], n_directions=5)
    inside = true.explained(left[1000:], signal[1000:])
    # Truth 1/2; 30 columns over 1,000 rows cost 0.015, and the standard error is about 0.01.
    assert float(inside[-1]) == pytest.approx(0.5, abs=0.06)
    order = torch.randperm(1100, generator=generator)
    assert float(true.explained(left[1000:], signal[1000:], order)[-1]) < -0.3


def test_overlaps_with_the_states_own_spectrum() -> None:
    left, right = planted()
    top = principal_scores(left, left, 1)
    assert span_overlap(top, left[:, 1:]) == pytest.approx(1), "the direction of greatest spread"
    one = fit_one_sided(left, right, n_directions=1, ridge=0.0)
    assert span_overlap(one.scores(left), top) == pytest.approx(0, abs=1e-12)
    white = exact_design(600, 40)
    turn = torch.linalg.qr(
        torch.randn(40, 40, generator=torch.Generator().manual_seed(3))
    ).Q.double()
    # Mean 10 / 40; the standard deviation of the overlap of random planes is about 0.03: five of them.
    assert span_overlap((white @ turn)[:, :10], white[:, :10]) == pytest.approx(0.25, abs=0.15)


def test_too_few_rows_are_refused() -> None:
    left, right = planted()
    with pytest.raises(TooFewTokensError, match="at least 4 tokens to fit on, got 3"):
        fit_one_sided(left[:3], right[:3], n_directions=1)
    assert fit_one_sided(left, right[:, :1], n_directions=2).eigenvalues.shape == (1,)
