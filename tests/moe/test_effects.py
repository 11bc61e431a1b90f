"""What experts hold up: identities of the decay rate, planted experts, confirmation."""

from types import SimpleNamespace

import pytest
import torch

from fluoroscope.moe import confirm
from fluoroscope.moe.ablate import ablate_experts
from fluoroscope.moe.confirm import confirm_experts, data_agnosticism
from fluoroscope.moe.criterion import CriterionOptions
from fluoroscope.moe.effects import (
    decay_of_masses,
    matched_draws,
    pruning_effects,
    repetition,
    sink_decay,
)
from fluoroscope.moe.layers import SHARED, moe_layers
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.readings import next_token
from tests.moe.planting import PLANTED, grown, plant
from tests.moe.test_criterion import texts


def attention(n_heads: int = 3, n: int = 20) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(n_heads, n, n, generator=generator)
    allowed = torch.ones(n, n, dtype=torch.bool).tril()
    return scores.masked_fill(~allowed, -torch.inf).softmax(-1)


def test_decay_identities() -> None:
    before = attention()
    assert sink_decay(before, before)[0] == pytest.approx(0.0)
    gone, doubled = before.clone(), before.clone()
    gone[..., 0] = 0
    doubled[..., 0] *= 2
    assert sink_decay(before, gone)[0] == pytest.approx(1.0)
    assert sink_decay(before, doubled)[0] == pytest.approx(-1.0)
    half = before.clone()
    half[..., [0, 5]] *= 0.5
    assert sink_decay(before, half, [0, 5])[0] == pytest.approx(0.5)


def test_heads_without_a_sink_are_left_out_and_counted() -> None:
    masses = torch.tensor([0.5, 0.005, 0.2])
    assert decay_of_masses(masses, torch.tensor([0.25, 9.0, 0.1])) == (pytest.approx(0.5), 1)
    rate, ignored = decay_of_masses(masses[1:2], masses[1:2])
    assert rate != rate
    assert ignored == 1
    with pytest.raises(OptionError, match="longer than"):
        sink_decay(attention(n=8), attention(n=8))


def test_heads_count_alike_whatever_their_mass() -> None:
    """One head loses half, one nothing: a quarter on average, though the first has most of the mass."""
    assert decay_of_masses(torch.tensor([0.8, 0.1]), torch.tensor([0.4, 0.1]))[0] == pytest.approx(
        0.25
    )


def test_early_queries_are_left_out() -> None:
    """They see little else than the sink, whatever becomes of it."""
    before = attention()
    after = before.clone()
    after[:, :8, 0] = 0
    assert sink_decay(before, after)[0] == 0.0
    assert sink_decay(before, after, first_query=7)[0] > 0.0


def test_a_candidate_must_cost_more_than_every_random_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses in order: whole; each candidate and its three others; all candidates and three draws."""
    losses = iter([1.0, 1.5, 1.1, 1.6, 1.1, 1.5, 1.1, 1.4, 1.1, 2.0, 1.2, 1.2, 1.2])
    monkeypatch.setattr(
        confirm, "next_token", lambda model, texts: SimpleNamespace(loss=next(losses))
    )
    found = confirm_experts(grown("mixtral"), texts(), [(1, 4), (2, 9)], n_random=3)
    assert found.confirmed.tolist() == [False, True], "dearer than the mean of others is not enough"
    assert found.alone == pytest.approx([0.5, 0.5])
    assert found.random[0] == pytest.approx([0.1, 0.6, 0.1])
    assert (found.baseline, found.together) == (1.0, pytest.approx(1.0))


def test_repetition_in_closed_form() -> None:
    assert repetition(list(range(10))) == 0
    assert repetition([1, 2] * 8) == pytest.approx(1 - 2 / 13)
    assert repetition([1, 2]) == 0


def test_random_experts_are_of_the_same_layers_and_others() -> None:
    import numpy as np

    layers = moe_layers(grown("deepseek_v2"))
    wanted = [(2, 3), (2, 5), (4, SHARED)]
    for seed in range(20):
        for drawn in matched_draws(layers, wanted, 4, np.random.default_rng(seed)):
            assert sorted(layer for layer, _ in drawn) == [2, 2, 4]
            assert len(set(drawn)) == 3
            assert not set(drawn) & set(wanted)


def test_no_random_expert_comes_twice_before_all_had_their_turn() -> None:
    import numpy as np

    layers = moe_layers(grown("deepseek_v2"))
    n_others = layers[-1].n_experts - 1
    last = layers[-1].index
    draws = matched_draws(layers, [(last, 0)], 2 * n_others, np.random.default_rng(0))
    numbers = [expert for ((_, expert),) in draws]
    for turn in (numbers[:n_others], numbers[n_others:]):
        assert sorted(turn) == list(range(1, n_others + 1))
    free = matched_draws(layers, [(last, 0)], 3, np.random.default_rng(0), avoid=[(last, 1)])
    assert (last, 1) not in [one for draw in free for one in draw]
    everyone = [(last, e) for e in range(n_others + 1)]
    assert matched_draws(layers, [(last, 0)], 1, np.random.default_rng(0), avoid=everyone)[0]


def test_planted_experts_alone_change_what_they_hold_up() -> None:
    model = plant(grown("qwen3_moe"))
    found = pruning_effects(model, texts(), PLANTED, prompt="ab", n_random=2)
    whole, without, random = found.largest.max(1)
    assert whole > 1000
    assert without < 10
    assert random == pytest.approx(whole, rel=0.2)
    assert found.decay[0].tolist() == pytest.approx([0.0] * model.n_layers)
    after = found.attention_layers > PLANTED[0][0]
    assert abs(found.decay[1, after]).max() > 10 * abs(found.decay[2, after]).max()
    assert found.n_removed.tolist() == [0, 3, 3]
    assert len(found.random_loss) == 2
    with pytest.raises(OptionError, match="at least one expert"):
        pruning_effects(model, texts(), [])


def test_effects_survive_their_file(tmp_path) -> None:
    import h5py

    from fluoroscope.moe.effects import PruningEffects

    found = pruning_effects(plant(grown("mixtral")), texts(), PLANTED[:1], n_random=1)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found.save(file.create_group("x"))
        again = PruningEffects.load(file["x"])
    assert again.conditions.tolist() == found.conditions.tolist()


def test_confirmation_is_the_loss_with_and_without() -> None:
    model = plant(grown("mixtral"))
    candidates = [PLANTED[0], PLANTED[1], (5, 3)]
    found = confirm_experts(model, texts(), candidates, n_random=3)
    baseline = next_token(model, texts()).loss
    assert found.baseline == baseline
    for number, expert in enumerate(candidates):
        with ablate_experts(model, [expert]):
            assert found.alone[number] == next_token(model, texts()).loss - baseline
    with ablate_experts(model, candidates):
        assert found.together == next_token(model, texts()).loss - baseline
    assert found.random.shape == (3, 3)
    assert (found.confirmed == (found.alone > found.random.max(1))).all()
    with pytest.raises(OptionError):
        confirm_experts(model, texts(), [])


def test_every_corpus_finds_the_planted_experts() -> None:
    model = plant(grown("qwen2_moe"))
    corpora = {name: texts(seed=seed) for seed, name in enumerate("abc")}
    found = data_agnosticism(model, corpora, CriterionOptions(quantile=95.0))
    assert sorted(found.everywhere) == sorted(PLANTED)
    assert found.jaccard.tolist() == [[1.0] * 3] * 3
    with pytest.raises(OptionError, match="two corpora"):
        data_agnosticism(model, {"a": texts()})
