"""The criterion in closed form, and planted super experts found exactly in every architecture."""

import math

import numpy as np
import pytest
import torch

from fluoroscope.moe.criterion import (
    CriterionOptions,
    FewExpertsWarning,
    formation_layers,
    select_super,
)
from fluoroscope.moe.errors import NoExpertsError
from fluoroscope.moe.layers import SHARED
from fluoroscope.moe.profile import profile_experts, profile_padded
from fluoroscope.moe.result import ExpertProfile
from fluoroscope.probes.errors import CorpusError, OptionError
from fluoroscope.probes.readings import Texts
from tests.families import MIXTURES
from tests.moe.planting import (
    BOS,
    CHANNEL,
    N_EXPERTS,
    NEURON,
    PLANTED,
    SIZE,
    grown,
    plant,
    some_ids,
)

SMALL = CriterionOptions(quantile=95.0)
few = pytest.mark.filterwarnings("ignore::fluoroscope.moe.criterion.FewExpertsWarning")


def texts(n: int = 4, *, seed: int = 0) -> Texts:
    rows = some_ids(n, seed=seed).numpy()
    return Texts(tuple(rows), tuple(f"text {i}" for i in range(n)))


def table(n_layers: int, n_experts: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(1.0, n_layers * (n_experts + 1) + 1).reshape(n_layers, n_experts + 1) / 1e3
    present = np.ones(values.shape, dtype=bool)
    present[:, -1] = False
    return values, present


@few
@pytest.mark.parametrize(("n", "expected"), [(192, 1), (256, 2), (384, 2), (130, 1)])
def test_the_percentile_lets_through_what_the_sheet_says(n: int, expected: int) -> None:
    values, present = table(1, n)
    options = CriterionOptions(layers=(0,), ratio=1e9)
    chosen = select_super(values, present, [0], 4, options)
    assert chosen.n_population == n
    assert len(chosen.experts) == chosen.n_selectable == expected == math.ceil(0.005 * (n - 1))
    assert chosen.experts[0] == (0, n - 1), "largest first"


def test_few_experts_are_warned_about() -> None:
    values, present = table(1, 192)
    with pytest.warns(FewExpertsWarning, match="at most 1"):
        select_super(values, present, [0], 4, CriterionOptions(layers=(0,)))


@few
def test_the_three_variants_differ_as_their_sources_do() -> None:
    """Three large experts in layers 1-3 of 128 each, and a larger outlier in the last layer."""
    generator = np.random.default_rng(0)
    values = generator.uniform(0.5, 5.0, (48, 129))
    present = np.ones(values.shape, dtype=bool)
    present[:, -1] = False
    for layer, expert, size in ((1, 68, 744.0), (2, 92, 540.0), (3, 82, 430.0), (47, 8, 800.0)):
        values[layer, expert] = size
    layers = list(range(48))
    found = {
        variant: select_super(
            values, present, layers, 48, CriterionOptions(variant=variant), formation=[1, 2, 3]
        )
        for variant in ("code", "paper", "algorithm1")
    }
    three = ((1, 68), (2, 92), (3, 82))
    assert found["code"].experts == three
    assert found["paper"].experts == three
    assert found["algorithm1"].experts == three[:2], "3 of 3 x 128 cannot pass 99.5 %"
    assert found["code"].n_population == 36 * 128
    assert found["paper"].n_population == 48 * 128
    assert found["algorithm1"].n_population == 3 * 128


@few
def test_bounds_are_strict_and_division_is_true() -> None:
    values = np.full((1, 11), 0.5)
    values[0, :2] = [9.0, 0.9]
    present = np.ones(values.shape, dtype=bool)
    options = CriterionOptions(quantile=50.0, layers=(0,))
    assert select_super(values, present, [0], 1, options).experts == ((0, 0),), (
        "0.9 is not above 0.9"
    )
    values[0, 1] = 0.91
    assert select_super(values, present, [0], 1, options).experts == ((0, 0), (0, 1))


@few
def test_the_percentile_is_strict_and_layers_are_rounded() -> None:
    """Four of five experts lie on the median itself; three quarters of ten layers are eight."""
    values = np.array([[1.0, 2.0, 2.0, 2.0, 2.0]])
    present = np.ones(values.shape, dtype=bool)
    options = CriterionOptions(quantile=50.0, layers=(0,))
    assert select_super(values, present, [0], 1, options).experts == ()
    values, present = np.ones((10, 6)), np.ones((10, 6), dtype=bool)
    values[7, 2], values[8, 3] = 50.0, 90.0
    options = CriterionOptions(quantile=90.0)
    assert select_super(values, present, list(range(10)), 10, options).experts == ((7, 2),)


@few
def test_shared_experts_take_part_unless_asked_not_to() -> None:
    values, present = table(2, 8)
    present[:] = True
    options = CriterionOptions(quantile=90.0, layers=(0, 1))
    assert (1, 8) in select_super(values, present, [0, 1], 2, options).experts
    without = CriterionOptions(quantile=90.0, layers=(0, 1), include_shared=False)
    assert all(c < 8 for _, c in select_super(values, present, [0, 1], 2, without).experts)


def test_impossible_thresholds_and_ranges_are_refused() -> None:
    for wrong in ({"quantile": 100.0}, {"ratio": 0.5}, {"layer_fraction": 0.0}):
        with pytest.raises(OptionError):
            CriterionOptions(**wrong)
    values, present = table(2, 8)
    with pytest.raises(NoExpertsError, match=r"experts in \[3, 4\]"):
        select_super(values, present, [3, 4], 8, CriterionOptions(layers=(0, 1)))
    with pytest.raises(OptionError, match="formation"):
        select_super(values, present, [3, 4], 8, CriterionOptions(variant="paper"))


def test_formation_needs_size_ratio_and_rise() -> None:
    largest = np.array([5.0, 2514.0, 5081.0, 7643.0, 7643.0, 90.0, 900.0])
    median = np.array([0.5, 0.5, 0.5, 0.5, 0.5, 0.01, 0.95])
    assert formation_layers(largest, median) == [1, 2, 3]
    growing = np.array([2000.0, 2600.0, 4000.0])  # by a third, then by half
    assert formation_layers(growing, np.ones(3)) == [0, 2]


@few
@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("variant", ["code", "paper"])
@pytest.mark.parametrize("rows", ["all", "first"])
def test_planted_super_experts_are_found_exactly(family: str, variant: str, rows: str) -> None:
    options = CriterionOptions(variant=variant, quantile=95.0)  # type: ignore[arg-type]
    # GPT-OSS clamps its experts, so a third equal step is no rise by half.
    planted = PLANTED[:2] if family == "gpt_oss" else PLANTED
    model = plant(grown(family), planted)
    found = profile_experts(model, texts(), options, rows=rows)  # type: ignore[arg-type]
    assert sorted(found.super_experts) == sorted(planted)
    n = len(planted)
    assert found.formation.tolist()[:1] == [1]
    for rank in range(n):
        assert found.ranked_super[rank]
        assert found.ranked_channel[rank] == CHANNEL
        assert found.ranked_neurons[rank, 0] == NEURON
        assert found.ranked_weights[rank, 0] == pytest.approx(SIZE)
    assert not found.ranked_super[n:].any()
    if family != "gpt_oss":  # its clamp lets other tokens reach the same size
        assert set(found.ranked_token[:n]) == {BOS}
        assert set(found.ranked_position[:n]) == {0}


@few
@pytest.mark.parametrize("family", MIXTURES)
def test_nothing_is_found_where_nothing_was_planted(family: str) -> None:
    """Random experts differ by less than ten times, so all lie near the percentile.

    The criterion always lets the top few of a tail through, super or not: what tells is confirmation.
    Here the count cannot exceed what the percentile allows, and no formation layer is seen.
    """
    found = profile_experts(grown(family), texts(), SMALL)
    assert len(found.super_experts) <= found.n_selectable
    assert found.formation.tolist() == []


@few
@pytest.mark.parametrize("family", ["qwen2_moe", "deepseek_v2", "deepseek_v3"])
def test_a_planted_shared_expert_is_found(family: str) -> None:
    found = profile_experts(plant(grown(family), ((2, SHARED),)), texts(), SMALL)
    assert found.super_experts == [(2, SHARED)]
    assert found.ranked_weights[0, 0] == pytest.approx(SIZE)


@few
def test_a_profile_survives_its_file(tmp_path) -> None:
    import h5py

    found = profile_experts(plant(grown("qwen3_moe")), texts(), SMALL)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found.save(file.create_group("profile"))
    with h5py.File(tmp_path / "a.h5") as file:
        again = ExpertProfile.load(file["profile"])
    assert again.super_experts == found.super_experts
    np.testing.assert_array_equal(again.maxima, found.maxima)
    assert again.n_experts == N_EXPERTS


@few
def test_batch_size_does_not_matter() -> None:
    model = plant(grown("mixtral"))
    a, b = (profile_experts(model, texts(), SMALL, batch_tokens=n) for n in (24, 4096))
    np.testing.assert_allclose(a.maxima, b.maxima, rtol=1e-4)
    np.testing.assert_allclose(a.resid_median, b.resid_median, rtol=1e-4)
    assert a.super_experts == b.super_experts


@few
def test_a_padded_batch_is_profiled_without_its_padding() -> None:
    model, ids = plant(grown("mixtral")), some_ids()
    plain = profile_experts(model, texts(), SMALL)
    padded = torch.cat([ids, torch.full((4, 6), 258)], dim=1)
    mask = torch.cat([torch.ones(4, 24), torch.zeros(4, 6)], dim=1).long()
    found = profile_padded(model, padded, mask, SMALL)
    np.testing.assert_allclose(found.maxima, plain.maxima, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.resid_largest, plain.resid_largest, rtol=1e-3)
    with pytest.raises(CorpusError, match="padding only"):
        profile_padded(model, ids, torch.zeros_like(ids), SMALL)
