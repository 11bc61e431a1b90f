"""Finite kernels and categorical entropies: definitions against closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.information.divergences import DIVERGENCES, kl, renyi
from fluoroscope.probes.information.entropy import BLOCK, Sweep, categorical_entropies
from fluoroscope.probes.information.joints import entropy, mutual_information, surplus
from fluoroscope.probes.information.kernel import FinKernel

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def random_kernel(n_states: int, n_outcomes: int, seed: int) -> FinKernel:
    generator = np.random.default_rng(seed)
    return FinKernel(generator.dirichlet(np.full(n_outcomes, 0.6), size=n_states))


def test_composition_tensor_copy_and_discard_obey_the_laws_of_a_markov_category():
    k, m, n = random_kernel(3, 4, 0), random_kernel(4, 2, 1), random_kernel(2, 5, 2)
    left, right = k.then(m).then(n), k.then(m.then(n))
    np.testing.assert_allclose(left.matrix, right.matrix, **EXACT)
    np.testing.assert_allclose(k.then(FinKernel.identity(4)).matrix, k.matrix, **EXACT)
    np.testing.assert_allclose(k.then(FinKernel.discard(4)).matrix, np.ones((3, 1)), **EXACT)
    # Copying and discarding one copy is the identity.
    forget = FinKernel.identity(3).tensor(FinKernel.discard(3))
    np.testing.assert_allclose(FinKernel.copy(3).then(forget).matrix, np.eye(3), **EXACT)
    # (k then m) beside (n then id) = (k beside n) then (m beside id).
    both = k.then(m).tensor(n)
    apart = k.tensor(n).then(m.tensor(FinKernel.identity(5)))
    np.testing.assert_allclose(both.matrix, apart.matrix, **EXACT)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("n", [2, 3, 7])
def test_closed_form_entropies_equal_the_definition_on_pairs(name: str, n: int):
    kernel = random_kernel(5, n, seed=n)
    by_definition = kernel.categorical_entropy(DIVERGENCES[name])
    logits = torch.from_numpy(np.log(kernel.matrix))
    closed = getattr(categorical_entropies(logits), name).numpy()
    np.testing.assert_allclose(closed, by_definition, **EXACT)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9, 1.3, 1.5, 1.9])
def test_renyi_entropy_has_order_two_minus_alpha(alpha: float):
    kernel = random_kernel(4, 6, seed=3)
    probs = kernel.matrix
    by_definition = kernel.categorical_entropy(lambda p, q: renyi(p, q, alpha=alpha))
    order = 2 - alpha
    known = np.log((probs**order).sum(1)) / (1 - order)
    closed = categorical_entropies(torch.from_numpy(np.log(probs)), alpha=alpha).renyi.numpy()
    np.testing.assert_allclose(by_definition, known, **EXACT)
    np.testing.assert_allclose(closed, known, **EXACT)


def test_the_other_order_of_kl_is_infinite_unless_deterministic():
    def reverse(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return kl(q, p)

    assert np.isinf(random_kernel(3, 3, 0).categorical_entropy(reverse)).all()
    assert (FinKernel.identity(3).categorical_entropy(reverse) == 0).all()


def test_entropies_vanish_exactly_at_one_hot_rows_and_at_no_other():
    logits = torch.tensor([[0.0, -math.inf, -math.inf], [0.0, 0.0, -math.inf]]).double()
    for name, values in categorical_entropies(logits)._asdict().items():
        assert values[0].abs() < 1e-15, name
        assert values[1] > 0.1, name
    assert categorical_entropies(logits).chi2.tolist() == [0, 1]


def test_entropies_do_not_care_how_the_vocabulary_is_numbered():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(20, 50, generator=generator)
    mixed = logits[:, torch.randperm(50, generator=generator)]
    for one, other in zip(categorical_entropies(logits), categorical_entropies(mixed), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_single_precision_keeps_six_digits_whatever_the_size_and_offset_of_the_logits():
    generator = torch.Generator().manual_seed(0)
    size = torch.linspace(0.1, 8, BLOCK + 7)[:, None]  # flat to one-hot; more rows than one block
    logits = 20 + size * torch.randn(BLOCK + 7, 50_000, generator=generator)
    single, double = categorical_entropies(logits), categorical_entropies(logits.double())
    for one, other in zip(single, double, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=3e-6)


def test_a_sweep_gives_what_torch_gives_one_by_one():
    logits = 4 * torch.randn(5, 300, generator=torch.Generator().manual_seed(1))
    sweep = Sweep(logits)
    found = sweep.condense(logits[:3])
    torch.testing.assert_close(sweep.probs, logits[:3].softmax(-1))
    torch.testing.assert_close(found.log_z, logits[:3].logsumexp(-1))
    assert (found.greedy == logits[:3].argmax(-1)).all()
    torch.testing.assert_close(found.confidence, logits[:3].softmax(-1).amax(-1))
    above = (logits[:3] > logits[:3, 7:8]).sum(-1)
    assert (sweep.n_above(logits[:3], logits[:3, 7]) == above).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.integers(2, 5), st.integers(0, 10_000))
def test_data_processing_never_increases_a_divergence(n: int, m: int, seed: int):
    p, q, k = (
        random_kernel(1, n, seed),
        random_kernel(1, n, seed + 1),
        random_kernel(n, m, seed + 2),
    )
    for name, divergence in DIVERGENCES.items():
        before = p.divergence(q, divergence)
        after = p.then(k).divergence(q.then(k), divergence)
        assert after[0] <= before[0] * (1 + 1e-9) + 1e-12, name


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 10_000))
def test_chain_rule_and_processing_of_mutual_information(n: int, m: int, seed: int):
    generator = np.random.default_rng(seed)
    joint = generator.dirichlet(np.full(n * m * m, 0.5)).reshape(n, m, m)
    whole = mutual_information(joint, [0], [1, 2])
    assert whole == pytest.approx(mutual_information(joint, [0], [1]) + surplus(joint), abs=1e-12)
    bound = entropy(joint, [1, 2]) - entropy(joint, [1])
    assert -1e-12 <= surplus(joint) <= bound + 1e-12
    coarse = np.einsum("hvw,hg->gvw", joint, random_kernel(n, 2, seed).matrix)
    assert mutual_information(coarse, [0], [1, 2]) <= whole + 1e-12


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(0, 10_000))
def test_pinsker_in_the_convention_of_the_docstring(n: int, seed: int):
    p, q = random_kernel(1, n, seed), random_kernel(1, n, seed + 1)
    half = p.divergence(q, DIVERGENCES["kl"]) / 2
    assert p.divergence(q, DIVERGENCES["hellinger"]) <= half + 1e-12
    assert p.divergence(q, DIVERGENCES["tv"]) ** 2 <= half + 1e-12


def test_bad_kernels_and_orders_are_refused_with_what_was_expected():
    with pytest.raises(OptionError, match=r"sum to 1, got a row off by 1\.0e-01"):
        FinKernel([[0.5, 0.6]])
    with pytest.raises(OptionError, match="outcomes are states"):
        FinKernel.identity(2).then(FinKernel.identity(3))
    with pytest.raises(OptionError, match="must be a matrix"):
        FinKernel(np.zeros(3))
    with pytest.raises(OptionError, match="between 0 and 2"):
        categorical_entropies(torch.zeros(1, 3), alpha=2.0)
