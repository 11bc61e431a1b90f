from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae.metrics import (
    PrincipalComponents,
    RandomDecoder,
    absorbed_cosine,
    absorption_scores,
    babel,
    coactive_babel,
    coactive_cosine,
    detection,
    effective_rank,
    encoder_decoder_cosines,
    fvu,
    gram_errors,
    level_cosines,
    match,
    max_cosines,
    mean_cosine,
    seed_stability,
    sparse_probe,
    supports,
)


def atoms(n: int = 7, d: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosines(dictionary: torch.Tensor) -> np.ndarray:
    unit = (dictionary / dictionary.norm(dim=1, keepdim=True)).numpy()
    return unit @ unit.T


def babel_by_definition(dictionary: torch.Tensor, r: int) -> float:
    gram = np.abs(cosines(dictionary))
    n = len(gram)
    return max(
        sum(gram[j, i] for i in chosen)
        for chosen in combinations(range(n), r)
        for j in set(range(n)) - set(chosen)
    )


def test_babel_follows_its_definition() -> None:
    found = babel(atoms(), 4)
    np.testing.assert_allclose(
        found, [babel_by_definition(atoms(), r) for r in (1, 2, 3, 4)], rtol=1e-5
    )


def test_babel_of_an_orthonormal_and_of_an_equiangular_dictionary() -> None:
    assert babel(torch.eye(5), 3).max() == 0
    simplex = torch.eye(4) - 0.25  # four directions, cosines -1/3
    np.testing.assert_allclose(babel(simplex, 3), [1 / 3, 2 / 3, 1], rtol=1e-5)
    with pytest.raises(OptionError, match="from 1 to 3"):
        babel(simplex, 4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_order_and_scale_of_latents_do_not_matter(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    d, order = atoms(9, 5, seed), torch.randperm(9, generator=generator)
    other = d[order] * (0.2 + torch.rand(9, 1, generator=generator))
    np.testing.assert_allclose(babel(d, 3), babel(other, 3), rtol=1e-4)
    assert mean_cosine(d) == pytest.approx(mean_cosine(other), rel=1e-4)
    np.testing.assert_allclose(max_cosines(d)[order.numpy()], max_cosines(other), rtol=1e-4)
    codes = torch.relu(torch.randn(30, 9, generator=generator))
    one, two = supports(codes), supports(codes[:, order])
    np.testing.assert_allclose(
        coactive_babel(d, *one, 3), coactive_babel(other, *two, 3), rtol=1e-4, equal_nan=True
    )
    assert coactive_cosine(d, *one) == pytest.approx(coactive_cosine(other, *two), rel=1e-4)
    assert effective_rank(codes) == pytest.approx(effective_rank(codes[:, order]), rel=1e-6)
    assert match(d, other).mean_cosine == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_array_equal(order.numpy()[match(d, other).columns], np.arange(9))


def test_coactive_babel_is_babel_of_the_rows_own_atoms() -> None:
    d = atoms()
    codes = torch.tensor([[1.0, 0, 1, 0, 1, 0, 0], [0, 1, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0]])
    found = coactive_babel(d, *supports(codes), 3)
    first, second = babel(d[[0, 2, 4]], 2), babel(d[[1, 3]], 1)
    np.testing.assert_allclose(found[:2], [(first[0] + second[0]) / 2, first[1]], rtol=1e-5)
    assert np.isnan(found[2])
    pairs = [cosines(d)[0, 2], cosines(d)[0, 4], cosines(d)[2, 4], cosines(d)[1, 3]]
    assert coactive_cosine(d, *supports(codes)) == pytest.approx(np.abs(pairs).mean(), rel=1e-5)


def test_effective_rank_of_equal_and_of_single_latents() -> None:
    assert effective_rank(torch.eye(6)) == pytest.approx(6)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1)
    assert np.isnan(effective_rank(torch.zeros(4, 3)))


def test_encoder_and_decoder_alike_have_cosine_one() -> None:
    np.testing.assert_allclose(encoder_decoder_cosines(3 * atoms().T, atoms()), np.ones(7))


def test_levels_of_a_conditionally_orthogonal_dictionary() -> None:
    d = torch.zeros(4, 4)
    d[0, 0] = d[2, 2] = d[3, 3] = 1
    d[1, :2] = torch.tensor([0.6, 0.8])
    within, across = level_cosines(d, np.array([0, 0, 1, 1]))
    assert (within, across) == (pytest.approx(0.3), 0.0)
    flat, hierarchical = gram_errors(torch.eye(4), d, np.array([0, 0, 1, 1]))
    assert (flat, hierarchical) == (pytest.approx(0.36 / 2), 0.0)


def test_an_opposite_atom_matches_only_without_sign() -> None:
    assert match(torch.eye(3), -torch.eye(3), signed=False).mean_cosine == pytest.approx(1)
    assert match(torch.eye(3), -torch.eye(3)).mean_cosine == pytest.approx(0)


def test_stability_weighs_by_density() -> None:
    first, second = torch.eye(3), torch.eye(3)
    second[2] = torch.tensor([0.0, 0.6, 0.8]).roll(1)
    found = seed_stability(first, second, np.array([1.0, 1.0, 2.0]))
    assert found.mean_cosine == pytest.approx(2.6 / 3)
    assert found.weighted_cosine == pytest.approx(2.6 * 0 + (1 + 1 + 2 * 0.6) / 4)
    assert found.shared == pytest.approx(2 / 3)


def test_detection_counts() -> None:
    truth = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    codes = torch.tensor([[1.0, 0], [0, 0], [1, 1], [0, 1]])
    found = detection(codes, truth, match(torch.eye(2), torch.eye(2)))
    assert found.precision == pytest.approx((0.5 + 1) / 2)
    assert found.recall == pytest.approx((0.5 + 1) / 2)


def test_absorption_by_hand() -> None:
    w_dec = torch.tensor([[1.0, 0], [2.0, 0.0], [0, 1.0]])
    probe = torch.tensor([1.0, 0])
    x = torch.tensor([[1.0, 5], [1, 5], [1, 5], [1, 5], [-1, 0]])
    codes = torch.tensor([[1.0, 0, 9], [0, 0.5, 9], [0.5, 0.25, 9], [0.8, 0.1, 9], [1, 0, 0]])
    found = absorption_scores(x, codes, w_dec, probe, [0])
    np.testing.assert_allclose(found, [0, 1, 0.5, 0, np.nan])


def test_absorbed_cosine_of_clean_and_of_absorbing_children() -> None:
    truth, parent = torch.eye(3), np.array([-1, 0, 0])
    absorbing = truth.clone()
    absorbing[1:, 0] = 1.0
    assert absorbed_cosine(truth, truth, parent) == 0
    assert absorbed_cosine(absorbing, truth, parent) == pytest.approx(2**-0.5)


def test_principal_components_reconstruct_like_sklearn() -> None:
    x = atoms(200, 6) @ atoms(6, 6, seed=1)
    pca = PCA(3).fit(x.double())
    theirs = pca.inverse_transform(pca.transform(x.double()))
    ours = PrincipalComponents(x, 3, leading=True)
    np.testing.assert_allclose(ours.decode(ours.encode(x)), theirs, atol=1e-3)
    chosen = PrincipalComponents(x, 3)
    assert (chosen.encode(x) != 0).sum(1).max() == 3
    assert fvu(x, chosen.decode(chosen.encode(x))) <= fvu(x, ours.decode(ours.encode(x)))


def test_random_decoder_is_fitted_by_one_factor_and_seeded() -> None:
    x = atoms(300, 16)
    made = [RandomDecoder(x, 64, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    codes = [one.encode(x) for one in made]
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
    found = fvu(x, made[0].decode(codes[0]))
    made[0].factor *= 1.2
    assert found < fvu(x, made[0].decode(made[0].encode(x)))
    assert 0 < found < 1


def test_sparse_probe_finds_the_planted_latent(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.random(400) < 0.5
    codes = np.abs(generator.normal(size=(400, 20)))
    codes[:, 13] += 4.0 * labels
    activations = codes @ generator.normal(size=(20, 8))
    found = sparse_probe(codes, activations, labels)
    assert found.latents[0] == 13
    # A single latent separates the classes but for about 3 %; 1e-4 false alarms at 0.9.
    assert found.accuracy[0] > 0.9
    assert found.baseline[0] < found.full
    with pytest.raises(OptionError, match="at least 5 rows of each class"):
        sparse_probe(codes[:12], activations[:12], np.arange(12) < 3)


def test_rows_of_one_document_are_not_split() -> None:
    groups = np.repeat(np.arange(40), 10)
    labels = np.arange(400) % 2 == 0
    codes = np.zeros((400, 40))
    # A latent per document says nothing about documents not seen: accuracy stays at chance.
    codes[np.arange(400), groups] = 1.0 + labels
    found = sparse_probe(codes, codes, labels, groups=groups, sizes=(5,))
    # 80 rows: 0.75 is 4.5 standard errors above chance.
    assert found.accuracy[0] < 0.75


def test_a_probe_cannot_learn_which_document_a_row_is_from() -> None:
    """Every document has a channel and a label of its own: nothing is to be told of other ones.

    With rows of one document on either side the probe would be right throughout. Of the eight documents
    scored, guessing gets more than seven right once in 28 times; the seed is fixed.
    """
    generator = np.random.default_rng(0)
    document = np.repeat(np.arange(40), 20)
    rows = np.eye(40)[document]
    labels = generator.permutation(np.arange(40) % 2 == 0)[document]
    found = sparse_probe(rows, rows, labels, groups=document, sizes=(5,))
    assert max(found.full, found.accuracy.max(), found.baseline.max()) < 0.9
    assert sparse_probe(rows, rows, labels, sizes=(5,)).full == 1.0
