"""JumpReLU, Gated and L1: closed forms."""

import math

import pytest
import torch

from fluoroscope.sae import (
    Learner,
    LearnOptions,
    ReluSae,
    ScheduleOptions,
    TrainingState,
    april_update,
    make_sae,
)
from fluoroscope.sae.jumprelu import jump, step


@pytest.mark.parametrize("through_pre", [False, True])
def test_straight_through_gradients_are_the_papers(through_pre):
    """Equations 11 and 12 on a single latent: inside, at the edge and outside of the kernel."""
    theta, width = 0.5, 0.2
    pre = torch.tensor([[0.45], [0.55], [0.62], [0.39], [2.0]], requires_grad=True)
    threshold = torch.tensor([theta], requires_grad=True)
    weights = torch.tensor([[1.0], [10.0], [100.0], [1000.0], [1e4]])
    (jump(pre, threshold, width, through_pre=through_pre) * weights).sum().backward()
    assert threshold.grad is not None
    assert threshold.grad.item() == pytest.approx(-(theta / width) * 11)
    active = torch.tensor([[0.0], [10.0], [100.0], [0.0], [1e4]])
    near = theta / width * torch.tensor([[1.0], [10.0], [0.0], [0.0], [0.0]])
    torch.testing.assert_close(pre.grad, active + near * through_pre)
    pre.grad = threshold.grad = None
    (step(pre, threshold, width) * weights).sum().backward()
    assert threshold.grad.item() == pytest.approx(-11 / width)
    assert pre.grad is None


def test_jump_relu_reaches_the_wanted_l0():
    sae = make_sae("jumprelu", d_in=16, d_sae=64, k=6, bandwidth=0.1, initial_threshold=0.05)
    schedule = ScheduleOptions(n_steps=400)
    learner = Learner(sae, LearnOptions(schedule=schedule, learning_rate=0.005, betas=(0.0, 0.999)))
    generator = torch.Generator().manual_seed(0)
    l0 = []
    for _ in range(400):
        rows = torch.randn(128, 16, generator=generator) / 4
        out, _ = learner.step(rows)
        l0.append(out.l0)
    assert l0[0] > 20
    assert sum(l0[-20:]) / 20 == pytest.approx(6, rel=0.2)


def test_a_closed_gate_lets_nothing_through():
    sae = make_sae("gated", d_in=8, d_sae=20)
    with torch.no_grad():
        sae.b_gate.fill_(-math.inf)
        sae.b_mag.fill_(3.0)
    assert not sae.encode(torch.randn(9, 8)).any()


def test_the_gates_own_loss_leaves_the_decoder_alone():
    sae = make_sae("gated", d_in=8, d_sae=20).train()
    out = sae(torch.randn(9, 8, generator=torch.Generator().manual_seed(0)))
    out.losses["gate"].backward()
    assert sae.W_dec.grad is None
    grad = sae.b_gate.grad
    assert grad is not None
    assert grad.any()


def test_without_a_penalty_gaussian_rows_are_rebuilt():
    sae = make_sae("relu", d_in=8, d_sae=32, l1=0.0)
    learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=600), learning_rate=0.01))
    generator = torch.Generator().manual_seed(0)
    *batches, last = [torch.randn(128, 8, generator=generator) for _ in range(600)]
    for rows in batches:
        learner.step(rows)
    out, _ = learner.step(last)
    report = learner.report(last, None, out)
    assert report.fvu < 0.01


def test_the_april_update_weighs_by_the_decoders_norm_and_folds():
    sae = ReluSae(april_update(d_in=8, d_sae=20)).train()
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(0))
    out = sae(x, state=TrainingState(sparsity=0.5))
    wanted = 5 * 0.5 * (out.codes * sae.W_dec.norm(dim=1)).sum(1).mean()
    torch.testing.assert_close(out.losses["l1"], wanted)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.full((20,), 0.1))


def test_dead_counters_reset_exactly_on_firing():
    sae = make_sae("topk", d_in=8, d_sae=64, k=2)
    learner = Learner(sae, LearnOptions(schedule=ScheduleOptions(n_steps=100)))
    expected = torch.zeros(64, dtype=torch.long)
    for seed in range(5):
        x = torch.randn(7, 8, generator=torch.Generator().manual_seed(seed))
        out, _ = learner.step(x)
        expected += 7
        expected[out.counts > 0] = 0
        assert torch.equal(learner.rows_since_fired, expected)
    assert expected.any()
