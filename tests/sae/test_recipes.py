"""How things are learned: schedules, scales, and one step of training written out."""

import copy
import math

import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import Learner, LearnOptions, ScheduleOptions, TrainingState, make_sae
from fluoroscope.sae.recipes import for_steps, learn_options, sae_options
from fluoroscope.sae.scaling import examine
from fluoroscope.sae.schedule import default_learning_rate


def test_the_linear_schedule_by_hand() -> None:
    """Ten steps up, flat, down to a twentieth over the last fifth of 100."""
    schedule = ScheduleOptions(n_steps=100, warmup_steps=10)
    got = [schedule.learning_rate(step) for step in (0, 9, 10, 79, 80, 90, 99)]
    assert got == pytest.approx([1 / 11, 10 / 11, 1, 1, 1, 0.5, 1 / 20])
    assert schedule.steady_steps == 80


def test_the_cosine_schedule_by_hand() -> None:
    schedule = ScheduleOptions(n_steps=100, warmup_steps=10, decay="cosine")
    got = [schedule.learning_rate(step) for step in (9, 10, 55, 99)]
    assert got == pytest.approx([10 / 11, 1, 0.5, 0.5 * (1 + math.cos(math.pi * 89 / 90))])
    assert ScheduleOptions(n_steps=100, decay="none").learning_rate(99) == 1.0


def test_warm_ups_are_cut_in_short_trainings() -> None:
    """A tenth for the learning rate, a fifth for sparsity."""
    schedule = ScheduleOptions(n_steps=1000, warmup_steps=1000, sparsity_warmup_steps=5000)
    assert schedule.learning_rate(49) == pytest.approx(50 / 101)
    got = [schedule.sparsity(step) for step in (0, 99, 199, 200, 999)]
    assert got == pytest.approx([1 / 201, 100 / 201, 200 / 201, 1, 1])


def test_rates_are_those_published_and_raised_for_short_trainings() -> None:
    assert default_learning_rate(2**14) == pytest.approx(2e-4)
    assert default_learning_rate(2**16) == pytest.approx(1e-4)
    assert for_steps(200_000) == for_steps(10**6) == 1.0
    assert for_steps(50_000) == pytest.approx(2.0)
    assert for_steps(10) == 10.0
    made = learn_options("jumprelu", d_sae=64, n_steps=200_000)
    assert (made.learning_rate, made.betas) == (7e-5, (0.0, 0.999))
    assert learn_options("topk", d_sae=2**16, n_steps=200_000).learning_rate == pytest.approx(1e-4)
    assert sae_options("relu", d_sae=64, k=3, l1=0.5) == {"d_sae": 64, "l1": 0.5}
    assert sae_options("topk", d_sae=64, k=3, l1=0.5) == {"d_sae": 64, "k": 3}
    with pytest.raises(OptionError, match="Unknown architecture"):
        sae_options("ae", d_sae=4, k=1)


def test_scales_do_what_they_are_named_after() -> None:
    """Without the long rows, which are left out of every figure."""
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    with_long = torch.cat([rows, 1000 * rows[:5]])
    found = examine("x", with_long, n_rows=None, d_sae=8, max_norm_ratio=10.0)
    assert found.kept(with_long).sum() == 500
    scaled = rows * found.scale("unit_ms")
    assert scaled.square().sum(1).mean().item() == pytest.approx(1.0, rel=1e-5)
    scaled = rows * found.scale("sqrt_d")
    assert scaled.norm(dim=1).mean().item() == pytest.approx(6**0.5, rel=1e-5)
    assert found.scale("none") == 1.0


def test_a_step_is_gradient_projection_clipping_adam_and_length() -> None:
    """Against plain torch: an Adam that is not fused, torch's own clipping, atoms by hand."""
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    schedule = ScheduleOptions(n_steps=20, warmup_steps=2, sparsity_warmup_steps=4)
    sae = make_sae("relu", d_in=6, d_sae=20, l1=0.3)
    twin = copy.deepcopy(sae).train()
    learner = Learner(sae, LearnOptions(schedule=schedule, learning_rate=0.02, clip_norm=0.5))
    adam = torch.optim.Adam(twin.parameters(), betas=(0.9, 0.999), eps=6.25e-10)
    for step in range(20):
        learner.step(x)
        out = twin(x, state=TrainingState(sparsity=schedule.sparsity(step)))
        adam.zero_grad()
        out.loss.backward()
        grad = twin.W_dec.grad
        assert grad is not None
        along = (grad * twin.W_dec.detach()).sum(1, keepdim=True)
        grad -= along * twin.W_dec.detach()
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        assert norm > 0.6, "clipping must be at work"
        adam.param_groups[0]["lr"] = 0.02 * schedule.learning_rate(step)
        adam.step()
        with torch.no_grad():
            twin.W_dec /= twin.W_dec.norm(dim=1, keepdim=True)
    for (name, got), wanted in zip(sae.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-3, msg=name)


def test_a_small_gradient_is_not_stretched() -> None:
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for clip in (1e6, None):
        sae = make_sae("topk", d_in=6, d_sae=20, k=2)
        options = LearnOptions(
            schedule=ScheduleOptions(n_steps=5), learning_rate=0.02, clip_norm=clip, eps=1.0
        )
        learner = Learner(sae, options)
        for _ in range(5):
            learner.step(x)
        found.append(sae.W_dec.detach())
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize(("dead_after_rows", "limit"), [(10_000_000, 250), (100, 100)])
def test_latents_are_dead_after_so_many_rows_or_a_quarter_of_the_training(
    dead_after_rows: int, limit: int
) -> None:
    sae = make_sae("topk", d_in=6, d_sae=20, k=2)
    schedule = ScheduleOptions(n_steps=100)
    learner = Learner(sae, LearnOptions(schedule=schedule, dead_after_rows=dead_after_rows))
    learner.rows_since_fired[3], learner.rows_since_fired[4] = limit, limit - 1
    assert learner.dead(10).nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize("name", ["relu", "gated", "topk", "batchtopk", "jumprelu"])
def test_scales_of_both_sites_of_a_transcoder_fold(name: str) -> None:
    k = {} if name in {"relu", "gated"} else {"k": 4}
    sae = make_sae(name, d_in=6, d_sae=20, d_out=5, apply_b_dec_to_input=False, **k)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for held in sae.parameters():
            held += 0.1 * torch.randn(held.shape, generator=generator)
        if name == "batchtopk":
            sae.threshold.fill_(0.2)
    sae.eval()
    raw, target = 4 * torch.randn(30, 6, generator=generator), torch.zeros(30, 5)
    before = sae(raw * 0.25, target).reconstruction / 3.0
    codes = sae.encode(raw * 0.25) / 0.25
    sae.fold_input_scale(0.25, 3.0)
    torch.testing.assert_close(sae(raw, target).reconstruction, before, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sae.encode(raw), codes, atol=1e-5, rtol=1e-4)
