"""Toy models, the batched SAE, tasks, compiled programs, learning coefficients, dimensions."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae.superposition.dimension import participation_ratio, two_nn
from fluoroscope.sae.superposition.experiments.adversarial import attack, digits
from fluoroscope.sae.superposition.experiments.sort import compress, squeeze_by
from fluoroscope.sae.superposition.llc import SgldOptions, learning_coefficients
from fluoroscope.sae.superposition.mlp import (
    FitOptions,
    StackedMLP,
    accuracy,
    cross_entropy,
    fit,
)
from fluoroscope.sae.superposition.programs import compile_program
from fluoroscope.sae.superposition.reading import read_tied
from fluoroscope.sae.superposition.tasks import modular_addition, sparse_parity
from fluoroscope.sae.superposition.tied import TiedOptions, TiedSAEs, train_tied
from fluoroscope.sae.superposition.toy import ToyOptions, Toys, sample_features, train_toys


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(n_rows: int, n_atoms: int, d: int, *, seed: int = 0) -> Tensor:
    """Rows that each hold one atom of an orthonormal set with a random positive strength."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.linalg.qr(torch.randn(d, d, generator=generator)).Q[:n_atoms]
    which = torch.randint(n_atoms, (n_rows,), generator=generator)
    return atoms[which] * (0.5 + torch.rand(n_rows, 1, generator=generator))


# -- toys --------------------------------------------------------------------------------------


def test_sampled_features_have_their_sparsity_and_are_uniform() -> None:
    """Share of zeros over 200,000 draws within 0.006 (five standard deviations)."""
    sparsity = torch.tensor([0.0, 0.3, 0.9])
    found = sample_features(sparsity, 10_000, 20, torch.Generator().manual_seed(0))
    zeros = (found == 0).float().mean((1, 2))
    torch.testing.assert_close(zeros, sparsity, atol=6e-3, rtol=0)
    for i in range(3):
        present = found[i][found[i] > 0]
        assert present.mean().item() == pytest.approx(0.5, abs=0.02)
        assert present.max() <= 1


def test_the_reference_of_an_orthogonal_toy_is_one_and_of_an_antipodal_one_two() -> None:
    alone = torch.cat([torch.eye(5), torch.zeros(5, 15)], 1)
    pairs = torch.cat([torch.eye(5), -torch.eye(5), torch.zeros(5, 10)], 1)
    toys = Toys(torch.stack([alone, pairs]), torch.zeros(2, 20), torch.zeros(2), torch.zeros(2))
    assert toys.reference().tolist() == pytest.approx([1.0, 2.0])
    assert toys.frobenius().tolist() == pytest.approx([1.0, 2.0])


def test_dense_toys_keep_five_features_and_sparse_ones_more() -> None:
    toys = train_toys(
        ToyOptions(n_steps=1200, learning_rate=1e-2), sparsity=torch.tensor([0.0, 0.99])
    )
    dense, sparse = toys.reference().tolist()
    assert dense == pytest.approx(1.0, abs=0.15)
    assert sparse > 1.4


def test_a_toy_does_not_see_its_neighbours() -> None:
    """Each model's training depends on its own weights and samples only."""
    both = torch.tensor([0.5, 0.9])
    together = train_toys(ToyOptions(n_steps=5), sparsity=both)
    other = train_toys(ToyOptions(n_steps=5), sparsity=torch.tensor([0.5, 0.1]))
    torch.testing.assert_close(together.weight[0], other.weight[0])
    assert not torch.allclose(together.weight[1], other.weight[1])


# -- the tied SAE ------------------------------------------------------------------------------


def test_the_two_reductions_are_one_loss_with_another_penalty() -> None:
    """Mean over everything is the sum's loss over N, with penalty l1 N / p: gradients agree."""
    from fluoroscope.sae.superposition.tied import _loss

    x, weight = gaussian(2, 30, 6), gaussian(2, 24, 6, seed=1)
    bias, l1 = gaussian(2, 24, seed=2), torch.tensor([0.1, 0.3])
    mean = _loss(x, weight, bias, l1, "mean")
    total = _loss(x, weight, bias, l1 * 6 / 24, "sum")
    torch.testing.assert_close(mean * 6, total)


def test_planted_atoms_are_found_and_counted() -> None:
    rows = planted(2000, 6, 8)[None]
    options = TiedOptions(n_latents=18, l1=0.2, max_epochs=40, learning_rate=1e-2)
    saes = train_tied(rows, options)
    (found,) = read_tied(saes, rows)
    assert found.fvu < 0.02
    assert 5.9 <= found.features <= 7, "six, or some atom split in two"
    assert found.l0 < 1.5
    assert found.psi == pytest.approx(found.features / 8)


def test_scaling_the_activations_changes_nothing_and_without_scaling_it_does() -> None:
    rows = planted(256, 6, 8)[None]
    readings = {}
    for scale in ("sqrt_d", "none"):
        options = TiedOptions(n_latents=12, max_epochs=20, scale=scale, learning_rate=1e-2)
        readings[scale] = [
            read_tied(train_tied(rows * f, options), rows * f)[0].fvu for f in (1.0, 8.0)
        ]
    assert readings["sqrt_d"][0] == pytest.approx(readings["sqrt_d"][1], rel=1e-3)
    assert readings["none"][0] != pytest.approx(readings["none"][1], rel=1e-2)


def test_the_best_epoch_is_kept_not_the_last() -> None:
    """At a learning rate that throws weights about, the last epoch is not the best."""
    rows = planted(256, 6, 8)[None]
    options = TiedOptions(n_latents=12, learning_rate=0.5, max_epochs=12, patience=12)
    saes = train_tied(rows, options)
    best = int(saes.losses[:, 0].argmin())
    again = train_tied(rows, TiedOptions(n_latents=12, learning_rate=0.5, max_epochs=best + 1))
    assert best < 11
    torch.testing.assert_close(saes.weight, again.weight)


def test_a_strong_penalty_leaves_nothing_and_says_so() -> None:
    rows = planted(256, 6, 8)[None]
    strong = train_tied(rows, TiedOptions(n_latents=8, l1=100.0, max_epochs=40, learning_rate=1e-2))
    (found,) = read_tied(strong, rows)
    assert math.isnan(found.features)
    assert math.isnan(found.psi)


def test_a_penalty_per_model_and_stopping_by_patience() -> None:
    rows = planted(256, 6, 8).expand(2, -1, -1)
    options = TiedOptions(n_latents=16, max_epochs=60, learning_rate=1e-2)
    saes = train_tied(rows, options, l1=torch.tensor([0.0, 3.0]))
    free, held = read_tied(saes, rows)
    assert held.l0 < free.l0
    still = TiedOptions(n_latents=8, max_epochs=500, patience=2, learning_rate=1e-12)
    assert len(train_tied(rows, still).losses) < 500
    with pytest.raises(OptionError, match="must be finite"):
        train_tied(rows * math.nan, options)
    with pytest.raises(OptionError, match="at least 1"):
        TiedOptions(n_latents=0)


def test_a_reading_agrees_with_its_formulas() -> None:
    rows = gaussian(1, 50, 4)
    saes = TiedSAEs(
        gaussian(1, 3, 4, seed=1), gaussian(1, 3, seed=2), torch.tensor([2.0]), gaussian(1, 1)
    )
    (found,) = read_tied(saes, rows)
    x = rows[0].double()
    w, b = saes.weight[0].double(), saes.bias[0].double()
    codes = (2 * x @ w.T + b).relu()
    error = (x - codes @ w / 2).square().sum() / (x - x.mean(0)).square().sum()
    assert found.fvu == pytest.approx(error.item(), rel=1e-5)
    assert found.l0 == pytest.approx((codes > 0).double().sum(1).mean().item())
    p = codes.sum(0) / codes.sum()
    assert found.features == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-5)


# -- tasks and networks ------------------------------------------------------------------------


def test_sparse_parity_labels_the_asked_tasks_bits() -> None:
    task = sparse_parity(3, 4)
    assert task.x.shape == (3 * 4096, 15)
    for row in (0, 77, 5000, 12_287):
        bits, control = task.x[row, :12].view(3, 4), task.x[row, 12:]
        assert control.sum() == 1
        assert task.labels[row] == bits[int(control.argmax())].sum() % 2
    assert len(torch.unique(task.x, dim=0)) == len(task.x), "every pattern once per task"
    with pytest.raises(OptionError, match="65,536 rows"):
        sparse_parity(4, 4)


def test_splits_are_stratified_disjoint_and_the_seeds_own() -> None:
    task = sparse_parity(2, 3)
    train, test = task.split(torch.tensor([0, 1, 0]), train_share=0.75)
    assert torch.equal(train[0], train[2])
    assert not torch.equal(train[0].sort().values, train[1].sort().values)
    for i in range(3):
        assert torch.equal(torch.cat([train[i], test[i]]).sort().values, torch.arange(128))
        counts = torch.bincount(task.stratum[train[i]], minlength=4)
        assert counts.tolist() == [24, 24, 24, 24]


def test_modular_addition_adds() -> None:
    task = modular_addition(7)
    a, b = task.x[:, :7].argmax(1), task.x[:, 7:].argmax(1)
    assert torch.equal((a + b) % 7, task.labels)
    assert len(task.x) == 49


def test_stacked_networks_equal_single_ones_and_learn() -> None:
    networks = StackedMLP(2, (5, 4, 3), torch.Generator().manual_seed(0))
    x = gaussian(2, 6, 5)
    alone = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
    with torch.no_grad():
        for layer, linear in enumerate(alone):
            linear.weight.copy_(networks.weights[layer][1].T)
            linear.bias.copy_(networks.biases[layer][1, 0])
        torch.testing.assert_close(networks(x)[1], alone[1](alone[0](x[1]).relu()))
        torch.testing.assert_close(networks.hidden(x)[1], alone[0](x[1]).relu())
    task = sparse_parity(1, 3)
    learner = StackedMLP(2, (4, 32, 2), torch.Generator().manual_seed(0))
    rows = torch.arange(8).expand(2, -1)
    recipe = FitOptions(n_epochs=300, batch_rows=8, learning_rate=2e-2)
    fit(learner, task.x, task.labels, rows, cross_entropy, recipe)
    assert accuracy(learner, task.x, task.labels, rows).tolist() == [1.0, 1.0]


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """Mean over 200,000 units within 1 %; the share dropped within 0.5 %: five deviations."""
    networks = StackedMLP(2, (1, 1000, 1), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for p in networks.parameters():
            p.zero_()
        networks.biases[0].fill_(1.0)
        networks.weights[1].fill_(1e-3)
    x, generator = torch.zeros(2, 200, 1), torch.Generator().manual_seed(0)
    out = networks(x, dropout=torch.tensor([0.0, 0.5]), generator=generator).detach()
    assert out[0].std() == pytest.approx(0, abs=1e-6)
    assert out[1].mean().item() == pytest.approx(1.0, abs=0.01)
    assert out[1].std().item() == pytest.approx(1e-3**0.5, rel=0.3)


def test_attacks_stay_in_their_budget_and_hurt() -> None:
    task = digits(3)
    networks = StackedMLP(2, (64, 16, 3), torch.Generator().manual_seed(0))
    rows = torch.arange(len(task.x)).expand(2, -1)
    recipe = FitOptions(n_epochs=10, batch_rows=64, learning_rate=1e-2)
    fit(networks, task.x, task.labels, rows, cross_entropy, recipe)
    x, labels = task.x[:100].expand(2, -1, -1), task.labels[:100].expand(2, -1)
    eps = torch.tensor([0.0, 0.3])
    generator = torch.Generator().manual_seed(0)
    found = attack(networks, x, labels, eps, n_steps=10, generator=generator)
    assert torch.equal(found[0], x[0]), "a budget of 0 changes nothing"
    assert (found[1] - x[1]).abs().max() <= 0.3 + 1e-6
    assert found.min() >= 0
    assert found.max() <= 1
    with torch.no_grad():
        before, after = (cross_entropy(networks(i), labels).mean(1) for i in (x, found))
    assert after[0] == pytest.approx(before[0].item())
    assert after[1] > before[1] + 1
    assert all(p.grad is not None for p in networks.parameters()), "as training left them"


# -- compiled programs -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["reverse", "sort"])
@pytest.mark.parametrize(("n_tokens", "longest"), [(2, 2), (8, 6), (10, 9)])
def test_compiled_programs_are_exact(name: str, n_tokens: int, longest: int) -> None:
    program = compile_program(name, n_tokens=n_tokens, longest=longest)  # type: ignore[arg-type]
    tokens, answers = program.sequences(300, torch.Generator().manual_seed(0))
    logits, stream = program.run(tokens)
    asked = answers >= 0
    assert torch.equal(logits.argmax(-1)[asked], answers[asked])
    torch.testing.assert_close(logits[asked].max(-1).values, torch.ones(int(asked.sum())))
    assert all(bool((s > -1e-5).all()) for s in stream), "what relu(W^T W x) must not cut"
    for row in range(20):
        length = int((tokens[row, 1:] >= 0).sum())
        given, right = tokens[row, 1 : length + 1], answers[row, 1 : length + 1]
        assert right.tolist() == (given.flip(0) if name == "reverse" else given.sort()[0]).tolist()


def test_squeezing_by_the_identity_changes_nothing_and_impossible_programs_are_refused() -> None:
    program = compile_program("sort", n_tokens=4, longest=3)
    tokens, _ = program.sequences(20, torch.Generator().manual_seed(0))
    plain, _ = program.run(tokens)
    squeezed, stream = program.run(tokens, squeeze_by(torch.eye(program.size).expand(2, -1, -1)))
    torch.testing.assert_close(squeezed[1], plain)
    assert stream[0].shape[0] == 2
    with pytest.raises(OptionError, match="at most n_tokens"):
        compile_program("sort", n_tokens=3, longest=4)


def test_wide_compression_keeps_the_program_and_one_dimension_cannot() -> None:
    program = compile_program("reverse", n_tokens=3, longest=3)
    matrices = compress(program, [program.size, 1], n_steps=120, batch_rows=32, learning_rate=3e-3)
    assert not matrices[1, 1:].any(), "narrow matrices are padded with zeros"
    tokens, answers = program.sequences(100, torch.Generator().manual_seed(1))
    logits, _ = program.run(tokens, squeeze_by(matrices))
    right = (logits.argmax(-1) == answers)[:, answers >= 0].float().mean(1)
    assert right[0] > 0.97
    assert right[1] < 0.7


# -- learning coefficient ----------------------------------------------------------------------


def test_the_learning_coefficient_of_a_regular_model_is_half_its_parameters() -> None:
    """L = |w|^2 / 2 in d dimensions: d/2 n beta / (n beta + gamma); 40 chains, mean within 5 %."""
    d, n, gamma = 8, 1000, 10.0
    beta = 1 / math.log(n)

    def objective(parameters: list[Tensor], generator: torch.Generator | None) -> Tensor:
        return parameters[0].square().sum(1) / 2

    options = SgldOptions(step_size=1e-3, gamma=gamma, n_burn_in=300, n_steps=1500)
    found = learning_coefficients([torch.zeros(40, d)], objective, n, options)
    expected = d / 2 * n * beta / (n * beta + gamma)
    assert found.mean().item() == pytest.approx(expected, rel=0.08)


def test_a_degenerate_minimum_has_a_smaller_coefficient() -> None:
    """L = w1^4 has 1/4, L = w1^2 / 2 has 1/2, a flat direction 0."""

    def objective(parameters: list[Tensor], generator: torch.Generator | None) -> Tensor:
        w = parameters[0][:, 0]
        kind = torch.arange(len(w)) % 3
        return torch.where(kind == 0, w.square() / 2, torch.where(kind == 1, w**4, 0 * w))

    options = SgldOptions(step_size=1e-3, gamma=0.5, n_burn_in=1500, n_steps=3000)
    found = learning_coefficients([torch.zeros(150, 1)], objective, 1000, options)
    regular, quartic, flat = (found[k::3].mean().item() for k in range(3))
    assert regular == pytest.approx(0.5, rel=0.15)
    assert quartic == pytest.approx(0.25, rel=0.25)
    assert flat == 0


def test_weights_given_are_not_moved_and_tiny_samples_are_refused() -> None:
    weights = torch.ones(2, 3)
    options = SgldOptions(n_burn_in=0, n_steps=3)

    def objective(parameters: list[Tensor], generator: torch.Generator | None) -> Tensor:
        return parameters[0].square().sum(1)

    learning_coefficients([weights], objective, 10, options)
    assert torch.equal(weights, torch.ones(2, 3))
    with pytest.raises(OptionError, match="at least 3"):
        learning_coefficients([weights], objective, 2, options)


# -- intrinsic dimension -----------------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 2, 5])
def test_two_nn_finds_the_dimension_of_an_embedded_cube(d: int) -> None:
    """Interval of 2,000 points is about 4.5 % of the value; the border costs some more."""
    cube = torch.rand(2000, d, generator=torch.Generator().manual_seed(0))
    embedded = cube @ torch.linalg.qr(gaussian(20, 20)).Q[:d]
    found = two_nn(torch.cat([embedded, embedded[:100]]))
    assert found.n_points == 2000, "duplicates count once"
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(d, rel=0.1)
    assert found.high / found.low == pytest.approx(1 + 2 * 1.96 / 2000**0.5, abs=0.01)
    with pytest.raises(OptionError, match="3 distinct points"):
        two_nn(torch.ones(9, 2))


def test_participation_ratio_counts_equal_directions() -> None:
    basis = torch.cat([torch.eye(4), -torch.eye(4)])
    assert participation_ratio(basis) == pytest.approx(4)
    assert participation_ratio(basis @ torch.diag(torch.tensor([1.0, 1, 0, 0]))) == pytest.approx(2)
    rows = gaussian(5, 40)
    eigenvalues = np.linalg.eigvalsh(np.cov(rows.double().numpy(), rowvar=False))
    expected = eigenvalues.sum() ** 2 / (eigenvalues**2).sum()
    assert participation_ratio(rows) == pytest.approx(expected)
    assert math.isnan(participation_ratio(torch.ones(5, 3)))
