"""Interventions: exactly the rows and dimensions asked for, and nothing else."""

import pytest
import torch

from fluoroscope.probes import Positions, capture, intervene
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.intervene import add, mean, resample, scale, set_dims, swap, zero
from tests.conftest import ids, n_hooks

SITE = "layers.1.resid_post"


def edited(model, edit, **options):
    with torch.no_grad(), capture(model, SITE) as acts:
        model(ids())
    with torch.no_grad(), capture(model, SITE) as after, intervene(model, {SITE: edit}, **options):
        model(ids())
    return acts[SITE], after[SITE]


def test_ready_made_edits_do_what_they_say(tiny_llama) -> None:
    before, after = edited(tiny_llama, zero())
    assert (after == 0).all()
    before, after = edited(tiny_llama, mean(torch.stack([torch.ones(32), torch.zeros(32)])))
    assert (after == 0.5).all()
    direction = torch.arange(32.0)
    before, after = edited(tiny_llama, add(direction, scale=2.0))
    assert torch.equal(after, before + 2 * direction)
    before, after = edited(tiny_llama, scale(3.0))
    assert torch.equal(after, before * 3)
    before, after = edited(tiny_llama, set_dims([3, 5], 7.0))
    assert (after[..., [3, 5]] == 7).all()
    rest = [d for d in range(32) if d not in (3, 5)]
    assert torch.equal(after[..., rest], before[..., rest])
    other = torch.randn(7, 32)
    _, after = edited(tiny_llama, swap(other))
    assert torch.equal(after, other.expand(2, 7, 32))


def test_resampled_rows_come_from_the_pool_and_from_the_seed(tiny_llama) -> None:
    pool = torch.randn(5, 32)
    _, first = edited(tiny_llama, resample(pool, torch.Generator().manual_seed(1)))
    _, again = edited(tiny_llama, resample(pool, torch.Generator().manual_seed(1)))
    assert torch.equal(first, again)
    assert all(any(torch.equal(row, p) for p in pool) for row in first.reshape(-1, 32))


def test_other_rows_stay_bit_for_bit(tiny_llama) -> None:
    before, after = edited(tiny_llama, zero(), rows=Positions([2]))
    assert (after[:, 2] == 0).all()
    kept = [p for p in range(7) if p != 2]
    assert torch.equal(after[:, kept], before[:, kept])


def test_last_means_each_texts_last_token_under_padding(tiny_llama) -> None:
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[0, 4:] = 0
    with torch.no_grad(), capture(tiny_llama, "embed") as acts:
        with intervene(tiny_llama, {"embed": zero()}, rows="last"):
            tiny_llama(ids(), attention_mask=mask)
    zeroed = (acts["embed"] == 0).all(-1)
    assert zeroed.nonzero().tolist() == [[0, 3], [1, 6]]


def test_edits_of_one_site_run_in_the_order_entered(tiny_llama) -> None:
    _, chained = edited(tiny_llama, [zero(), add(torch.ones(32)), scale(4.0)])
    assert (chained == 4).all()
    with torch.no_grad(), capture(tiny_llama, SITE) as acts:
        with intervene(tiny_llama, {SITE: zero()}), intervene(tiny_llama, {SITE: lambda v: v + 1}):
            tiny_llama(ids())
    assert (acts[SITE] == 1).all()


def test_edits_reach_generation_at_absolute_positions(tiny_llama) -> None:
    with capture(tiny_llama, "embed") as acts:
        with intervene(tiny_llama, {"embed": zero()}, rows=Positions([0, 8])):
            tiny_llama.generate(ids(1), max_new_tokens=4, do_sample=False, eos_token_id=None)
    zeroed = (acts["embed"][0] == 0).all(-1).nonzero().flatten().tolist()
    assert zeroed == [0, 8]


def test_the_logits_themselves_can_be_edited(tiny_llama) -> None:
    with torch.no_grad(), intervene(tiny_llama, {"logits": zero()}):
        assert (tiny_llama(ids()).logits == 0).all()


def test_bad_edits_are_refused_and_leave_no_hook(tiny_llama) -> None:
    before = n_hooks(tiny_llama.module)
    with pytest.raises(
        OptionError, match=r"must return a tensor of shape \(2, 7, 32\).*got \(2, 7\)"
    ):
        edited(tiny_llama, lambda v: v[..., 0])
    with pytest.raises(OptionError, match="got NoneType"):
        edited(tiny_llama, lambda v: None)
    with pytest.raises(OptionError, match=r"swap holds values of shape \(3, 32\)"):
        edited(tiny_llama, swap(torch.randn(3, 32)))
    with pytest.raises(OptionError, match="changed its argument in place"):
        edited(tiny_llama, lambda v: v.mul_(2))
    assert n_hooks(tiny_llama.module) == before


@pytest.mark.embedded
def test_two_neurons_write_the_massive_activation(embedded) -> None:
    """Design fact: 2.4e4 at the first token in dimension 507, written by neurons 1229 and 1487."""
    text = embedded.encode("Summer is warm. Winter is cold.")[None]
    site, hidden = "layers.11.resid_post", "layers.11.mlp.hidden"
    with torch.no_grad(), capture(embedded, site) as acts:
        embedded(text)
    peak = acts[site][0].abs()
    assert divmod(int(peak.argmax()), 576) == (0, 507)
    assert peak.max() > 2e4
    with torch.no_grad(), capture(embedded, site) as acts:
        with intervene(embedded, {hidden: set_dims([1229, 1487])}):
            embedded(text)
    assert acts[site].abs().max() < 200
