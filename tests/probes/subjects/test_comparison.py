from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.linalg import orthogonal_procrustes
from sklearn.linear_model import Ridge

from fluoroscope.probes import Model
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.subjects import (
    BridgeOptions,
    BridgeTraining,
    SubjectsComparison,
    VoxelOptions,
    compare_subjects,
    voxel_subjects,
)
from fluoroscope.probes.subjects.baselines import canonical, procrustes, ridge, shared_linear
from fluoroscope.probes.subjects.comparison import WAYS
from fluoroscope.probes.subjects.gates import bridge_gates
from fluoroscope.probes.subjects.metrics import explained, score, top_one, two_way
from fluoroscope.probes.subjects.models import (
    bag_of_words,
    items_of,
    model_subjects,
    signals,
    split_items,
    teacher_targets,
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_perfect_predictions_identify_always_and_shuffled_ones_half_the_time() -> None:
    target = normal(200, 16)
    assert two_way(target, target).min() == 1
    assert top_one(target, target).min() == 1
    # Standard deviation of the mean is below 0.5 / sqrt(200) = 0.035: four of them, p < 1e-4.
    assert two_way(normal(200, 16, seed=1), target).mean() == pytest.approx(0.5, abs=0.14)
    means = score(target, target)[:, 0]
    np.testing.assert_allclose(means, 1, atol=1e-6)


def test_two_way_identification_of_three_items_by_hand() -> None:
    target = torch.tensor([[1.0, 0, -1], [0, 1.0, -1], [-1.0, 0, 1]])
    predicted = torch.tensor([[1.0, 0, -1], [1.0, 0, -1], [0.0, -1, 1]])
    # Row 2 correlates 1 with target 0 and 0.5 with its own: beats target 2 alone.
    # Row 3 correlates -0.5, -1, 0.5 with the targets: beats both.
    assert two_way(predicted, target).tolist() == [1, 0.5, 1]
    assert top_one(predicted, target).tolist() == [1, 0, 1]


def test_identification_does_not_depend_on_the_order_of_items(seed: int) -> None:
    predicted, target = normal(30, 5, seed=seed), normal(30, 5, seed=seed + 100)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        two_way(predicted[order], target[order]), two_way(predicted, target)[order]
    )


def test_ridge_is_scikit_learns_with_the_best_penalty() -> None:
    train, test, weight = normal(80, 6), normal(20, 6, seed=1), normal(6, 3, seed=2)
    targets = train @ weight + 0.01 * normal(80, 3, seed=3)
    expected = Ridge(alpha=1.0).fit(train.double(), targets.double()).predict(test.double())
    np.testing.assert_allclose(ridge(train, targets, test), expected, rtol=1e-4, atol=1e-4)
    assert explained(canonical(train, targets, test), test @ weight) > 0.99


def test_procrustes_undoes_a_rotation() -> None:
    rotation = torch.linalg.qr(normal(5, 5))[0]
    train, test = normal(40, 5, seed=1), normal(10, 5, seed=2)
    found = procrustes(train, 3 * train @ rotation, test)
    torch.testing.assert_close(found, 3 * test @ rotation, rtol=1e-4, atol=1e-4)


def test_procrustes_is_scipys_and_turns_only_what_few_items_span() -> None:
    train, others, test = normal(30, 6), normal(30, 6, seed=1), normal(9, 6, seed=2)
    rotation = torch.from_numpy(orthogonal_procrustes(train.numpy(), others.numpy())[0])
    scale = float((others * (train @ rotation)).sum() / train.square().sum())
    torch.testing.assert_close(
        procrustes(train, others, test), scale * test @ rotation, rtol=1e-4, atol=1e-4
    )
    # Three items in 300 units: the same turn within their span, nothing of what is outside it.
    few, turn = normal(3, 300), torch.linalg.qr(normal(300, 300, seed=1))[0]
    inside = normal(5, 3, seed=2) @ few
    torch.testing.assert_close(
        procrustes(few, few @ turn, inside), inside @ turn, rtol=1e-3, atol=1e-3
    )
    outside = normal(5, 300, seed=3)
    outside -= outside @ torch.linalg.pinv(few) @ few
    assert procrustes(few, few @ turn, outside).abs().max() < 1e-3


def test_a_comparison_has_every_way_and_survives_a_file(tmp_path) -> None:
    import h5py

    subjects = voxel_subjects(
        VoxelOptions(widths=(60, 50, 40), n_train=64, n_test=30, d_cause=8, d_semantic=8, noise=0.2)
    )
    net, recipe = BridgeOptions(d_embedding=32, n_blocks=1), BridgeTraining(n_steps=20, batch=32)
    told: list[tuple[int, int]] = []
    found = compare_subjects(
        subjects, net, recipe, what="voxels", n_few=(16, 32, 64),
        progress=lambda done, total, _: told.append((done, total)),
    )  # fmt: skip
    assert told[-1][0] == told[-1][1] == 20 * (3 + 3 + 2 * 2)
    assert found.n_few.tolist() == [32, 64], "16 is too few to learn from"
    assert found.methods.tolist() == list(WAYS)
    assert found.read.shape == (8, 3, 3, 3)
    assert found.joined.shape == (4, 2, 3, 3)
    ridges = found.read[list(found.methods).index("ridge"), :, 0, 0]
    assert (ridges > 0.8).all(), "a linear map reads these subjects"
    assert found.synthesis.shape == (5, 3, 3)
    assert (found.synthesis[2].diagonal() > 0.9).all(), "a ridge rebuilds a signal from itself"
    assert (np.abs(found.read[-1, :, 0, 0] - 0.5) < 0.25).all(), "the control is at chance"
    with h5py.File(tmp_path / "r.h5", "w") as file:
        found.save(file.create_group("r"))
        np.testing.assert_equal(SubjectsComparison.load(file["r"]).joined, found.joined)
    read, joined = found.read.copy(), found.joined.copy()
    read[0, :, 0], read[1, :, 0] = [0.5, 0.4, 0.6], [0.8, 0.7, 0.9]
    joined[0, 0, 0], joined[1, 0, 0] = [0.9, 0.85, 0.95], [0.7, 0.6, 0.8]
    lines = bridge_gates(replace(found, read=read, joined=joined))
    assert "worse beyond intervals for subject 1, subject 2, subject 3" in lines[0]
    assert "joins with 32 items (50%)" in lines[1]
    assert "0.900 (0.850 to 0.950) against 0.700" in lines[1]
    assert "better beyond the intervals" in lines[1]
    read[0, :, 0] = [0.75, 0.65, 0.85]
    assert "no subject reads worse" in bridge_gates(replace(found, read=read))[0]


def test_bounds_are_over_documents_and_ways_that_need_anchors_are_left_out_without() -> None:
    target = normal(60, 5)
    predicted = target + normal(60, 5, seed=1)
    alone, whole = score(predicted, target), score(predicted, target, np.repeat(np.arange(6), 10))
    np.testing.assert_allclose(whole[:, 0], alone[:, 0])
    doubled = score(predicted.repeat(2, 1), target.repeat(2, 1), np.tile(np.arange(60), 2))
    # Two copies of an item are one observation: as wide as over the single ones.
    width = np.diff(alone[2, 1:]), np.diff(doubled[2, 1:])
    np.testing.assert_allclose(width[0], width[1], rtol=1e-6)
    options = VoxelOptions(widths=(40, 30, 20), n_train=40, n_test=10, n_anchors=0)
    found = compare_subjects(
        voxel_subjects(options), BridgeOptions(d_embedding=16, n_blocks=1),
        BridgeTraining(n_steps=2, batch=8), what="voxels", n_few=(32,),
    )  # fmt: skip
    assert "relative" not in found.methods
    assert found.joining.tolist() == ["reset-tuned", "from scratch", "ridge"]
    assert any("best linear way" in line for line in bridge_gates(found))


def test_too_few_subjects_or_items_are_refused() -> None:
    subjects = voxel_subjects(VoxelOptions(widths=(30, 30), n_train=40, n_test=8))
    with pytest.raises(OptionError, match="at least three subjects, got 2"):
        compare_subjects(subjects, what="")
    with pytest.raises(OptionError, match=r"from 32 to 40, got \[8\]"):
        compare_subjects([*subjects, _third(subjects)], what="", n_few=(8,))


def _third(subjects):
    import dataclasses

    return dataclasses.replace(subjects[0], name="third")


def test_the_shared_linear_map_serves_all_widths() -> None:
    subjects = voxel_subjects(VoxelOptions(widths=(30, 20), n_train=40, n_test=8, d_semantic=5))
    found = shared_linear(subjects, 30)
    assert {name: rows.shape for name, rows in found.items()} == {
        "subject 1": (8, 5),
        "subject 2": (8, 5),
    }


DOCUMENTS = [
    f"Short {n}.\nThis is line number {n} of some text about {n} things.\n" * 3 for n in range(9)
]


def test_items_are_spans_with_what_stands_before_them() -> None:
    items = items_of(DOCUMENTS, per_document=2)
    assert len(items) == 18
    assert items[0].text == "Short 0.\nThis is line number 0 of some text about 0 things."
    assert items[0].text[items[0].start :].startswith("This is line")
    train, test = split_items(items, 4)
    assert {i.document for i in train}.isdisjoint({i.document for i in test})
    with pytest.raises(OptionError, match="at least 40 items, got 18"):
        split_items(items, 20)
    assert bag_of_words(items, 16).shape == (18, 16)


def test_a_models_signal_is_its_mean_state_over_the_span(tiny_llama: Model) -> None:
    items = items_of(DOCUMENTS[:2], per_document=1)
    site, wide = "layers.1.resid_post", "layers.1.mlp.hidden"
    both = signals(tiny_llama, items, [site, wide])
    assert both[wide].shape[1] > both[site].shape[1]
    found = both[site]
    last = signals(tiny_llama, items, [site], pool="last")[site]
    with pytest.raises(OptionError, match="must name one site, got 3"):
        signals(tiny_llama, items, ["layers.*.resid_post"])
    for row, item in enumerate(items):
        ids = tiny_llama.encode(item.text)[None]
        with torch.no_grad():
            states = tiny_llama(ids, output_hidden_states=True).hidden_states[2][0]
        n_inside = len(item.text) - item.start  # one token per byte
        torch.testing.assert_close(found[row], states[-n_inside:].mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last[row], states[-1], rtol=1e-4, atol=1e-5)


def test_models_become_subjects_that_share_test_items_only() -> None:
    rows = {"wide": normal(50, 12), "narrow": normal(50, 4, seed=1)}
    targets = teacher_targets(normal(50, 20, seed=2), 40, d_semantic=6)
    torch.testing.assert_close(targets[:40].std(0), torch.ones(6), rtol=1e-4, atol=1e-4)
    with pytest.raises(OptionError, match="at least 32 training items, got 20"):
        model_subjects(rows, targets, 40)
    shared = model_subjects(rows, targets, 40, shared=True)
    assert [s.width for s in shared] == [12, 4]
    assert torch.equal(shared[0].test_targets, shared[1].test_targets)
    assert shared[0].anchors is None
    anchored = model_subjects(rows, targets, 40, shared=True, n_anchors=5)
    assert [len(s.train) for s in anchored] == [35, 35], "anchors are not trained on"
    assert torch.equal(anchored[0].train_targets, targets[5:40])
    assert [tuple(s.anchored().shape) for s in anchored] == [(5, 12), (5, 4)]
