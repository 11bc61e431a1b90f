"""Estimators of information on sources whose answers are known, with stated rates and controls."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fluoroscope.probes.errors import OptionError, TooFewTokensError
from fluoroscope.probes.information.futures import Classes, futures_of, merge_rare
from fluoroscope.probes.information.kernel_estimators import (
    fitting_groups,
    gaussian_gram,
    grouped_estimate,
    groups_of,
    info_nce,
    renyi_entropy,
    renyi_information,
    token_gram,
)
from fluoroscope.probes.information.model_law import MixtureSums
from fluoroscope.probes.information.plug_in import clustered, plug_in_information
from fluoroscope.probes.information.readout import Inputs, ReadoutOptions, Split, fit_readout
from fluoroscope.probes.information.resampling import (
    Estimate,
    mean_estimate,
    require,
    statistic_estimate,
    sums_by_document,
)
from fluoroscope.probes.information.softmax_probe import class_law, fit_by_likelihood
from fluoroscope.probes.information.sources import Chain, random_chain, xor_chain
from fluoroscope.probes.information.usable import (
    baseline_losses,
    bigram_losses,
    probe_information,
    usable_beyond,
)
from fluoroscope.probes.information.verdicts import control_verdict

PROBE = ReadoutOptions(rank=8, epochs=4, batch=128, learning_rate=3e-2)
HEAD = ReadoutOptions(rank=16, epochs=4, batch=128, learning_rate=3e-2, interacts=True)


def states_and_tokens(chain: Chain, n_documents: int, length: int, seed: int):
    """Context number, (W_0, W_1) and document of every position of a sample."""
    tokens = chain.sample(n_documents, length, seed=seed)
    contexts = chain.contexts(tokens)[:, chain.order - 1 : -2]
    after = np.stack([tokens[:, chain.order : -1], tokens[:, chain.order + 1 :]], axis=-1)
    documents = np.repeat(np.arange(n_documents), contexts.shape[1])
    return contexts.ravel(), after.reshape(-1, 2), documents


def split_of(
    chain: Chain, states: torch.Tensor | None, seed: int, *, given: int, n_documents: int = 60
) -> tuple[Split, np.ndarray]:
    """Train, choose and test parts; H is the table `states` at the context."""
    parts, documents = [], np.zeros(0, dtype=np.int64)
    for number, share in enumerate((n_documents, 10, 30)):
        contexts, tokens, documents = states_and_tokens(chain, share, 100, seed * 10 + number)
        held = torch.eye(chain.n_tokens**chain.order) if states is None else states
        columns = torch.from_numpy(tokens)
        inputs = Inputs(
            held[torch.from_numpy(contexts)], held.shape[1], torch.eye(chain.n_tokens),
            columns[:, :given],
        )  # fmt: skip
        parts.append((inputs, columns[:, given:] if given else columns))
    return Split(*parts), documents


def covers(estimate: Estimate, truth: float, slack: float) -> bool:
    """Whether the interval, widened by the family's excess loss, holds the truth."""
    return estimate.low - slack <= truth <= estimate.high + slack


def test_probe_finds_the_information_of_a_chain(seed: int):
    # The interval misses in 5 % of seeds; 0.01 nats of slack are for training and make it rarer.
    chain = random_chain(4, 1, seed=1)
    split, documents = split_of(chain, None, seed, given=0)
    found, _ = probe_information(split, 4, documents, PROBE)
    truth = chain.truth(2)
    for k in range(2):
        assert covers(found[k], truth.futures[k], 0.01), (str(found[k]), truth.futures[k])
        assert found[k].high - found[k].low < 0.15


@pytest.mark.parametrize(
    ("bits", "additive_truth"),
    [
        # The newest bit alone says nothing of W_1 until W_0 is known: all of it is synergy.
        ([[-1.0], [1.0], [-1.0], [1.0]], 0.0),
        # The older bit does: W_1 is it, flipped twice by noise, so an additive probe sees I(H; W_1).
        ([[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]], 0.221754),
    ],
)
def test_additive_probe_misses_the_synergy_of_xor_and_a_head_finds_it(
    bits: list[list[float]], additive_truth: float, seed: int
):
    split, documents = split_of(xor_chain(0.1), torch.tensor(bits), seed, given=1)
    blind, _ = baseline_losses(split, 2, PROBE)
    missed = usable_beyond(split, blind, 2, documents, PROBE).information
    found = usable_beyond(split, blind, 2, documents, HEAD).information
    assert covers(missed, additive_truth, 0.01), str(missed)
    assert covers(found, 0.368064, 0.01), str(found)
    assert found.apart_from(missed)


def test_first_order_chain_has_no_usable_surplus(seed: int):
    # A zero surplus: the interval lies above zero in 2.5 % of seeds; 0.005 nats of slack: fewer.
    chain = random_chain(4, 1, seed=3)
    split, documents = split_of(chain, None, seed, given=1)
    blind, _ = baseline_losses(split, 4, HEAD)
    found = usable_beyond(split, blind, 4, documents, HEAD).information
    assert found.low < 0.005, str(found)
    assert abs(found.value) < 0.03, str(found)


def test_few_rows_are_passed_over_until_a_readout_is_trained():
    """Two epochs of 970 rows are 14 steps; the minimum makes them 150, and the bound far tighter."""
    assert ReadoutOptions().passes(40_000) == (2, 78)
    assert ReadoutOptions().passes(4_562) == (19, 8)
    assert ReadoutOptions().passes(100) == (150, 1)
    assert ReadoutOptions(epochs=5, min_steps=0).passes(1024) == (5, 2)
    chain = random_chain(4, 1, seed=1)
    split, documents = split_of(chain, None, 0, given=0, n_documents=10)
    options = ReadoutOptions(rank=8, batch=128)
    hasty, _ = probe_information(split, 4, documents, replace(options, min_steps=0))
    patient, _ = probe_information(split, 4, documents, options)
    truth = chain.truth(1).next
    assert hasty[0].value < 0.2 * truth
    assert patient[0].value > 0.8 * truth
    assert patient[0].low < truth
    with pytest.raises(OptionError, match="min_steps at least 0"):
        ReadoutOptions(min_steps=-1)


def test_what_is_tested_on_is_never_trained_on():
    split, documents = split_of(random_chain(4, 1, seed=1), None, 0, given=0, n_documents=10)
    other, _ = split_of(random_chain(4, 1, seed=8), None, 3, given=0, n_documents=10)
    one = fit_readout(split, 4, PROBE)
    two = fit_readout(Split(split.train, split.choose, other.test), 4, PROBE)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    # An untrained readout is the training documents' law, and so is what it is compared with.
    still = replace(PROBE, learning_rate=1e-12, min_steps=1, epochs=1)
    found, _ = probe_information(Split(split.train, split.choose, other.test), 4, documents, still)
    assert max(abs(one.value) for one in found) < 1e-5


def test_shuffled_states_hold_nothing(seed: int):
    # False alarm: a 95 % interval wholly above zero, at most 2.5 % of seeds; training makes it rarer.
    chain = random_chain(4, 2, seed=5)
    split, documents = split_of(chain, None, seed, given=0)
    generator = torch.Generator().manual_seed(seed)

    def shuffled(part: tuple[Inputs, torch.Tensor]) -> tuple[Inputs, torch.Tensor]:
        inputs, classes = part
        assert inputs.states is not None
        mixed = inputs.states[torch.randperm(len(inputs), generator=generator)]
        return Inputs(mixed, inputs.d_model, inputs.table, inputs.given), classes

    control = Split(shuffled(split.train), shuffled(split.choose), shuffled(split.test))
    found, _ = probe_information(control, 4, documents, PROBE)
    assert all(one.low <= 1e-3 for one in found), [str(one) for one in found]
    real, _ = probe_information(split, 4, documents, PROBE)
    assert real[0].low > 0.1


def test_usable_information_does_not_care_for_names_or_bases():
    chain = random_chain(4, 1, seed=2)
    split, documents = split_of(chain, None, 0, given=0)
    plain, _ = probe_information(split, 4, documents, PROBE)
    order = torch.tensor([2, 0, 3, 1])
    generator = torch.Generator().manual_seed(0)
    turned = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    again, _ = split_of(chain, turned, 0, given=0)
    renamed = Split(
        *((inputs, order[classes]) for inputs, classes in (again.train, again.choose, again.test))
    )
    other, _ = probe_information(renamed, 4, documents, PROBE)
    for one, two in zip(plain, other, strict=True):
        assert one.value == pytest.approx(two.value, abs=5e-3)


@pytest.mark.parametrize("n_rows", [500, 4000])
def test_likelihood_probe_converges_at_parameters_over_twice_the_rows(n_rows: int):
    # Excess loss over the source's entropy is chi-squared(d) / 2N on fresh rows, d = 12 free numbers.
    # Mean of 12 draws against 12 / 2N: the standard error is 0.41 / sqrt(12) of it, so the bounds
    # stand over 3.4 errors away (false alarm under 1e-3), and the loss itself is exact.
    chain = random_chain(4, 1, concentration=2.0, seed=7)
    law, rows = chain.stationary(), torch.from_numpy(chain.transition)
    excesses = []
    for draw in range(12):
        generator = np.random.default_rng([draw, n_rows])
        contexts = generator.choice(4, size=n_rows, p=law)
        uniform = generator.random(n_rows)[:, None]
        tokens = (uniform > chain.transition.cumsum(1)[contexts, :-1]).sum(1)
        eye = torch.eye(4, dtype=torch.float64)
        probe = fit_by_likelihood(
            eye[torch.from_numpy(contexts)], torch.from_numpy(tokens), 4, ridge=0
        )
        divergence = (rows * (rows.log() - probe.log_probs(eye))).sum(1)
        excesses.append(float(torch.from_numpy(law) @ divergence))
    assert 0.6 < np.mean(excesses) / (12 / (2 * n_rows)) < 1.6


def test_mixture_information_is_exact_on_listed_states_and_capped():
    chain = random_chain(5, 1, seed=4)
    law = chain.stationary()
    # States listed in exact proportion: 10,000 rows, weights rounded to 1e-4.
    counts = np.round(law * 10_000).astype(int)
    states = np.repeat(np.arange(5), counts)
    probs = torch.from_numpy(chain.transition[states])
    sums = MixtureSums(5, n_blocks=8)
    entropies = torch.special.entr(probs).sum(-1)
    sums.add(probs, entropies, np.arange(len(states)))
    weights = counts / counts.sum()
    mean = weights @ chain.transition
    exact = (
        -(mean * np.log(mean)).sum()
        - weights @ torch.special.entr(torch.from_numpy(chain.transition)).sum(-1).numpy()
    )
    found = sums.information()
    assert found.value == pytest.approx(exact, abs=1e-9)
    assert found.value == pytest.approx(chain.truth(1).next, abs=1e-3)
    one_hot = MixtureSums(64, n_blocks=8)
    one_hot.add(torch.eye(64).double(), torch.zeros(64).double(), np.arange(64))
    assert one_hot.information().value == pytest.approx(math.log(64), abs=1e-9)


def test_mixture_information_is_too_low_by_its_stated_bias():
    chain = random_chain(6, 1, seed=9)
    law, truth = chain.stationary(), chain.truth(1).next
    generator = np.random.default_rng(0)
    errors, said = [], []
    for _ in range(400):
        probs = torch.from_numpy(chain.transition[generator.choice(6, size=64, p=law)])
        sums = MixtureSums(6, n_blocks=64)
        sums.add(probs, torch.special.entr(probs).sum(-1), np.arange(64))
        mean = probs.mean(0).numpy()
        value = -(mean * np.log(mean)).sum() - float(torch.special.entr(probs).sum(-1).mean())
        errors.append(truth - value)
        said.append(sums.bias())
    # The mean of 400 errors has a standard error of about a fifth of the bias; odds of 4 errors: 1e-4.
    error = np.std(errors) / 20
    assert abs(np.mean(errors) - np.mean(said)) < 4 * error


def test_the_stated_bias_is_half_the_relative_variance_over_the_rows():
    probs = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.9, 0.1, 0.0], [0.4, 0.6, 0.0]])
    sums = MixtureSums(3, n_blocks=2)
    sums.add(probs.double(), torch.special.entr(probs).sum(-1), np.arange(4))
    variance, mean = probs.double().var(0, unbiased=False)[:2], probs.double().mean(0)[:2]
    assert sums.bias() == pytest.approx(float((variance / mean).sum()) / 8, rel=1e-9)


def test_plug_in_converges_and_the_correction_takes_the_first_order_off():
    chain = random_chain(4, 2, seed=11)
    truth = chain.truth(2)
    plain, corrected = [], []
    for draw in range(12):
        states, tokens, documents = states_and_tokens(chain, 40, 33, 100 + draw)
        plain.append(plug_in_information(states, tokens, documents, corrected=False).surplus.value)
        corrected.append(plug_in_information(states, tokens, documents).surplus.value)
    bias, left = np.mean(plain) - truth.surplus[0], np.mean(corrected) - truth.surplus[0]
    assert bias > 0.005
    assert abs(left) < 0.6 * bias
    states, tokens, documents = states_and_tokens(chain, 400, 300, 5)
    found = plug_in_information(states, tokens, documents)
    # 120,000 rows: the interval holds the truth in 95 % of seeds, 0.004 nats of slack covers the rest.
    assert covers(found.next, truth.next, 0.004), (str(found.next), truth.next)
    assert covers(found.surplus, truth.surplus[0], 0.004), (str(found.surplus), truth.surplus)


def test_the_correction_is_half_a_count_per_filled_cell():
    states, tokens = np.array([0, 0, 1, 1, 1, 0] * 5), np.array([[0, 1], [1, 0], [0, 0]] * 10)
    documents = np.repeat(np.arange(6), 5)
    plain, corrected = (
        plug_in_information(states, tokens, documents, corrected=c) for c in (False, True)
    )

    def filled(*columns: np.ndarray) -> int:
        return len({tuple(map(int, row)) for row in np.column_stack(columns)})

    first, second = tokens.T
    alone, next_token, both = filled(states), filled(first), filled(states, first)
    expected = (alone - 1 + next_token - 1 - (both - 1)) / (2 * 30)
    assert corrected.next.value - plain.next.value == pytest.approx(expected, abs=1e-12)
    three = filled(states, first, second)
    expected = (both + filled(first, second) - three - next_token) / (2 * 30)
    assert corrected.surplus.value - plain.surplus.value == pytest.approx(expected, abs=1e-12)


def test_plug_in_of_xor_sees_the_synergy_and_nothing_when_shuffled():
    states, tokens, documents = states_and_tokens(xor_chain(0.1), 100, 102, 0)
    found = plug_in_information(states, tokens, documents)
    assert found.surplus.value == pytest.approx(0.368064, abs=0.02)
    shuffled = np.random.default_rng(0).permutation(states)
    nothing = plug_in_information(shuffled, tokens, documents)
    assert abs(nothing.surplus.value) < 2e-3


def test_clusters_find_separated_states():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, size=800)
    rows = np.eye(8)[truth] * 5 + 0.1 * generator.standard_normal((800, 8))
    found = clustered(rows, n_clusters=4)
    pairs = {(a, b) for a, b in zip(truth, found, strict=True)}
    assert len(pairs) == 4


def test_matrix_renyi_entropy_has_its_extremes_and_information_its_own():
    n = 32
    assert float(renyi_entropy(torch.eye(n).double())) == pytest.approx(math.log(n))
    assert float(renyi_entropy(torch.ones(n, n).double())) == pytest.approx(0, abs=1e-6)
    labels = torch.arange(n) % 4
    gram = token_gram(labels)
    # Of equal labels: S = log 4, and a variable tells all of itself.
    assert float(renyi_entropy(gram)) == pytest.approx(math.log(4))
    assert float(renyi_information(gram, gram)) == pytest.approx(math.log(4))
    assert float(renyi_information(gram, torch.ones(n, n).double())) == pytest.approx(0, abs=1e-6)
    rows = torch.randn(n, 5, generator=torch.Generator().manual_seed(0))
    turned = rows @ torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    torch.testing.assert_close(gaussian_gram(rows), gaussian_gram(turned), rtol=1e-4, atol=1e-5)


def test_contrastive_bound_reaches_its_cap_and_not_the_truth():
    n = 64
    perfect = 50 * torch.eye(n)
    assert float(info_nce(perfect).mean()) == pytest.approx(math.log(n), abs=1e-5)
    assert float(info_nce(torch.zeros(n, n)).mean()) == pytest.approx(0, abs=1e-5)
    # The exact critic of a chain comes near the truth from below (mean of 200 groups of 256).
    chain = random_chain(4, 1, seed=1)
    generator = np.random.default_rng(0)
    law, values = chain.stationary(), []
    logs = torch.from_numpy(np.log(chain.transition))
    for _ in range(200):
        states = generator.choice(4, size=256, p=law)
        tokens = (generator.random(256)[:, None] > chain.transition.cumsum(1)[states, :-1]).sum(1)
        mixed = torch.from_numpy(law @ chain.transition).log()
        scores = (logs - mixed)[torch.from_numpy(states)][:, torch.from_numpy(tokens)]
        values.append(float(info_nce(scores).mean()))
    truth = chain.truth(1).next
    assert np.mean(values) == pytest.approx(truth, abs=0.02)
    assert np.mean(values) < truth + 0.01


def test_groups_share_no_document_and_give_an_interval():
    documents = np.repeat(np.arange(40), 50)
    groups = groups_of(documents, n_groups=6, size=64)
    seen = [set(documents[group]) for group in groups]
    assert all(not (a & b) for i, a in enumerate(seen) for b in seen[i + 1 :])
    found = grouped_estimate("E4", groups, lambda rows: float(rows.mean()))
    assert found.low < found.value < found.high
    with pytest.raises(TooFewTokensError, match="needs at least 1,536"):
        groups_of(documents[:300], n_groups=6, size=256)


def test_groups_shrink_to_what_the_documents_fill():
    def shape(n_documents: int, rows: int) -> tuple[int, int]:
        documents = np.repeat(np.arange(n_documents), rows)
        groups = fitting_groups(documents, n_groups=8)
        return len(groups), len(groups[0])

    assert shape(16, 256) == (8, 256)
    assert shape(12, 256) == (8, 256)
    assert shape(7, 256) == (7, 256)
    assert shape(7, 130) == (5, 128)
    assert shape(5, 64) == (5, 64)
    with pytest.raises(TooFewTokensError, match="at least 320 tokens, evenly over documents"):
        shape(5, 63)


def test_intervals_over_documents_cover_the_mean_as_often_as_they_say(seed: int):
    # 200 intervals at 95 % over 40 documents of equal mean within a document: the expanded bootstrap
    # covers about 95 %. Fewer than 84 % or more than 99.5 % has odds under 1e-5.
    generator = np.random.default_rng(seed)
    documents = np.repeat(np.arange(40), 5)
    hits = 0
    for _ in range(200):
        values = np.repeat(generator.standard_normal(40), 5)
        found = mean_estimate("a mean", values, documents)
        hits += found.low <= 0 <= found.high
    assert 168 <= hits <= 199


def test_statistics_over_documents_agree_with_means_where_they_are_means():
    generator = np.random.default_rng(0)
    values, documents = generator.standard_normal(600), np.repeat(np.arange(30), 20)
    sums, counts = sums_by_document(values, documents)
    columns = np.column_stack([sums, counts])
    found = statistic_estimate("a mean", columns, lambda s: s[:, 0] / s[:, 1])
    plain = mean_estimate("a mean", values, documents)
    assert found.value == pytest.approx(plain.value)
    assert found.low == pytest.approx(plain.low, abs=0.03)


def test_futures_never_cross_a_window_and_follow_the_index_convention():
    ids, offsets = np.arange(20), np.array([0, 8, 11, 20])
    documents = np.repeat([0, 0, 1], [8, 3, 9])
    found = futures_of(ids, offsets, documents, n_futures=3)
    assert found.rows.tolist() == [1, 2, 3, 4, 12, 13, 14, 15, 16]
    assert (found.tokens == found.rows[:, None] + [1, 2, 3]).all()
    assert found.documents.tolist() == [0] * 4 + [1] * 5
    assert found.n_documents == 2
    with pytest.raises(OptionError, match="1 to 9"):
        futures_of(ids, offsets, documents, n_futures=10)
    with pytest.raises(TooFewTokensError, match="at least 11 tokens in some window"):
        futures_of(ids, offsets, documents, n_futures=9)


def test_rare_tokens_share_the_last_class():
    tokens = np.array([5, 5, 5, 2, 2, 7, 9])
    classes = merge_rare(tokens, d_vocab=10, n_classes=3)
    assert classes.kept.tolist() == [5, 2]
    assert classes(np.array([5, 2, 7, 0])).tolist() == [0, 1, 2, 2]
    assert (classes.n, classes.merges) == (3, True)
    whole = merge_rare(tokens, d_vocab=10, n_classes=16)
    assert isinstance(whole, Classes)
    assert (whole.n, whole.merges) == (10, False)


def test_count_table_is_the_smoothed_conditional_law():
    given = torch.tensor([0, 0, 0, 7])
    classes = torch.tensor([1, 1, 0, 1])
    law = class_law(classes, 2)
    found = bigram_losses(
        (given, classes), (torch.tensor([0, 3]), torch.tensor([1, 0])), 2, strength=2
    )
    expected = [(2 + 2 * law[1]) / 5, law[0]]
    torch.testing.assert_close(found, -torch.stack(expected).log())


def test_too_few_tokens_are_refused_with_the_number_needed():
    with pytest.raises(TooFewTokensError, match="E9 needs at least 1,000 tokens, got 12"):
        require("E9", "tokens", have=12, need=1000)
    with pytest.raises(TooFewTokensError, match="at least 5 documents, got 2"):
        mean_estimate("E2b", np.zeros(10), np.repeat([0, 1], 5))
    split, documents = split_of(random_chain(4, 1), None, 0, given=0, n_documents=1)
    small = Inputs(torch.zeros(9, 4), 4, torch.eye(4), torch.zeros(9, 0, dtype=torch.int64))
    few = Split((small, torch.zeros(9, 2, dtype=torch.int64)), split.choose, split.test)
    with pytest.raises(TooFewTokensError, match="at least 32 tokens to train on, got 9"):
        probe_information(few, 4, documents, PROBE)
    states, tokens, documents = states_and_tokens(random_chain(4, 2), 6, 20, 0)
    with pytest.raises(TooFewTokensError, match="at least 512 tokens"):
        plug_in_information(states, tokens, documents)


def test_a_control_is_distrusted_above_rounding_only():
    assert "as it should" in control_verdict("it", Estimate(1.6e-5, 1.5e-5, 1.7e-5))
    assert "as it should" in control_verdict("it", Estimate(0.01, -0.01, 0.03))
    assert "distrust" in control_verdict("it", Estimate(0.01, 0.001, 0.02))
