"""Built states in a model: what nothing, the own state, the mean and a replacement must cost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.subjects import (
    BridgeOptions,
    BridgeTraining,
    Subject,
    compare_subjects,
)
from fluoroscope.probes.subjects.gates import bridge_gates
from fluoroscope.probes.subjects.models import items_of, model_subjects, signals
from fluoroscope.probes.subjects.patching import PATCHED, Host, nats_lost, patch_built

SITE = "layers.0.resid_post"
DOCUMENTS = [f"Line {n} speaks of {n * 7 % 13} odd things, {n * 5 % 11}.\n" * 2 for n in range(48)]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def material(model: Model, *, n_test: int = 24) -> tuple[list[Subject], dict[str, Host]]:
    """Two sites of a model and a control, all on the same items."""
    items = items_of(DOCUMENTS, per_document=2)
    sites = [SITE, "layers.1.mlp.hidden"]
    found = signals(model, items, sites)
    n_train = len(items) - n_test
    sources = {"noise": normal(len(items), 6), "post": found[SITE], "hidden": found[sites[1]]}
    subjects = model_subjects(
        sources, normal(len(items), 4, seed=1), n_train, shared=True, controls={"noise": "post"},
        test_documents=np.array([item.document for item in items[n_train:]]),
    )  # fmt: skip
    hosts = {
        name: Host(
            open=lambda: model, site=site, items=items[n_train:], states=found[site][n_train:],
            pool="mean",
        )
        for name, site in zip(("post", "hidden"), sites, strict=True)
    }  # fmt: skip
    return subjects, hosts


@pytest.mark.parametrize("pool", ["mean", "last"])
def test_nothing_moved_costs_nothing_and_a_move_costs_the_divergence(
    tiny_llama: Model, pool: str
) -> None:
    """Against a forward hook of torch's own and torch's own divergence; 17 rows take two passes."""
    item = items_of(DOCUMENTS, per_document=1)[3]
    moves = normal(17, tiny_llama.d_model)
    moves[4] = 0
    lost, n = nats_lost(tiny_llama, SITE, item, pool, moves)  # type: ignore[arg-type]
    inside = len(item.text) - item.start if pool == "mean" else 1
    inside -= pool == "mean" and item.start == 0  # the text's first token never counts
    assert n == inside
    assert lost[4] == 0
    assert (np.delete(lost.numpy(), 4) > 0).all()
    ids = tiny_llama.encode(item.text)[None]
    block = tiny_llama.module.model.layers[0]
    with torch.no_grad():
        own = tiny_llama.module(ids).logits[0, -inside:].log_softmax(-1)
        for row in (0, 16):

            def hook(_module, _given, out, row=row):
                out = out.clone()
                out[:, -inside:] += moves[row]
                return out

            handle = block.register_forward_hook(hook)
            moved = tiny_llama.module(ids).logits[0, -inside:].log_softmax(-1)
            handle.remove()
            wanted = torch.nn.functional.kl_div(moved, own, log_target=True, reduction="sum")
            torch.testing.assert_close(lost[row].float(), wanted, rtol=1e-3, atol=1e-5)


def test_own_states_recover_all_mean_states_nothing(tiny_llama: Model) -> None:
    subjects, hosts = material(tiny_llama)
    later = slice(12, None)
    built = {}
    for j, target in enumerate(subjects):
        own = target.test[later]
        states = hosts[target.name].states if target.name in hosts else target.test
        if target.name in hosts:  # unclipped, so that nothing at all is lost
            assert target.mean is not None
            assert target.scale is not None
            own = (states[later] - target.mean) / target.scale
        for i in range(len(subjects)):
            built["bridge", i, j] = own if i == j else torch.zeros_like(own)
            built["paired ridge", i, j] = own
    found = patch_built(subjects, hosts, built, n_items=99)
    assert found.n_items == 12
    assert np.isnan(found.recovered[:, :, 0]).all(), "a control is no target"
    for j in (1, 2):
        np.testing.assert_allclose(found.recovered[1, :, j], 1, atol=1e-3)
        np.testing.assert_allclose(found.loss[1, :, j], 0, atol=1e-6)
        np.testing.assert_allclose(found.recovered[0, 0, j], 0, atol=1e-3)
        np.testing.assert_allclose(found.loss[0, 0, j], found.floor[j], rtol=1e-5)
        assert (found.floor[j] > 0).all()
        assert found.clipped[j, 0] < found.floor[j, 0]
    np.testing.assert_allclose(found.summary[0, :, 0], [1, 0, 0], atol=1e-3)
    np.testing.assert_allclose(found.summary[1, :, 0], [1, 1, 1], atol=1e-3)


def test_intervals_are_over_documents(tiny_llama: Model) -> None:
    subjects, hosts = material(tiny_llama)
    built = {
        (way, i, j): normal(12, target.width, seed=i)
        for way in PATCHED
        for i in range(3)
        for j, target in enumerate(subjects)
    }
    found = patch_built(subjects, hosts, built)
    inside = found.recovered[0, 1, 2]
    assert inside[1] < inside[0] < inside[2]
    one = [replace(s, test_documents=np.zeros(24, dtype=np.int64)) for s in subjects]
    alone = patch_built(one, hosts, built)
    assert np.isnan(alone.recovered[0, 1, 2, 1:]).all(), "one document has no interval"
    assert alone.recovered[0, 1, 2, 0] == pytest.approx(inside[0])


def test_what_cannot_be_put_back_is_refused(tiny_llama: Model) -> None:
    subjects, hosts = material(tiny_llama)
    built = {(w, i, j): normal(12, 5) for w in PATCHED for i in range(3) for j in range(3)}
    with pytest.raises(OptionError, match="needs a host for one of"):
        patch_built(subjects, {}, built)
    with pytest.raises(OptionError, match=r"must be \d+ wide .* got 5; build them with aggregate"):
        patch_built(subjects, hosts, built)
    short = {"post": replace(hosts["post"], items=hosts["post"].items[:3])}
    with pytest.raises(OptionError, match="an item and a state for each of 24 test rows, got 3"):
        patch_built(subjects, short, built)
    with pytest.raises(OptionError, match="aggregate must be 'linear', got 'pad'"):
        compare_subjects(subjects, BridgeOptions(aggregate="pad"), what="", hosts=hosts)
    with pytest.raises(OptionError, match="must be no control, got 'noise'"):
        compare_subjects(subjects[::-1], what="")
    with pytest.raises(OptionError, match="must have mean and scale"):
        replace(subjects[1], mean=None).restored(subjects[1].test)
    back = subjects[1].restored(subjects[1].test)
    torch.testing.assert_close(back, hosts["post"].states, rtol=1e-3, atol=1e-4)


def test_a_comparison_says_what_floors_and_patches_show(tiny_llama: Model) -> None:
    subjects, hosts = material(tiny_llama)
    found = compare_subjects(
        subjects, BridgeOptions(d_embedding=16, n_blocks=1), BridgeTraining(n_steps=20, batch=16),
        what="models", n_few=(32,), hosts=hosts, n_patched=6,
    )  # fmt: skip
    assert found.proper.tolist() == [False, True, True]
    assert found.floor is not None
    assert found.floor.tolist() == [-1, 0, -1]
    assert found.above_floor is not None
    np.testing.assert_allclose(
        found.above_floor[:, 1, :, 0], found.read[:, 1, :, 0] - found.read[:, 0, :, 0], atol=1e-12
    )
    assert np.isnan(found.above_floor[:, 2]).all()
    assert found.recovered is not None
    assert found.recovered.shape == (2, 3, 3, 3)
    assert np.isfinite(found.recovered[:, :, 1:]).all()
    above = found.above_floor.copy()
    summary = np.zeros((2, 3, 3))
    for bounds, share, floor, patch in (
        (
            [0.2, 0.1, 0.3],
            [0.6, 0.5, 0.7],
            "above the floor",
            "more than those built from controls",
        ),
        ([0.0, -0.1, 0.1], [0.2, 0.1, 0.3], "not apart from the floor", "not apart from those"),
        ([-0.2, -0.3, -0.1], [0.0, -0.1, 0.1], "below the floor", "less than those"),
    ):
        above[0, 1, 0] = bounds
        summary[0, 1], summary[0, 2] = share, [0.25, 0.15, 0.35]
        told = bridge_gates(replace(found, above_floor=above, patch_summary=summary))
        assert any(line.startswith("post is read at") and floor in line for line in told)
        assert any(patch in line for line in told), told
