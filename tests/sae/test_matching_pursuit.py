import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import make_sae
from fluoroscope.sae.matching_pursuit import (
    PursuitOptions,
    gram_matrix,
    matching_pursuit,
    uses_gram,
)
from fluoroscope.sae.omp import orthogonal_matching_pursuit


def unit(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    atoms = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return atoms / atoms.norm(dim=1, keepdim=True)


def basis(d: int) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(3)))[0]


def data(n: int, d: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def plain(x, atoms, steps, tolerance=0.0, stop_on_repeat=False):
    """The definition, in plain autograd and one row at a time."""
    values, residuals, picks = [], [], []
    for row in x:
        r, got, seen = row, [], []
        while len(got) < steps:
            scores = r @ atoms.t()
            j = int(scores.argmax())
            v = torch.relu(r @ atoms[j])
            r = r - v * atoms[j]
            got.append(v)
            repeated = j in seen
            seen.append(j)
            if v <= 0 or (tolerance and r.norm() < tolerance) or (stop_on_repeat and repeated):
                break
        values.append(torch.stack(got + [row.new_zeros(())] * (steps - len(got))))
        picks.append(seen)
        residuals.append(r)
    return torch.stack(values), torch.stack(residuals), picks


@pytest.mark.parametrize("method", ["gram", "direct"])
def test_an_orthonormal_dictionary_gives_exact_coefficients(method):
    atoms, x = basis(10), data(50, 10)
    path = matching_pursuit(x, atoms, n_steps=10, method=method)
    torch.testing.assert_close(
        path.codes().dense(), torch.relu(x @ atoms.t()), atol=1e-5, rtol=1e-4
    )
    both = torch.cat([atoms, -atoms])
    whole = matching_pursuit(x, both, n_steps=10, method=method)
    assert whole.residual.norm(dim=1).max() < 1e-5


@pytest.mark.parametrize("method", ["gram", "direct"])
def test_what_is_rebuilt_is_the_input_less_the_residual(method):
    atoms, x = unit(60, 16), data(40, 16)
    path = matching_pursuit(x, atoms, n_steps=12, method=method)
    torch.testing.assert_close(
        path.codes().dense() @ atoms, x - path.residual, atol=1e-5, rtol=1e-5
    )
    assert (path.values >= 0).all()
    assert (path.codes().l0() <= 12).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.2, 1.414))
def test_the_residual_never_grows_up_to_square_length_two(seed, length):
    atoms, x = unit(30, 8, seed) * length, data(6, 8, seed + 1)
    path = matching_pursuit(x, atoms, n_steps=20)
    squares = path.residual_norms.square()
    predicted = squares[:, :-1] - path.values.square() * (2 - length**2)
    torch.testing.assert_close(squares[:, 1:], predicted, atol=1e-4, rtol=1e-4)
    assert (squares[:, 1:] <= squares[:, :-1] * (1 + 1e-5) + 1e-6).all()


def test_the_residual_grows_beyond_it():
    path = matching_pursuit(data(6, 8), unit(30, 8) * 1.6, n_steps=5)
    assert (path.residual_norms.diff(dim=1) > 0).all()


def test_the_residual_is_orthogonal_to_the_last_atom():
    atoms, x = unit(40, 12), data(20, 12)
    path = matching_pursuit(x, atoms, n_steps=7)
    last = atoms[path.indices[:, -1]]
    assert torch.linalg.vecdot(path.residual, last).abs().max() < 1e-5


def test_one_step_is_top_one_with_tied_weights():
    atoms, x = unit(40, 12), data(20, 12)
    values, indices = (x @ atoms.t()).max(1)
    path = matching_pursuit(x, atoms, n_steps=1)
    assert torch.equal(path.indices[:, 0], indices)
    torch.testing.assert_close(path.values[:, 0], values)


@pytest.mark.parametrize("n_latents", [37, 300, 2500])
def test_both_ways_choose_the_same_atoms(n_latents):
    atoms, x = unit(n_latents, 24), data(130, 24)
    ways = [matching_pursuit(x, atoms, n_steps=16, method=way) for way in ("gram", "direct")]
    assert torch.equal(ways[0].indices, ways[1].indices)
    torch.testing.assert_close(ways[0].values, ways[1].values)


def test_the_gram_matrix_is_whole():
    atoms = unit(2100, 5)
    torch.testing.assert_close(gram_matrix(atoms), atoms @ atoms.t())


@pytest.mark.parametrize(
    ("d", "n_latents", "n_rows", "n_steps", "expected"),
    [
        # What was faster, measured: 641 against 976 ms, 612 against 572, 60 against 36, 22 against 16.
        (576, 8192, 256, 32, True),
        (576, 8192, 128, 32, False),
        (128, 4096, 64, 32, False),
        (24, 2048, 512, 16, False),
        # A Gram matrix of 40 GB does not fit, however many rows there are.
        (576, 100_000, 10**6, 32, False),
    ],
)
def test_the_cheaper_way_is_taken_by_itself(d, n_latents, n_rows, n_steps, expected):
    rows, dictionary = (
        torch.empty(n_rows, d, device="meta"),
        torch.empty(n_latents, d, device="meta"),
    )
    assert uses_gram(rows, dictionary, PursuitOptions(n_steps=n_steps)) is expected
    for method, asked in (("gram", True), ("direct", False)):
        assert uses_gram(rows, dictionary, PursuitOptions(n_steps=n_steps, method=method)) is asked


def test_a_longer_path_begins_with_the_shorter():
    atoms, x = unit(80, 16), data(30, 16)
    long, short = (matching_pursuit(x, atoms, n_steps=n) for n in (24, 9))
    cut = long.truncated(9, x, atoms)
    assert torch.equal(cut.indices, short.indices)
    torch.testing.assert_close(cut.residual, short.residual, atol=1e-5, rtol=1e-5)
    shuffled = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    moved = matching_pursuit(x[shuffled], atoms, n_steps=9)
    assert torch.equal(moved.indices, short.indices[shuffled])


@pytest.mark.parametrize("method", ["gram", "direct"])
@pytest.mark.parametrize("rules", [{}, {"tolerance": 1.5}, {"stop_on_repeat": True}])
def test_gradients_equal_plain_autograd(method, rules):
    """Duplicated atoms included: of equal correlations the first is taken."""
    atoms = unit(20, 6, dtype=torch.float64) * 0.9
    atoms = torch.cat([atoms, atoms[:4]]).requires_grad_()
    x = data(15, 6, dtype=torch.float64).requires_grad_()
    weights = torch.randn(15, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    path = matching_pursuit(x, atoms, n_steps=8, method=method, **rules)
    ((path.values * weights).sum() + path.residual.square().sum()).backward()
    assert x.grad is not None
    assert atoms.grad is not None
    got = x.grad.clone(), atoms.grad.clone()
    x.grad = atoms.grad = None
    values, residual, picks = plain(x, atoms, 8, **rules)
    ((values * weights).sum() + residual.square().sum()).backward()
    for row, seen in enumerate(picks):
        taken = path.indices[row, : int(path.n_steps[row])].tolist()
        assert taken == seen[: len(taken)]
    torch.testing.assert_close(path.values, values)
    torch.testing.assert_close(got[0], x.grad, atol=1e-9, rtol=1e-7)
    torch.testing.assert_close(got[1], atoms.grad, atol=1e-9, rtol=1e-7)


def test_gradients_pass_gradcheck():
    atoms = (unit(9, 5, dtype=torch.float64) * 0.8).requires_grad_()
    x = data(4, 5, dtype=torch.float64).requires_grad_()

    def run(rows, dictionary):
        path = matching_pursuit(rows, dictionary, n_steps=4)
        return path.values, path.residual

    assert torch.autograd.gradcheck(run, (x, atoms), eps=1e-7, atol=1e-5)


def test_rows_stop_on_their_own():
    atoms = unit(50, 10)
    x = torch.cat([torch.zeros(1, 10), data(5, 10), -torch.ones(1, 10)])
    path = matching_pursuit(x, atoms, n_steps=30, relative_tolerance=0.3)
    assert path.n_steps[0] == 0
    assert (path.residual_norms[1:-1, -1] < 0.3 * path.residual_norms[1:-1, 0]).all()
    assert len(set(path.n_steps.tolist())) > 1
    none = matching_pursuit(torch.ones(2, 3), -torch.eye(3), n_steps=4)
    assert (none.values == 0).all()
    torch.testing.assert_close(none.residual, torch.ones(2, 3))


def test_repeats_are_marked_and_merged():
    angles = torch.deg2rad(torch.tensor([0.0, 120.0, 240.0]))
    atoms, x = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([[0.94, 0.34]])
    path = matching_pursuit(x, atoms, n_steps=4)
    assert path.repeats.tolist() == [[False, False, True, True]]
    codes = path.codes()
    assert codes.indices.tolist() == [0, 1]
    torch.testing.assert_close(codes.values.sum(), path.values.sum())
    stopped = matching_pursuit(x, atoms, n_steps=4, stop_on_repeat=True)
    assert int(stopped.n_steps) == 3


def test_options_out_of_range_are_refused():
    with pytest.raises(OptionError, match="n_steps must be at least 1"):
        matching_pursuit(data(2, 3), unit(4, 3), n_steps=0)
    with pytest.raises(OptionError, match="equally wide"):
        matching_pursuit(data(2, 3), unit(4, 5), n_steps=1)


def test_orthogonal_pursuit_equals_scikit_learns():
    from sklearn.linear_model import orthogonal_mp

    atoms, x = unit(40, 15, dtype=torch.float64), data(25, 15, dtype=torch.float64)
    values, indices = orthogonal_matching_pursuit(x, atoms, n_steps=6)
    dense = torch.zeros(25, 40, dtype=torch.float64).scatter_(1, indices, values)
    peer = orthogonal_mp(atoms.t().numpy(), x.t().numpy(), n_nonzero_coefs=6)
    np.testing.assert_allclose(dense.numpy(), np.asarray(peer).T, atol=1e-8)
    residual = x - dense @ atoms
    assert torch.einsum("bd,btd->bt", residual, atoms[indices]).abs().max() < 1e-9


def test_more_steps_at_inference_rebuild_better():
    sae = make_sae("mp", d_in=12, d_sae=48, k=3).eval()
    x = data(40, 12)
    with torch.no_grad():
        errors = [float(sae.pursue(x, k=k).residual.norm()) for k in (1, 3, 6, 12, 24)]
    assert errors == sorted(errors, reverse=True)


def test_memory_does_not_grow_with_rows_times_latents():
    """A dense matrix of correlations or pre-activations would be 1.2 GiB."""
    script = """
import resource, torch
from fluoroscope.sae import make_sae, matching_pursuit
torch.set_num_threads(1)
rows, p = torch.randn(4000, 8), 80_000
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("topk", "batchtopk"):
    make_sae(name, d_in=8, d_sae=p, k=4).train()(rows).loss.backward()
matching_pursuit(rows, make_sae("topk", d_in=8, d_sae=p, k=4).W_dec.detach(), n_steps=2)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    command = [sys.executable, "-c", script]
    grown = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown < 400, f"{grown:.0f} MiB more"
