"""Online coding: closed forms of its length, and what must compress does."""

import numpy as np
import pytest
import torch

from fluoroscope.probes import capture_corpus, from_texts, wrap_model
from fluoroscope.probes.readings import linear_probe
from fluoroscope.probes.readings.linear_probe import Split, fit_probe
from fluoroscope.probes.readings.mdl import (
    SMOOTHING,
    block_ends,
    compression,
    online_code_bits,
)
from fluoroscope.probes.readings.random_baseline import random_states, with_random_weights
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


def test_blocks_end_where_the_paper_says() -> None:
    assert block_ends(10_000, 2) == [10, 20, 40, 80, 160, 320, 625, 1250, 2500, 5000, 10_000]
    assert block_ends(100, 4)[0] == 8, "a first probe needs some rows of every class"
    assert block_ends(3, 4) == [3]


def test_one_block_is_the_uniform_code() -> None:
    bits = online_code_bits(
        np.zeros((6, 2)), np.array([0, 1, 2, 3, 0, 1]), n_classes=4, penalty=1.0
    )
    assert bits == 12
    assert compression(bits, 6, 4) == 1


def test_one_class_only_costs_the_first_block_and_the_smoothing() -> None:
    """log2(2) for the first block's rows, then -log2(1 - s/2) for each."""
    labels = np.zeros(1000, dtype=np.int64)
    first = block_ends(1000, 2)[0]
    expected = first + (1000 - first) * -np.log2(1 - SMOOTHING / 2)
    found = online_code_bits(np.zeros((1000, 3)), labels, n_classes=2)
    assert found == pytest.approx(expected)


def test_random_labels_do_not_compress_and_a_plain_feature_does(seed: int) -> None:
    """Learning noise costs a little. Random labels above 1.02 would need 2 % of 2,000 bits by chance:
    40 bits, odds below 2^-40."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, 2000)
    noise = generator.normal(size=(2000, 8))
    shown = noise.copy()
    shown[:, 3] = 6.0 * labels
    random = compression(online_code_bits(noise, labels, n_classes=2), 2000, 2)
    plain = compression(online_code_bits(shown, labels, n_classes=2), 2000, 2)
    assert 0.8 < random < 1.02
    assert plain > 8


def test_a_probe_is_compared_with_random_weights(tmp_path) -> None:
    """Newlines are in the embedding, trained or not; the code is short in both."""
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    texts = [f"x = {n}\nprint(x)\n" * 4 for n in range(12)]
    sites = ["embed", "layers.1.resid_post"]
    run = capture_corpus(model, from_texts(texts), sites, tmp_path / "r.h5", context=96)
    state = torch.random.get_rng_state()
    found = linear_probe(run, "line-start", sites, random_weights_of=model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert found.random_model is not None
    assert found.random_model[0] == 1
    assert found.compression is not None
    assert (found.compression > 1.5).all()
    run.add_result("probe", found)
    np.testing.assert_array_equal(run.result("probe", type(found)).compression, found.compression)
    assert linear_probe(run, "line-start", ["embed"]).random_model is None


def test_labels_of_one_class_are_predicted_without_a_fit() -> None:
    split = Split(np.arange(4), np.arange(4, 6), np.arange(6, 9))
    predicted, _ = fit_probe(np.ones((9, 2)), np.array([3] * 6 + [1, 3, 3]), split)
    assert predicted.tolist() == [3, 3, 3]


def test_random_weights_are_other_weights_of_the_same_shape(tmp_path) -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    once, again = with_random_weights(model), with_random_weights(model)
    other = with_random_weights(model, seed=1)
    name = "model.layers.0.mlp.up_proj.weight"
    weights = [m.module.state_dict()[name] for m in (once, again, other, model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    run = capture_corpus(once, from_texts(["abc " * 9, "de " * 20]), "embed", tmp_path / "r.h5")
    states = random_states(model, run, ["embed"], n_rows=40)
    torch.testing.assert_close(
        torch.from_numpy(states["embed"]), run.activations["embed"].read(slice(0, 40))
    )
