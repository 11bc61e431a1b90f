"""Synthetic sources: closed forms, and samples that follow them."""

import math

import numpy as np
import pytest

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.information.joints import entropy
from fluoroscope.probes.information.sources import Chain, HiddenMarkov, random_chain, xor_chain


def binary_entropy(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_xor_chain_has_the_four_numbers_of_its_closed_form():
    truth = xor_chain(0.1).truth(3)
    clean = math.log(2) - binary_entropy(0.1)
    assert truth.next == pytest.approx(clean, abs=1e-9)
    assert truth.surplus == pytest.approx((clean, clean), abs=1e-9)
    assert truth.futures[1] == pytest.approx(math.log(2) - binary_entropy(0.18), abs=1e-9)
    assert round(truth.next, 6) == 0.368064
    assert round(truth.futures[1], 6) == 0.221754


@pytest.mark.parametrize("n_tokens", [2, 4, 7])
def test_first_order_chains_have_no_surplus_and_known_information(n_tokens: int):
    chain = random_chain(n_tokens, 1, seed=n_tokens)
    law, rows = chain.stationary(), chain.transition
    np.testing.assert_allclose(law @ rows, law, atol=1e-12)
    truth = chain.truth(4)
    assert np.abs(truth.surplus).max() < 1e-9

    def information(step: np.ndarray) -> float:
        return entropy(law @ step) - float(
            sum(p * entropy(row) for p, row in zip(law, step, strict=True))
        )

    assert truth.next == pytest.approx(information(rows), abs=1e-9)
    assert truth.futures[1] == pytest.approx(information(rows @ rows), abs=1e-9)
    assert truth.entropy == pytest.approx(entropy(law) - information(rows), abs=1e-9)


def test_steps_of_the_surplus_add_up_and_the_joint_is_stationary():
    chain = random_chain(3, 2, seed=1)
    truth = chain.truth(4)
    assert np.cumsum(truth.step_surplus) == pytest.approx(truth.surplus, abs=1e-9)
    joint = chain.joint(3)
    now = joint.sum((2, 3)).reshape(3, 3, 3).sum(0)
    later = joint.sum((0, 1))
    np.testing.assert_allclose(joint.sum(0).sum(-1), now, atol=1e-9)
    np.testing.assert_allclose(now, later, atol=1e-9)


def test_samples_follow_the_stationary_joint():
    chain = random_chain(3, 2, seed=2)
    tokens = chain.sample(400, 200, seed=5)
    contexts = chain.contexts(tokens)[:, 1:-1]
    counts = np.zeros((9, 3))
    np.add.at(counts, (contexts.ravel(), tokens[:, 2:].ravel()), 1)
    # 79,200 dependent draws; each cell's standard error is under 0.0025, odds of 6 sigma under 1e-7.
    np.testing.assert_allclose(counts / counts.sum(), chain.joint(1), atol=0.015)


def test_filtering_equals_bayes_by_enumeration():
    generator = np.random.default_rng(0)
    transition = generator.dirichlet(np.ones(3), size=3)
    model = HiddenMarkov(transition, generator.dirichlet(np.ones(4), size=3))
    tokens = model.sample(2, 5, seed=1)
    beliefs = model.beliefs(tokens)
    for row in range(2):
        weights = np.zeros(3)
        for path in np.ndindex(3, 3, 3, 3, 3):
            chance = model.law[path[0]]
            for place, state in enumerate(path):
                chance *= model.emission.matrix[state, tokens[row, place]]
                if place:
                    chance *= transition[path[place - 1], state]
            weights += chance * transition[path[-1]]
        np.testing.assert_allclose(beliefs[row, -1], weights / weights.sum(), atol=1e-9)


def test_hidden_markov_law_of_two_tokens_agrees_with_its_closed_form_mixture():
    generator = np.random.default_rng(3)
    model = HiddenMarkov(
        generator.dirichlet(np.full(3, 0.4), size=3), generator.dirichlet(np.full(4, 0.4), size=3)
    )
    beliefs = model.beliefs(model.sample(100, 1000, seed=0))[:, 20:].reshape(-1, 3)
    mixed = model.next_two(beliefs).mean(0)
    np.testing.assert_allclose(mixed, model.next_two(model.law[None])[0], atol=4e-3)
    truth = model.truth(n_documents=50)
    assert 0 < truth.surplus[0] < truth.next


def test_a_hidden_chain_that_is_seen_is_the_chain_itself():
    chain = random_chain(3, 1, seed=4)
    seen = HiddenMarkov(chain.transition, np.eye(3)).truth(n_documents=100, length=2000)
    assert seen.surplus[0] == pytest.approx(0, abs=5e-3)  # 2e5 tokens: the law of states is sampled
    assert seen.next == pytest.approx(chain.truth(2).next, abs=1e-2)


def test_a_broken_transition_is_refused():
    with pytest.raises(OptionError, match="all of one length"):
        Chain(np.ones((2, 3)) / 3)
    with pytest.raises(OptionError, match="sum to 1"):
        Chain(np.ones((2, 2)))
