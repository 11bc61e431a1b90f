"""TopK, BatchTopK and Matryoshka: what is kept, and what has a gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.sae import SparseCodes, TrainingState, as_sparse, make_sae
from fluoroscope.sae.batch_encoding import encode_batch_top_k
from fluoroscope.sae.encoding import encode_top_k
from fluoroscope.sae.select import top_k
from fluoroscope.sae.sparse import sparse_decode


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 10_000), st.sampled_from([3, 40, 333, 1024, 2000]), st.integers(1, 3),
    st.sampled_from(["normal", "ties", "zeros", "infinite"]),
)  # fmt: skip
def test_top_k_equals_torchs(seed, n_columns, k, kind):
    scores = normal(17, n_columns, seed=seed)
    if kind == "ties":
        scores = scores.round()
    if kind == "zeros":
        scores = torch.zeros_like(scores)
    if kind == "infinite":
        scores[0, 0] = torch.inf
        scores[1] = -torch.inf
    values, columns = top_k(scores, k)
    torch.testing.assert_close(values.sort(1).values, scores.topk(k, 1).values.sort(1).values)
    torch.testing.assert_close(scores.gather(1, columns), values)
    assert all(len(set(row)) == k for row in columns.tolist())


def dense_top_k(x, weight, bias, k):
    pre = x @ weight + bias
    kept = torch.zeros_like(pre).scatter(1, pre.topk(k, 1).indices, 1.0)
    return torch.relu(pre) * kept


@pytest.mark.parametrize("p", [50, 1500])
def test_gradients_of_top_k_equal_the_dense_ones(p):
    k, weights = 5, normal(40, 8, seed=4)
    leaves = [normal(40, 8), normal(8, p, seed=1), normal(p, seed=2), normal(p, 8, seed=3)]
    grads = []
    for way in ("sparse", "dense"):
        x, w, b, d = (leaf.clone().requires_grad_() for leaf in leaves)
        if way == "sparse":
            codes = SparseCodes.from_padded(*encode_top_k(x, w, b, k), p)
            out = sparse_decode(codes, d)
        else:
            out = dense_top_k(x, w, b, k) @ d
        (out * weights).sum().backward()
        grads.append([leaf.grad for leaf in (x, w, b, d)])
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_gradients_of_batch_top_k_equal_the_dense_ones():
    leaves = [normal(40, 8), normal(8, 90, seed=1), normal(90, seed=2), normal(90, 8, seed=3)]
    weights, grads = normal(40, 8, seed=4), []
    for way in ("sparse", "dense"):
        x, w, b, d = (leaf.clone().requires_grad_() for leaf in leaves)
        if way == "sparse":
            out = sparse_decode(encode_batch_top_k(x, w, b, 120), d)
        else:
            pre = torch.relu(x @ w + b)
            least = pre.flatten().topk(120).values.min().detach()
            out = torch.where(pre >= least, pre, 0.0) @ d
        (out * weights).sum().backward()
        grads.append([leaf.grad for leaf in (x, w, b, d)])
    for got, wanted in zip(*grads, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10_000), st.integers(1, 4000), st.sampled_from([1.0, 0.05]))
def test_batch_top_k_keeps_the_largest_of_the_batch(seed, n_kept, evenness):
    """Also where the first rows are unlike the rest, so that the first guess is far off."""
    x = normal(200, 6, seed=seed) * torch.linspace(evenness, 1, 200)[:, None]
    w, b = normal(6, 300, seed=seed + 1), torch.zeros(300)
    codes = encode_batch_top_k(x, w, b, n_kept)
    pre = torch.relu(x @ w)
    n_wanted = min(n_kept, int((pre > 0).sum()))
    assert len(codes.values) == n_wanted
    wanted = pre.flatten().topk(n_wanted).values.sort().values
    torch.testing.assert_close(codes.values.sort().values, wanted)
    torch.testing.assert_close(pre[codes.rows, codes.indices], codes.values)


def test_l0_is_k_or_the_number_of_positive_pre_activations():
    sae = make_sae("topk", d_in=8, d_sae=60, k=20).eval()
    with torch.no_grad():
        sae.b_enc.sub_(0.6)
    x = normal(100, 8)
    positive = (sae.centred(x) @ sae.W_enc + sae.b_enc > 0).sum(1)
    assert (positive < 20).any()
    assert torch.equal(sae.encode_sparse(x).l0(), positive.clamp(max=20))


def test_batch_top_k_is_independent_of_the_batch_at_inference():
    sae = make_sae("batchtopk", d_in=8, d_sae=64, k=4).train()
    for step in range(30):
        assert len(as_sparse(sae(normal(50, 8, seed=step)).codes).values) == 200
    sae.eval()
    x = normal(60, 8, seed=99)
    together = sae.encode(x)
    apart = torch.cat([sae.encode(x[i : i + 7]) for i in range(0, 60, 7)])
    torch.testing.assert_close(together, apart)
    assert 2 < float((together != 0).sum(1).float().mean()) < 6
    torch.testing.assert_close(sae.as_jumprelu().encode(x), together)


def test_matryoshka_of_one_level_is_batch_top_k_bit_for_bit():
    plain = make_sae("batchtopk", d_in=8, d_sae=64, k=4, seed=3).train()
    nested = make_sae("matryoshka", d_in=8, d_sae=64, k=4, levels=(1.0,), seed=3).train()
    x = normal(50, 8)
    outs = [sae(x) for sae in (plain, nested)]
    for out in outs:
        out.loss.backward()
    assert torch.equal(outs[0].loss, outs[1].loss)
    for a, b in zip(plain.parameters(), nested.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_matryoshka_sums_the_errors_of_prefixes():
    sae = make_sae("matryoshka", d_in=8, d_sae=64, k=4, levels=(0.25, 0.25, 0.5), auxk=0.0).train()
    assert sae.bounds == (0, 16, 32, 64)
    x = normal(50, 8)
    out = sae(x)
    codes = as_sparse(out.codes).dense()
    errors = [
        (codes[:, :stop] @ sae.W_dec[:stop] + sae.b_dec - x).square().sum() / 50
        for stop in (16, 32, 64)
    ]
    torch.testing.assert_close(out.loss, torch.stack(errors).mean())


def test_dead_latents_alone_learn_from_the_auxiliary_loss():
    sae = make_sae("topk", d_in=8, d_sae=64, k=4).train()
    dead = torch.zeros(64, dtype=torch.bool)
    dead[::3] = True
    with torch.no_grad():
        sae.b_enc[dead] -= 5  # never among the largest
        sae.b_enc += 10 * dead  # yet positive among the dead
        sae.b_enc[~dead] += 20
        sae.b_dec += 1.0
    out = sae(normal(50, 8), state=TrainingState(dead=dead))
    out.losses["auxk"].backward()
    assert sae.b_dec.grad is None or not sae.b_dec.grad.any()
    assert sae.W_enc.grad is not None
    for grad in (sae.W_dec.grad, sae.W_enc.grad.t(), sae.b_enc.grad):
        assert not grad[~dead].any()
        assert grad[dead].any()


def test_codes_change_form_without_loss():
    dense = torch.relu(normal(3, 5, 20) - 0.5)
    codes = SparseCodes.from_dense(dense)
    torch.testing.assert_close(codes.dense(), dense)
    values, indices = codes.padded()
    torch.testing.assert_close(SparseCodes.from_padded(values, indices, 20).dense(), dense)
    assert torch.equal(codes.l0(), (dense != 0).sum(-1).flatten())
    assert torch.equal(codes.counts(), (dense != 0).flatten(0, 1).sum(0))
    empty = SparseCodes.from_dense(torch.zeros(4, 6))
    assert empty.padded()[0].shape == (4, 0)
    assert torch.equal(sparse_decode(empty, normal(6, 2)), torch.zeros(4, 2))
