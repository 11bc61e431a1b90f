from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.subjects import (
    Bridge,
    BridgeOptions,
    BridgeTraining,
    Subject,
    VoxelOptions,
    reset_tune,
    standardise,
    train_bridge,
    voxel_subjects,
)
from fluoroscope.probes.subjects.bridge import Adapter, aggregate
from fluoroscope.probes.subjects.training import soft_clip

SMALL = VoxelOptions(widths=(60, 50, 40), n_train=64, n_test=24, d_cause=8, d_semantic=8)
NET = BridgeOptions(d_embedding=32, n_blocks=1)
SHORT = BridgeTraining(n_steps=5, batch=16)


@pytest.mark.parametrize("how", ["max", "average", "pad"])
@pytest.mark.parametrize("width", [1, 7, 8, 30])
def test_signals_of_any_width_come_to_one(how: str, width: int) -> None:
    signal = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    assert aggregate(signal, how, 8).shape == (3, 8)  # type: ignore[arg-type]


def test_windows_overlap_where_widths_do_not_divide() -> None:
    signal = torch.arange(5.0)[None]
    assert aggregate(signal, "max", 3).tolist() == [[1, 3, 4]]  # [0,2) [1,4) [3,5)
    assert aggregate(signal, "average", 3).tolist() == [[0.5, 2, 3.5]]
    assert aggregate(signal, "pad", 7).tolist() == [[0, 1, 2, 3, 4, 0, 0]]
    assert aggregate(signal, "linear", 3) is signal


def test_an_adapter_begins_as_the_identity() -> None:
    signal = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Adapter(9, 3)(signal), signal)


def test_soft_clip_is_at_least_the_labels_entropy_and_equals_it_at_the_target(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    target, other = (F.normalize(torch.randn(9, 6, generator=generator), dim=1) for _ in range(2))
    labels = (target @ target.T / 0.1).softmax(-1)
    entropy = torch.special.entr(labels).sum(-1).mean()
    torch.testing.assert_close(soft_clip(target, target, 0.1), entropy)
    assert soft_clip(other, target, 0.1) > entropy


def test_squared_error_of_unit_vectors_is_the_cosine_in_disguise(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (F.normalize(torch.randn(5, 12, generator=generator), dim=1) for _ in range(2))
    torch.testing.assert_close(1e4 * F.mse_loss(a, b), 2e4 / 12 * (1 - (a * b).sum(1)).mean())


def test_padding_keeps_the_first_units_in_their_places() -> None:
    signal = torch.arange(6.0).view(2, 3)
    assert aggregate(signal, "pad", 2).tolist() == [[0, 1], [3, 4]]
    assert aggregate(signal, "pad", 4).tolist() == [[0, 1, 2, 0], [3, 4, 5, 0]]


def test_the_contrast_is_the_mean_of_both_directions() -> None:
    generator = torch.Generator().manual_seed(0)
    meaning, target = (
        F.normalize(torch.randn(5, 4, generator=generator).double(), dim=1) for _ in range(2)
    )
    labels = (target @ target.T / 0.3).softmax(1)
    forward = (meaning @ target.T / 0.3).log_softmax(1)
    backward = (target @ meaning.T / 0.3).log_softmax(1)
    exact = -(labels * (forward + backward)).sum(1).mean() / 2
    torch.testing.assert_close(soft_clip(meaning, target, 0.3), exact)
    assert not torch.allclose(exact, -(labels * forward).sum(1).mean(), rtol=1e-3)


def test_joining_leaves_everything_else_bit_for_bit() -> None:
    *others, newcomer = voxel_subjects(SMALL)
    newcomer = replace(newcomer, name="a model layers.3.resid_post")  # dots, as sites have them
    bridge = train_bridge(others, NET, SHORT)
    before = {key: value.clone() for key, value in bridge.state_dict().items()}
    reset_tune(bridge, newcomer, others, SHORT)
    after = bridge.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key], value), key
    fresh = Bridge([*others, newcomer], NET).state_dict()
    moved = [key for key in after if key not in before and not torch.equal(after[key], fresh[key])]
    assert len(moved) == len(after) - len(before), "all of the newcomer's port is trained"
    assert all(parameter.requires_grad for parameter in bridge.parameters())


def test_the_cycle_goes_both_ways_between_two_subjects() -> None:
    """Without rebuilding only the cycle reaches a builder: both move if either can be the target."""
    pair = voxel_subjects(SMALL)[:2]
    fresh = Bridge(pair, NET).state_dict()
    after = train_bridge(
        pair, NET, replace(SHORT, rebuild_weight=0.0, weight_decay=0.0, n_steps=12)
    ).state_dict()
    for subject in pair:
        key = f"ports.{subject.name}.builder.0.weight"
        assert not torch.equal(after[key], fresh[key]), subject.name


def test_a_port_gets_no_gradient_from_others() -> None:
    subjects = voxel_subjects(SMALL)
    bridge = Bridge(subjects, NET)
    bridge.read("subject 1", subjects[0].train).sum().backward()
    assert all(p.grad is None for p in bridge.port("subject 2").parameters())
    assert bridge.port("subject 1").embedder[0].weight.grad is not None


def test_rows_do_not_depend_on_their_batch_once_trained() -> None:
    subjects = voxel_subjects(SMALL)
    bridge = train_bridge(subjects, BridgeOptions(aggregate="max", width=16, d_embedding=32), SHORT)
    whole = bridge.read("subject 1", subjects[0].test)
    torch.testing.assert_close(
        whole.flip(0), bridge.read("subject 1", subjects[0].test.flip(0)), rtol=1e-5, atol=1e-6
    )
    assert bridge.synthesise("subject 1", "subject 2", subjects[0].test).shape == (24, 16)


def test_equal_seeds_give_equal_bridges_and_leave_global_randomness_alone() -> None:
    subjects = voxel_subjects(SMALL)
    state = torch.get_rng_state()
    first, second = (train_bridge(subjects, NET, SHORT) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_standardising_uses_the_training_split_and_clips_massive_units() -> None:
    generator = torch.Generator().manual_seed(0)
    train, test = (torch.randn(200, 3, generator=generator) * 5 + 2 for _ in range(2))
    train[:, 2] = 7.0
    test[0, 0] = 1e5
    scaled, held = standardise(train, test)
    torch.testing.assert_close(scaled[:, :2].mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled[:, :2].std(0), torch.ones(2))
    assert (scaled[:, 2] == 0).all()
    assert held[0, 0] == 8.0


def test_names_with_dots_are_names() -> None:
    first, second, _ = voxel_subjects(SMALL)
    named = Subject("layers.3.resid_post", *(getattr(first, f) for f in FIELDS))
    bridge = Bridge([named, second], NET)
    assert bridge.read("layers.3.resid_post", named.test).shape == (24, 8)


FIELDS = ("train", "train_targets", "test", "test_targets")


def test_wrong_subjects_are_refused_by_name() -> None:
    first, second, third = voxel_subjects(SMALL)
    bridge = Bridge([first, second], NET)
    with pytest.raises(OptionError, match="'subject 1' twice"):
        bridge.join(first)
    with pytest.raises(OptionError, match=r"subjects here are .*got 'subject 3'"):
        bridge.embed("subject 3", third.test)
    with pytest.raises(OptionError, match="at least one subject"):
        reset_tune(bridge, third, [], SHORT)
    with pytest.raises(OptionError, match="asked for 65"):
        first.few(65)
    with pytest.raises(OptionError, match="at least 32 training items, got 4"):
        Subject("few", *(getattr(first, f)[:4] for f in FIELDS))
    broken = first.train.clone()
    broken[0, 0] = torch.nan
    with pytest.raises(OptionError, match="not finite"):
        Subject("nan", broken, first.train_targets, first.test, first.test_targets)
