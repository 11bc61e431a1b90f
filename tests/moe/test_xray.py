"""What an X-ray takes from this room."""

from fluoroscope import moe
from fluoroscope.moe import CriterionOptions, expert_readings
from fluoroscope.probes import wrap_model
from tests.families import tiny_module
from tests.moe.planting import grown, plant
from tests.moe.test_criterion import texts
from tests.tokenizers_ import byte_tokenizer


def test_a_mixture_gives_both_results_and_a_dense_model_none() -> None:
    found = expert_readings(plant(grown("mixtral")), texts(), CriterionOptions(quantile=95.0))
    assert sorted(found) == ["expert_effects", "expert_profile"]
    assert expert_readings(wrap_model(tiny_module("llama"), byte_tokenizer()), texts()) == {}


def test_public_names_are_sorted_and_there() -> None:
    assert list(moe.__all__) == sorted(moe.__all__)
    assert all(getattr(moe, name) is not None for name in moe.__all__)
