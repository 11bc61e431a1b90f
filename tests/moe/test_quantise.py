"""Rounding experts: levels and errors in closed form, weights as before afterwards, planted experts."""

import h5py
import pytest
import torch

from fluoroscope.moe.errors import UnknownExpertError
from fluoroscope.moe.layers import SHARED, layer_of, moe_layers
from fluoroscope.moe.quantise import (
    QuantisationEffects,
    quantisation_effects,
    quantised_experts,
    round_to_nearest,
)
from fluoroscope.probes.errors import OptionError
from tests.families import MIXTURES
from tests.moe.planting import PLANTED, grown, plant, some_ids
from tests.moe.test_criterion import texts


def test_levels_and_errors_are_those_of_the_width() -> None:
    weight = torch.randn(6, 200, generator=torch.Generator().manual_seed(0))
    for bits in (2, 4, 8):
        rounded = round_to_nearest(weight, bits)
        step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert float(((rounded - weight).abs() / step).max()) <= 0.5 + 1e-4
        assert max(len(row.unique()) for row in rounded) <= 2**bits - 1
        torch.testing.assert_close(round_to_nearest(rounded, bits), rounded)
        torch.testing.assert_close(round_to_nearest(3 * weight, bits), 3 * rounded)
    torch.testing.assert_close(rounded.abs().amax(1), weight.abs().amax(1))
    assert not round_to_nearest(torch.zeros(2, 3), 4).any()
    with pytest.raises(OptionError, match="at least 2"):
        round_to_nearest(weight, 1)


@pytest.mark.parametrize("family", MIXTURES)
@torch.no_grad()
def test_only_the_experts_asked_for_change_and_only_meanwhile(family: str) -> None:
    model = grown(family)
    layers = moe_layers(model)
    before = {k: v.clone() for k, v in model.module.state_dict().items()}
    shared = [(layers[0].index, SHARED)] if layers[0].shared is not None else []
    chosen = [(layers[0].index, 2), (layers[-1].index, 5), *shared]
    with quantised_experts(model, chosen, 3) as error:
        assert 0 < error < 0.5
        for layer in layers:
            for expert in range(layer.n_experts):
                for matrix in layer.matrices_of(expert):
                    few = max(len(row.unique()) for row in matrix) <= 7
                    assert few == ((layer.index, expert) in chosen), (layer.index, expert)
        if shared:
            assert all(len(m[0].unique()) <= 7 for m in layer_of(layers, shared[0]).matrices_of(-1))
    for name, value in model.module.state_dict().items():
        assert torch.equal(value, before[name]), name
    with pytest.raises(UnknownExpertError), quantised_experts(model, [(layers[0].index, 99)], 4):
        pass


def test_eight_bits_change_little_and_the_control_is_of_the_same_layers(tmp_path) -> None:
    model = plant(grown("qwen3_moe"))
    found = quantisation_effects(model, texts(), PLANTED, bits=(8, 2), n_random=2)
    assert found.random_loss.shape == (2, 2)
    assert found.baseline_largest > 1000
    assert found.largest[0] == pytest.approx(found.baseline_largest, rel=0.05)
    assert found.weight_error[0] < 0.01 < found.weight_error[1]
    assert abs(found.loss[0] - found.baseline) < 0.05
    assert found.decay.shape == found.random_decay.shape == (2, model.n_layers)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found.save(file.create_group("x"))
        again = QuantisationEffects.load(file["x"])
    assert again.bits.tolist() == [8, 2]
    with pytest.raises(OptionError, match="at least one expert"):
        quantisation_effects(model, texts(), [])
    assert torch.isfinite(model(some_ids()).logits).all()
