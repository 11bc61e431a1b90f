"""What holds for every architecture; single ones have files of their own."""

import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import (
    ARCHITECTURES,
    Learner,
    LearnOptions,
    ScheduleOptions,
    SparseAutoencoder,
    TrainingState,
    load_sae,
    make_sae,
)

D, P, ROWS = 12, 40, 30
K = {"topk", "batchtopk", "matryoshka", "mp", "omp", "jumprelu"}
EVERY = sorted(ARCHITECTURES)


def made(name: str, seed: int = 0, **options) -> SparseAutoencoder:
    chosen = {"k": 4} if name in K else {}
    return make_sae(name, d_in=D, d_sae=P, seed=seed, **(chosen | options))


def rows(seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, D, generator=torch.Generator().manual_seed(seed))


def trained(name: str, steps: int = 8, **options) -> SparseAutoencoder:
    sae = made(name, **options)
    learner = Learner(
        sae, LearnOptions(schedule=ScheduleOptions(n_steps=steps), learning_rate=0.01)
    )
    for step in range(steps):
        learner.step(rows(step))
    return sae.eval()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (2, 1, 4)])
def test_shapes_follow_the_input(name, leading):
    sae = trained(name)
    x = torch.randn(*leading, D, generator=torch.Generator().manual_seed(1))
    codes = sae.encode(x)
    assert codes.shape == (*leading, P)
    assert sae.decode(codes).shape == x.shape
    out = sae(x)
    assert out.reconstruction.shape == x.shape
    torch.testing.assert_close(sae.encode_sparse(x).dense(), codes)
    torch.testing.assert_close(sae.decode(sae.encode_sparse(x)), sae.decode(codes))
    torch.testing.assert_close(out.reconstruction, sae.decode(codes), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", EVERY)
def test_storage_gives_identical_codes(name, tmp_path):
    sae = trained(name)
    sae.metadata = {"site": "layers.3.resid_post"}
    again = load_sae(sae.save(tmp_path / "sae"))
    assert again.options == sae.options
    assert again.metadata == sae.metadata
    assert torch.equal(again.encode(rows(9)), sae.encode(rows(9)))


@pytest.mark.parametrize("name", EVERY)
def test_folding_an_input_scale_leaves_reconstructions(name):
    sae = trained(name)
    scale, raw = 0.25, rows(5) * 4
    before = sae(raw * scale).reconstruction / scale
    codes = sae.encode(raw * scale) / scale
    sae.fold_input_scale(scale)
    torch.testing.assert_close(sae(raw).reconstruction, before, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(sae.encode(raw), codes, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["relu", "gated", "jumprelu"])
def test_folding_decoder_norms_leaves_reconstructions(name):
    sae = trained(name, decoder_norm="free", decoder_init_norm=0.5)
    before = sae(rows(5)).reconstruction
    sae.fold_decoder_norms()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(P))
    torch.testing.assert_close(sae(rows(5)).reconstruction, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "mp"])
def test_folding_is_refused_where_it_would_change_the_choice(name):
    with pytest.raises(OptionError, match="would change which"):
        trained(name, decoder_norm="free").fold_decoder_norms()


@pytest.mark.parametrize("name", EVERY)
def test_atoms_keep_their_length_at_every_step(name):
    sae = made(name, decoder_norm="unit")
    learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=6), learning_rate=0.05))
    for step in range(6):
        learner.step(rows(step))
        assert (sae.W_dec.norm(dim=1) - 1).abs().max() < 1e-4
        assert sae.W_dec.grad is not None
        along = (sae.W_dec.grad * sae.W_dec).sum(1)  # against the atoms after the step: not zero
        assert torch.isfinite(along).all()


@pytest.mark.parametrize("name", EVERY)
def test_gradient_is_orthogonal_to_unit_atoms(name):
    sae = made(name, decoder_norm="unit").train()
    sae(rows(), state=TrainingState()).loss.backward()
    sae.project_gradient()
    grad = sae.W_dec.grad
    assert grad is not None
    assert (grad * sae.W_dec).sum(1).abs().max() < 1e-4 * grad.norm()


@pytest.mark.parametrize("name", [n for n in EVERY if n not in {"mp", "omp"}])
def test_a_transcoder_rebuilds_another_site(name, tmp_path):
    sae = made(name, d_out=7, apply_b_dec_to_input=False)
    x, y = rows(), rows(1)[:, :7]
    sae.initialise(x, y)
    torch.testing.assert_close(sae.b_dec.detach(), y.mean(0))
    assert sae(x, y).reconstruction.shape == y.shape
    with pytest.raises(OptionError, match="give target"):
        sae(x)
    assert torch.equal(load_sae(sae.save(tmp_path)).encode(x), sae.eval().encode(x))


@pytest.mark.parametrize("name", ["mp", "omp"])
def test_a_tied_dictionary_is_no_transcoder(name):
    with pytest.raises(OptionError, match="cannot be a transcoder"):
        made(name, d_out=7, apply_b_dec_to_input=False)


@pytest.mark.parametrize("name", EVERY)
def test_the_wrong_width_is_refused(name):
    with pytest.raises(OptionError, match="must have 12 columns"):
        made(name).encode(torch.zeros(3, D + 1))


@pytest.mark.parametrize("name", EVERY)
def test_token_standardisation_is_undone(name):
    sae = made(name, input_norm="token_std").eval()
    x = rows()
    moved = 3 * x + 5
    torch.testing.assert_close(sae.encode(moved), sae.encode(x), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(
        sae(moved).reconstruction, 3 * sae(x).reconstruction + 5, atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", EVERY)
def test_without_a_pre_bias_a_pass_still_is_decoded_codes(name):
    sae = made(name, apply_b_dec_to_input=False)
    x = rows() + 5
    sae.initialise(x)
    tied = name in {"mp", "omp"}
    torch.testing.assert_close(sae.b_dec.detach(), torch.zeros(D) if tied else x.mean(0))
    for bias in (0.0, 0.7):
        with torch.no_grad():
            sae.b_dec.fill_(bias)
        sae.eval()
        torch.testing.assert_close(
            sae(x).reconstruction, sae.decode(sae.encode(x)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize("name", EVERY)
def test_the_loss_falls(name):
    sae = made(name)
    learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=60), learning_rate=0.01))
    losses = [float(learner.step(rows())[0].losses["reconstruction"].detach()) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]


def test_unknown_names_are_refused():
    with pytest.raises(OptionError, match="Unknown architecture"):
        make_sae("ae", d_in=2, d_sae=2)
    with pytest.raises(OptionError, match="has no option kk"):
        make_sae("topk", d_in=2, d_sae=2, kk=1)
    with pytest.raises(OptionError, match="relative_tolerance from 0 to 1"):
        make_sae("mp", d_in=2, d_sae=2, k=1, relative_tolerance=1.0)
