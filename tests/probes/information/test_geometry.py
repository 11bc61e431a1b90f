"""The pulled-back metric and the likeness of contexts: identities, limits, invariances."""

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, wrap_model
from fluoroscope.probes.errors import TooFewTokensError
from fluoroscope.probes.information.alignment import (
    bhattacharyya_kernel,
    dirichlet_energy,
    fit_canonical,
    hellinger_kernel,
    jensen_shannon_kernel,
    linear_cka,
    linear_kernel,
    operator_spectrum,
    permutation_null,
    subspace_overlap,
)
from fluoroscope.probes.information.divergences import jensen_shannon, squared_hellinger
from fluoroscope.probes.information.head_geometry import (
    PopulationMetric,
    before_norm,
    effective_rank,
    metric_at,
    participation,
)
from tests.families import tiny_module


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def model(request: pytest.FixtureRequest) -> Model:
    module = tiny_module(request.param).requires_grad_(False)
    head = module.get_output_embeddings()
    assert head is not None
    with torch.no_grad():
        head.weight.mul_(30)  # predictions that are not flat
    return wrap_model(module.double(), name=request.param, check=False)


def state(model: Model, seed: int = 0) -> torch.Tensor:
    return torch.randn(model.d_model, generator=torch.Generator().manual_seed(seed)).double()


def exact(model: Model, normed: torch.Tensor) -> torch.Tensor:
    """The metric by autograd, vocabulary by vocabulary: for tiny models only."""
    jacobian = torch.func.jacrev(lambda h: model.logits_of(h[None])[0])(normed)
    probs = model.logits_of(normed[None])[0].softmax(-1)
    return jacobian.T @ (torch.diag(probs) - torch.outer(probs, probs)) @ jacobian


def test_factor_gives_the_metric_its_trace_and_its_spectrum(model: Model):
    normed = state(model)
    metric, whole = metric_at(model, normed, dropped=0.0), exact(model, normed)
    torch.testing.assert_close(metric.factor.T @ metric.factor, whole, rtol=1e-8, atol=1e-9)
    assert metric.trace == pytest.approx(float(whole.trace()), rel=1e-8)
    values = torch.linalg.eigvalsh(whole).flip(0)
    torch.testing.assert_close(metric.spectrum(), values.clamp_min(0), rtol=1e-6, atol=1e-8)
    few = metric_at(model, normed, dropped=1e-2)
    assert len(few.token_ids) < len(metric.token_ids)
    assert abs(few.trace - metric.trace) <= few.trace_error


def test_metric_is_the_second_order_of_kl(model: Model):
    normed = state(model, 1)
    metric = metric_at(model, normed, dropped=0.0)
    direction = metric.leading()
    before = model.logits_of(normed[None])[0].log_softmax(-1)
    step = 1e-4 * direction / metric.length(direction)
    after = model.logits_of((normed + step)[None])[0].log_softmax(-1)
    kl = float((after.exp() * (after - before)).sum())
    assert kl / (0.5 * metric.length(step) ** 2) == pytest.approx(1, abs=5e-3)


def test_the_state_is_a_null_direction_before_the_norm(model: Model):
    resid = 100 * state(model, 2)  # far above the norm's epsilon
    metric = metric_at(model, model.final_norm(resid[None])[0], dropped=0.0)
    pulled = before_norm(model, metric, resid)
    along = pulled.factor @ (resid / resid.norm())
    assert float(along.norm() / torch.linalg.matrix_norm(pulled.factor, 2)) < 1e-6


def test_positive_definite_after_the_norm_against_the_papers_claim():
    model = wrap_model(
        tiny_module("llama").double().requires_grad_(False), name="llama", check=False
    )
    values = metric_at(model, state(model), dropped=0.0).spectrum()
    assert values.min() > 1e-9 * values.max()  # 260 tokens span 32 dimensions
    assert effective_rank(values) <= model.d_model


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_mean_metric_from_sums_is_the_mean_of_metrics(
    model: Model, scale: float, monkeypatch: pytest.MonkeyPatch
):
    """With a soft cap (gemma2) and with a scale of the logits, as some families have."""
    monkeypatch.setattr(model.config, "logit_scale", scale, raising=False)
    states = [state(model, seed) for seed in range(5)]
    mean = torch.stack([exact(model, one) for one in states]).mean(0)
    population = PopulationMetric(model)
    population.add(model.logits_of(torch.stack(states)))
    expected = torch.linalg.eigvalsh(mean).flip(0).clamp_min(0)
    torch.testing.assert_close(
        population.spectrum(), expected, rtol=1e-3, atol=1e-5 * float(expected[0])
    )


def test_effective_ranks_count_equal_eigenvalues():
    spectrum = torch.tensor([2.0, 2.0, 2.0, 0.0])
    assert effective_rank(spectrum) == pytest.approx(3)
    assert participation(spectrum) == pytest.approx(3)


def some_laws(n: int = 12, vocab: int = 9, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(n, vocab, generator=generator)).double().softmax(-1)


def test_kernels_follow_their_definitions_and_are_positive():
    laws = some_laws()
    pairs = laws.numpy()
    hellinger = squared_hellinger(pairs[:, None], pairs[None])
    np.testing.assert_allclose(1 - bhattacharyya_kernel(laws), hellinger, atol=1e-9)
    np.testing.assert_allclose(
        hellinger_kernel(laws, beta=0.7), np.exp(-1.4 * hellinger), atol=1e-9
    )
    shannon = jensen_shannon(pairs[:, None], pairs[None])
    np.testing.assert_allclose(jensen_shannon_kernel(laws), np.exp(-shannon), atol=1e-9)
    np.testing.assert_allclose(linear_kernel(laws), pairs @ pairs.T, atol=1e-9)
    for kernel in (bhattacharyya_kernel, hellinger_kernel, jensen_shannon_kernel, linear_kernel):
        assert operator_spectrum(kernel(laws)).min() > -1e-9
        renamed = kernel(laws[:, torch.randperm(9, generator=torch.Generator().manual_seed(1))])
        torch.testing.assert_close(renamed, kernel(laws))
    assert float(operator_spectrum(bhattacharyya_kernel(laws)).sum()) == pytest.approx(1)


def test_dirichlet_energy_is_its_double_sum():
    kernel = hellinger_kernel(some_laws())
    functions = torch.randn(12, 3, generator=torch.Generator().manual_seed(2)).double()
    scaled = (functions - functions.mean(0)) / functions.std(0, unbiased=False)
    differences = (scaled[:, None] - scaled[None]).square()
    expected = 0.5 * (kernel[..., None] * differences).mean((0, 1))
    torch.testing.assert_close(dirichlet_energy(kernel, functions), expected)


def test_canonical_correlations_of_planted_pairs_on_fresh_rows():
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(4000, 2, generator=generator).double()
    mix, other = (torch.randn(2, 6, generator=generator).double() for _ in range(2))
    noise = torch.randn(2, 4000, 6, generator=generator).double()
    left, right = shared @ mix + 0.1 * noise[0], shared @ other + 0.1 * noise[1]
    fitted = fit_canonical(left[:3000], right[:3000], n_directions=6)
    found = fitted.correlations(left[3000:], right[3000:])
    # Standard error of a null correlation on 1,000 rows: 0.032; five of them for four directions.
    assert (found[:2] > 0.95).all()
    assert found[2:].abs().max() < 0.16
    turn = torch.linalg.qr(torch.randn(6, 6, generator=generator).double()).Q
    again = fit_canonical(left[:3000] @ turn, right[:3000], n_directions=6)
    torch.testing.assert_close(
        again.correlations(left[3000:] @ turn, right[3000:])[:2], found[:2], rtol=1e-6, atol=1e-6
    )
    with pytest.raises(TooFewTokensError, match="at least 12 tokens to fit on, got 11"):
        fit_canonical(left[:11], right[:11], n_directions=2)


def test_alignment_measures_reach_one_and_their_null():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(300, 5, generator=generator).double()
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator).double()).Q
    assert float(linear_cka(rows, 3 * rows @ turn)) == pytest.approx(1)
    assert subspace_overlap(rows @ rows.T, rows @ turn, k=5) == pytest.approx(1)

    def overlap(order: np.ndarray) -> float:
        return subspace_overlap(rows @ rows.T, rows[torch.from_numpy(order)], k=2)

    null = permutation_null(overlap, 300, n=20)
    assert null.high < 0.1  # two random planes of 299 dimensions: 2 / 299 on average
