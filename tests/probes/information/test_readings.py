"""The whole path on a model whose source is known: predictions, flow, geometry, alignment."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, Run
from fluoroscope.probes.errors import MissingResultError, OptionError, TooFewTokensError
from fluoroscope.probes.information.alignment_result import (
    SpectralAlignment,
    _normed,
    spectral_alignment,
)
from fluoroscope.probes.information.flow_material import (
    Material,
    prepare,
    principal,
    states_of,
)
from fluoroscope.probes.information.flow_options import FlowOptions
from fluoroscope.probes.information.flow_parts import NAME, FlowParts, Parts, drop_parts
from fluoroscope.probes.information.flow_reading import information_flow
from fluoroscope.probes.information.flow_result import InformationFlow
from fluoroscope.probes.information.futures import Futures, futures_of_run, merge_rare
from fluoroscope.probes.information.geometry_result import HeadGeometry, head_geometry
from fluoroscope.probes.information.loss import LossDecomposition, decompose_loss
from fluoroscope.probes.information.model_law import continuations, model_surplus
from fluoroscope.probes.information.predictions import Predictions, read_predictions
from fluoroscope.probes.information.reading import (
    information_readings,
    whole_windows,
    xray_readings,
)
from fluoroscope.probes.information.readout import Inputs, Readout, ReadoutOptions
from fluoroscope.probes.readings.linear_probe import split_by_document
from tests.probes.information.conftest import LENGTH, N_DOCUMENTS, Toy

PROBE = ReadoutOptions(rank=16, epochs=4, batch=256, learning_rate=1e-2)
HEAD = ReadoutOptions(rank=48, epochs=6, batch=256, learning_rate=1e-2, interacts=True)
OPTIONS = FlowOptions(
    n_futures=3, depths=2, probe=PROBE, head=HEAD, n_clusters=8, n_groups=5,
    world_states=24, world_dropped=0.0, world_classes=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def read(toy: Toy):
    return read_predictions(toy.model, toy.run, n_rows=N_DOCUMENTS * LENGTH)


@pytest.fixture(scope="module")
def flow(toy: Toy, read) -> InformationFlow:
    return information_flow(toy.model, toy.run, read[0], OPTIONS)


def test_predictions_from_rows_equal_a_forward_pass(toy: Toy, read):
    predictions, _ = read
    ids = torch.from_numpy(toy.run.tokens.document(3).astype(np.int64))
    logits = toy.model(ids[None], use_cache=False).logits[0].double()
    rows = slice(3 * LENGTH, 4 * LENGTH)
    entropy = torch.special.entr(logits.softmax(-1)).sum(-1).numpy()
    np.testing.assert_allclose(predictions.entropies[rows, 0], entropy, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[1:], reduction="none").numpy()
    np.testing.assert_allclose(predictions.loss[rows][:-1], loss, atol=1e-4)
    assert np.isnan(predictions.loss[rows][-1])
    assert (predictions.greedy_ids[rows] == logits.argmax(-1).numpy()).all()


def test_loss_falls_into_source_entropy_and_a_small_excess(toy: Toy, read):
    truth = toy.chain.truth(2)
    found = decompose_loss(toy.run, *read, source_entropy=truth.entropy)
    assert found.excess is not None
    assert found.loss == pytest.approx(truth.entropy + found.excess)
    # 12,000 predictions: the loss of the source itself has a standard error of about 0.007 nats.
    assert -0.02 < found.excess < 0.08, found.excess
    assert abs(found.gap) < 0.05
    assert found.loss == pytest.approx(found.entropy[0] + found.gap)
    # Context of two tokens is known from the second position on.
    assert found.data_information == pytest.approx(truth.next, abs=0.1)
    assert found.model_information == pytest.approx(truth.next, abs=0.1)
    assert found.calibration_error < 0.05
    # The unigram law is of documents that the information is not about.
    futures = futures_of_run(toy.run, n_futures=1)
    split = split_by_document(futures.documents)
    counts = np.bincount(futures.tokens[split.train, 0], minlength=5) + 0.5
    unigram = -np.log(counts / counts.sum())[futures.tokens[split.test, 0]]
    assert found.unigram == pytest.approx(unigram.mean(), abs=1e-9)
    held = read[0].loss[futures.rows[split.test]]
    assert found.data_information == pytest.approx((unigram - held).mean(), abs=1e-6)
    assert found.share.sum() == pytest.approx(1)


def test_last_layer_holds_what_the_chain_offers(toy: Toy, flow: InformationFlow):
    truth = toy.chain.truth(3)
    last = flow.futures[-1, :, 0]
    assert last[0] == pytest.approx(truth.next, abs=0.12)
    assert last[0] <= truth.next + 0.06
    assert flow.surplus[-1, 0] > 0.5 * truth.surplus[0]
    assert flow.surplus[-1, 0] <= truth.surplus[0] + 0.06
    assert flow.contrastive[0] <= flow.contrastive_cap
    assert flow.contrastive[0] == pytest.approx(truth.next, abs=0.12)


def test_shuffled_states_hold_nothing_and_the_head_without_them_accepts_less(flow: InformationFlow):
    # False alarm: 2.5 % for each interval, were training neutral; overfitting makes it rarer.
    assert flow.control_next[1] <= 1e-3
    assert flow.control_surplus[1] <= 1e-3
    assert flow.acceptance[-1, 0] > flow.depth_blind[0, 2]
    assert sum("states of other rows" in line for line in flow.verdicts) == 2


class Oracle(Readout):
    """Names the token that came."""

    def __init__(self, wanted: torch.Tensor) -> None:
        torch.nn.Module.__init__(self)
        self.wanted = wanted

    def choices(self, inputs: Inputs, *, n_kept: int) -> torch.Tensor:
        return self.wanted[:, None]


@pytest.mark.parametrize("depth", [1, 2])
def test_a_draft_is_accepted_where_it_is_the_targets_choice_at_its_own_place(toy: Toy, depth: int):
    """A target that always foretells the token that came accepts an oracle of W_depth, no other."""
    ids = toy.run.tokens.ids
    futures = futures_of_run(toy.run, n_futures=3)
    greedy = np.append(ids[1:], 0)
    table = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    material = prepare(futures, table, greedy, OPTIONS)
    inputs = Inputs(None, 32, table, torch.from_numpy(material.test.tokens[:, :depth]))

    def accepted(place: int) -> np.ndarray:
        wanted = material.classes(material.test.tokens[:, place])
        return material.accepted(Oracle(torch.from_numpy(wanted)), inputs, depth)

    assert accepted(depth).all()
    assert not accepted(depth - 1).all()


def test_flow_says_what_it_could_not_estimate(toy: Toy, read):
    few = FlowOptions(
        n_futures=2, depths=1, probe=PROBE, head=HEAD, n_clusters=100, coarse_classes=8,
        test_rows=300, world_states=3,
    )  # fmt: skip
    found = information_flow(toy.model, toy.run, read[0], few, sites=["layers.1.resid_post"])
    assert np.isnan(found.cluster_next).all()
    assert any("E3c" in line and "at least 5,000 tokens" in line for line in found.refusals)
    assert any("E4, E5" in line for line in found.refusals)
    assert any("E3a" in line and "documents" in line for line in found.refusals)
    assert np.isfinite(found.surplus).all()


def test_few_rows_get_few_directions_and_it_is_said(toy: Toy, read):
    scarce = replace(OPTIONS, train_rows=4 * (2 * 20 + 5), depths=1, world_states=0)
    found = information_flow(toy.model, toy.run, read[0], scarce, sites=["layers.1.resid_post"])
    assert found.n_train == 180
    assert found.refusals[0].startswith("Readouts see 20 leading principal directions of 32")
    assert "20 directions" in found.family
    assert "150 epochs of 1 steps, for at least 150 steps" in found.family
    assert found.futures[0, 0, 0] > 0.1  # what little 180 rows teach
    narrower = replace(scarce, train_rows=4 * (2 * 16 + 5) - 1)
    with pytest.raises(TooFewTokensError, match="at least 148 tokens to train on, got 147"):
        information_flow(toy.model, toy.run, read[0], narrower, sites=["layers.1.resid_post"])


def test_principal_directions_of_all_rows_lose_nothing_but_the_basis():
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)
    assert (principal(rows, 6)(rows) == rows).all()
    few = principal(rows, 3)(rows)
    centred = rows - rows.mean(0)
    best = torch.linalg.svd(centred, full_matrices=False)
    share = few.square().sum() / few.square().mean() / len(rows)
    assert share == pytest.approx(3)  # unit mean square
    mixed = few.T @ best.U[:, :3]  # the same span as the three leading singular vectors
    assert mixed.square().sum() == pytest.approx(float(few.square().sum()), rel=1e-4)


def test_an_interrupted_flow_goes_on_after_its_finished_layers(
    toy: Toy, read, monkeypatch: pytest.MonkeyPatch
):
    measured: list[str] = []

    def watched(run: Run, site: str, material: Material):
        measured.append(site)
        if measured == ["layers.0.resid_post", "layers.1.resid_post"]:
            raise KeyboardInterrupt
        return states_of(run, site, material)

    monkeypatch.setattr("fluoroscope.probes.information.flow_reading.states_of", watched)
    options = replace(OPTIONS, depths=1, world_states=0)
    with pytest.raises(KeyboardInterrupt):
        information_flow(toy.model, toy.run, read[0], options, keep=True)
    assert toy.run.result(NAME, FlowParts).names.tolist() == ["layers.0.resid_post"]
    again = information_flow(toy.model, toy.run, read[0], options, keep=True)
    assert measured[2:] == ["layers.1.resid_post"]
    whole = information_flow(toy.model, toy.run, read[0], options)
    for field in fields(InformationFlow):
        one, other = getattr(again, field.name), getattr(whole, field.name)
        np.testing.assert_equal(one, other, err_msg=field.name)
    # Parts of a reading with other options are not taken.
    assert Parts(toy.run, options, len(read[0].loss)).get("layers.0.resid_post") is not None
    assert Parts(toy.run, OPTIONS, len(read[0].loss)).get("layers.0.resid_post") is None
    drop_parts(toy.run)
    assert NAME not in toy.run.results


def test_estimators_of_one_quantity_that_disagree_get_a_line(toy: Toy, read, flow):
    loss = decompose_loss(toy.run, *read)
    assert not any("E2a" in line for line in flow.verdicts)  # they agree on this source
    apart = replace(loss, data_information=9.0, data_information_low=8.9, data_information_high=9.1)
    short = replace(OPTIONS, depths=1, world_states=0)
    found = information_flow(
        toy.model, toy.run, read[0], short, sites=["layers.1.resid_post"], loss=apart
    )
    lines = [line for line in found.verdicts if "Information about W_0" in line]
    assert sum("(E2a)" in line and "(E2b)" in line for line in lines) == 1
    assert any("InfoNCE (E5)" in line for line in lines)
    agreeing = information_flow(
        toy.model, toy.run, read[0], short, sites=["layers.1.resid_post"], loss=loss
    )
    assert not any("(E2a)" in line for line in agreeing.verdicts)


def test_too_little_is_refused_and_nothing_is_written(toy: Toy):
    before = toy.run.results
    with pytest.raises(TooFewTokensError, match=r"needs at least .* got"):
        list(information_readings(toy.model, toy.run, n_tokens=6 * LENGTH))
    with pytest.raises(OptionError, match=r"layers\.N\.resid_post"):
        information_flow(toy.model, toy.run, _nothing(toy), OPTIONS, sites=["final_norm"])
    assert toy.run.refresh().results == before
    assert whole_windows(toy.run, 100) == 3 * LENGTH
    assert whole_windows(toy.run, None) == N_DOCUMENTS * LENGTH


def _nothing(toy: Toy) -> Predictions:
    n = N_DOCUMENTS * LENGTH
    return Predictions(
        divergences=np.array(["kl"]), entropies=np.zeros((n, 1)), loss=np.zeros(n),
        greedy_ids=np.zeros(n, dtype=int), confidence=np.ones(n), rank=np.zeros(n, dtype=int),
    )  # fmt: skip


def test_a_run_without_the_last_layer_is_refused_by_name(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(toy.run, "sites", ("layers.0.resid_post",))
    with pytest.raises(MissingResultError, match=r"layers\.1\.resid_post or final_norm"):
        read_predictions(toy.model, toy.run, n_rows=LENGTH)


def test_model_surplus_equals_brute_force_over_all_pairs(toy: Toy):
    ids = toy.run.tokens
    contexts = [torch.from_numpy(ids.document(d)[: 5 + d % 3].astype(np.int64)) for d in range(12)]
    everything = merge_rare(ids.ids.astype(np.int64), d_vocab=5, n_classes=5)
    found = model_surplus(toy.model, contexts, np.arange(12), everything, delta=0.0, most=8)
    joints = []
    for context in contexts:
        joint = np.zeros((5, 5))
        for token in range(5):
            longer = torch.cat([context, torch.tensor([token])])
            logits = toy.model(longer[None], use_cache=False).logits[0].double()
            joint[token] = (logits[-2].softmax(-1)[token] * logits[-1].softmax(-1)).numpy()
        joints.append(joint)

    def conditional(joint: np.ndarray) -> float:
        own = joint.sum(1)
        return float(-(joint * np.log(joint)).sum() + (own * np.log(own)).sum())

    exact = conditional(np.mean(joints, axis=0)) - np.mean([conditional(j) for j in joints])
    assert found.surplus.value == pytest.approx(exact, abs=1e-5)
    assert found.covered == pytest.approx(1, abs=1e-6)
    some, probs, after = continuations(toy.model, contexts[0], 0.2, 8)
    assert probs.sum() >= 0.8 - 1e-9
    assert len(some) == len(after) < 5


def test_geometry_of_the_toys_head(toy: Toy):
    found = head_geometry(toy.model, toy.run, n_rows=N_DOCUMENTS * LENGTH, n_positions=40)
    assert (found.rank <= 4 + 1e-6).all()  # tokens less one
    assert found.kl_ratio == pytest.approx(1, abs=0.02)
    assert found.null_before_norm < 1e-3
    assert (found.share <= found.rank + 1e-4).all()


def test_alignment_is_high_for_own_predictions_even_with_random_weights(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
):
    seen: list[set[int]] = []

    def spied(model: Model, run: Run, site: str, part: Futures) -> torch.Tensor:
        seen.append(set(part.documents.tolist()))
        return _normed(model, run, site, part)

    monkeypatch.setattr("fluoroscope.probes.information.alignment_result._normed", spied)
    found = spectral_alignment(
        toy.model, toy.run, n_rows=N_DOCUMENTS * LENGTH, n_fit=2000, n_test=600, k=4
    )
    assert not seen[0] & seen[1], "fitted and scored on different documents"
    by_name = dict(zip(found.variants, found.cca, strict=True))
    assert by_name["own prediction, random weights"] > 0.8  # the tautology
    assert by_name["own prediction"] > 0.7
    assert found.tautological.tolist() == [False, False, True, True]
    assert by_name["token that came"] > found.cca_null_high[0]
    assert by_name["token that came"] > by_name["token that came, random weights"]
    assert abs(found.cca_null).max() < 0.05
    assert found.one_sided is not None
    assert found.one_sided_null_high is not None
    assert found.one_sided_curve is not None
    assert found.one_sided[0] > found.one_sided_null_high[0]
    assert found.one_sided[0] > found.one_sided[1], "what random weights explain of the tokens"
    assert found.one_sided[2] > found.one_sided[0], "own predictions are a function of the state"
    np.testing.assert_allclose(found.one_sided_curve[:, -1], found.one_sided)


def test_every_result_comes_back_from_the_run_file(toy: Toy):
    names = []
    for name, result in information_readings(toy.model, toy.run, options=OPTIONS):
        toy.run.add_result(name, result)
        names.append(name)
    assert names == ["information_predictions", "information_loss", "information_geometry",
                     "information_alignment", "information_flow"]  # fmt: skip
    kinds = (Predictions, LossDecomposition, HeadGeometry, SpectralAlignment, InformationFlow)
    for name, kind in zip(names, kinds, strict=True):
        assert isinstance(toy.run.result(name, kind), kind)
    # A second time there is nothing left to do, but for what the source's entropy adds.
    assert not list(information_readings(toy.model, toy.run, options=OPTIONS))
    entropy = toy.chain.truth(2).entropy
    (again,) = information_readings(toy.model, toy.run, source_entropy=entropy)
    assert again[0] == "information_loss"
    loss = again[1]
    assert isinstance(loss, LossDecomposition)
    assert loss.excess == pytest.approx(loss.loss - entropy)
    assert loss.excess_high == pytest.approx(loss.loss_high - entropy)
    assert loss.excess_low == pytest.approx(loss.loss_low - entropy)


def test_xray_gives_what_the_tokens_do_for(toy: Toy, monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **options: object) -> None:
        raise TooFewTokensError("E2b needs at least 9 tokens, got 1.")

    monkeypatch.setattr("fluoroscope.probes.information.reading.information_flow", refuse)
    found, missing = xray_readings(toy.model, toy.run, again=True)
    assert list(found) == ["information_predictions", "information_loss", "information_geometry",
                           "information_alignment"]  # fmt: skip
    assert missing == ["E2b needs at least 9 tokens, got 1."]
