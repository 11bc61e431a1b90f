"""Resampling of dead latents: who begins anew, where, and what else changes."""

import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import Learner, LearnOptions, ScheduleOptions, make_sae
from fluoroscope.sae.resampling import ENCODER_SHARE, resample_dead
from tests.sae.test_architectures import EVERY, D, P, made, rows

DEAD = torch.tensor([3, 17, 20])


def taught(name: str, n_steps: int = 3, **options) -> Learner:
    """A learner with moments everywhere, three of whose latents count as silent for long."""
    learner = Learner(
        made(name, **options),
        LearnOptions(schedule=ScheduleOptions(n_steps=50), learning_rate=0.01),
    )
    for step in range(n_steps):
        learner.step(rows(step))
    learner.rows_since_fired.zero_()
    learner.rows_since_fired[DEAD] = 100
    return learner


@pytest.mark.parametrize("name", EVERY)
def test_silent_latents_and_no_others_begin_anew(name):
    learner = taught(name)
    sae, x = learner.sae, rows(7)
    before = {key: value.clone() for key, value in sae.state_dict().items()}
    out = sae(x).reconstruction.detach()
    assert torch.equal(resample_dead(learner, x, None, out, 99), DEAD)
    alive = torch.ones(P, dtype=torch.bool)
    alive[DEAD] = False
    for key, axis in (("W_dec", 0), ("W_enc", 1), ("b_enc", 0), ("b_gate", 0), ("threshold", 0)):
        if key in before and before[key].ndim:
            kept = alive.nonzero().flatten()
            now = sae.state_dict()[key]
            assert torch.equal(now.index_select(axis, kept), before[key].index_select(axis, kept))
    assert torch.equal(sae.b_dec, before["b_dec"])
    # Each atom points to a row of its own, seen without the decoder's bias; so does its encoder.
    directions = torch.nn.functional.normalize(x - sae.b_dec, dim=1)
    cosines = sae.W_dec[DEAD] @ directions.t()
    torch.testing.assert_close(cosines.amax(1), torch.ones(3))
    assert len(set(cosines.argmax(1).tolist())) == 3
    if "W_enc" in before:
        live = before["W_enc"][:, alive].norm(dim=0).mean()
        torch.testing.assert_close(
            sae.W_enc[:, DEAD].t(), sae.W_dec[DEAD] * ENCODER_SHARE * live, atol=1e-6, rtol=1e-5
        )
    for key, start in (
        ("b_enc", 0),
        ("b_gate", 0),
        ("b_mag", 0),
        ("r_mag", 0),
        ("threshold", 1e-3),
    ):
        if key in before and before[key].ndim:
            assert torch.equal(sae.state_dict()[key][DEAD], torch.full((3,), float(start))), key


@pytest.mark.parametrize("name", EVERY)
def test_adam_forgets_them_and_nobody_else(name):
    learner = taught(name)
    sae, x = learner.sae, rows(7)
    axes = {id(parameter): axis for parameter, axis in sae.latent_axes()}
    assert id(sae.b_dec) not in axes
    moments = [
        (parameter, learner.optimiser.state[parameter][name])
        for parameter in sae.parameters()
        for name in ("exp_avg", "exp_avg_sq")
        if name in learner.optimiser.state[parameter]
    ]
    before = [held.clone() for _, held in moments]
    resample_dead(learner, x, None, sae(x).reconstruction.detach(), 99)
    assert len(moments) >= 4
    for (parameter, held), expected in zip(moments, before, strict=True):
        if id(parameter) in axes:
            expected.index_fill_(axes[id(parameter)], DEAD, 0.0)
        assert torch.equal(held, expected)
    assert not learner.rows_since_fired[DEAD].any()


def test_rows_are_drawn_by_the_square_of_their_squared_error():
    """One row is rebuilt three times as badly in length: it weighs 81 times a good one.

    Of 400 draws from 2 rows, 395.1 are expected to take the bad one, with a standard deviation of 2.2;
    outside of 385 to 400 once in 200,000 draws, and by the square alone 360 would be.
    """
    x = torch.zeros(2, D)
    x[0, 0], x[1, 1] = 3.0, 1.0
    taken = 0
    for seed in range(400):
        learner = taught("relu", n_steps=0)
        learner.step_count = seed
        learner.rows_since_fired.zero_()
        learner.rows_since_fired[5] = 100
        resample_dead(learner, x, None, torch.zeros(2, D), 99)
        taken += int(learner.sae.W_dec[5, 0] > 0.5)
    assert 385 <= taken <= 400


def test_a_transcoder_reads_one_site_and_writes_the_other():
    learner = taught("relu", n_steps=0, d_out=7, apply_b_dec_to_input=False)
    x, y = rows(1), rows(2)[:, :7]
    which = resample_dead(learner, x, y, torch.zeros_like(y), 99)
    at = (learner.sae.W_dec[which] @ torch.nn.functional.normalize(y, dim=1).t()).argmax(1)
    reads = torch.nn.functional.normalize(learner.sae.W_enc.t()[which], dim=1)
    torch.testing.assert_close(reads, torch.nn.functional.normalize(x[at], dim=1))


def test_at_most_as_many_as_rows_that_are_rebuilt_badly():
    learner = taught("relu")
    learner.rows_since_fired.fill_(100)
    x = rows(7)
    out = x.clone()
    out[:4] = 0
    assert len(resample_dead(learner, x, None, out, 99)) == 4
    assert len(resample_dead(learner, x, None, x, 99)) == 0
    assert len(resample_dead(learner, x, None, torch.full_like(x, torch.nan), 99)) == 0


def test_it_happens_every_so_many_steps_until_the_decay_begins_and_the_rate_warms_up_again():
    schedule = ScheduleOptions(n_steps=100, warmup_steps=4, decay_fraction=0.2)
    options = LearnOptions(schedule=schedule, resample_every=30)
    assert [n for n in range(1, 101) if options.resamples_after(n)] == [30, 60]
    rates = [options.rate_factor(step) for step in range(100)]
    plain = [schedule.learning_rate(step) for step in range(100)]
    for start in (30, 60):
        assert rates[start : start + 4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[:30] == plain[:30]
    assert rates[34:60] == plain[34:60]
    assert rates[64:] == plain[64:]
    with pytest.raises(OptionError, match="at least 2"):
        LearnOptions(schedule=schedule, resample_every=1)


def test_it_revives_latents_that_an_l1_penalty_has_killed():
    """The same training with and without: latents that fire at the end."""
    found = {}
    for every in (None, 40):
        sae = make_sae("relu", d_in=D, d_sae=64, l1=0.1, seed=1)
        with torch.no_grad():
            sae.b_enc[:40] = -8.0
        schedule = ScheduleOptions(n_steps=200, warmup_steps=5)
        learner = Learner(
            sae, LearnOptions(schedule=schedule, learning_rate=3e-3, resample_every=every)
        )
        fired = torch.zeros(64, dtype=torch.bool)
        for step in range(200):
            out, _ = learner.step(rows(step))
            fired |= (out.counts > 0) & (step >= 180)
        found[every] = int(fired.sum())
    assert found[None] <= 24
    assert found[40] > 50
