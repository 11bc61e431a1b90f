"""Words that nothing accounts for: the formula by hand, and a model that can only repeat."""

import math

import numpy as np
import pytest
import torch

from fluoroscope.probes import Model, wrap_model
from fluoroscope.probes.degeneration import (
    CoOccurrence,
    DegenerationOptions,
    HallucinationRatio,
    hallucination_ratio,
)
from fluoroscope.probes.degeneration.hallucination import unaccounted, words_of
from fluoroscope.probes.degeneration.invention import _edges, continued
from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.readings import Texts
from tests.conftest import ids
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_words_are_letters_case_aside() -> None:
    assert words_of("The the_cat, 3 MICE\u00e9s x2y") == [
        "the",
        "the",
        "cat",
        "mice\u00e9s",
        "x",
        "y",
    ]


def test_the_ratio_is_the_formula() -> None:
    table = CoOccurrence(
        [("red wine", "glass glass"), ("red sky", "morning glass"), ("dry wine", "glass")],
        alpha=1.5, beta=0.5,
    )  # fmt: skip
    assert table.n_pairs == 3
    assert [table.count("red", "glass"), table.count("red", "morning")] == [2, 1]
    assert table.count("glass", "red") == 0, "source and continuation are no pair"
    found = unaccounted(
        ["red wine", "blue", "12"],
        ["the Cork", "sea", "x"],
        ["glass cork morning sand", "Sea glass", ""],
        table,
    )
    never = 1 - sigmoid(-3)
    expected = [
        [1 - sigmoid(1), 0, 1 - sigmoid(-1), never],  # two texts of wine or of red have glass
        [0, never, math.nan, math.nan],
        [math.nan] * 4,
    ]
    np.testing.assert_allclose(found, expected)
    # HR_2 of the paper: the mean over texts that have a second word.
    assert np.nanmean(found[:, 1]) == pytest.approx((0 + never) / 2)
    assert unaccounted(["7"], ["a"], ["b"], table)[0, 0] == 1, "a source without words"
    with pytest.raises(OptionError, match="beta must be positive"):
        CoOccurrence([], beta=0)


def test_bins_double_as_far_as_enough_texts_reach() -> None:
    values = np.full((5, 12), np.nan)
    for row, n in enumerate((12, 12, 9, 6, 1)):
        values[row, :n] = 0.5
    assert _edges(values).tolist() == [0, 1, 2, 4, 8], "four texts have a fifth word, three a ninth"
    with pytest.raises(OptionError, match="4 continuations that hold a word"):
        _edges(values[:, :0])


def test_a_continuation_is_the_greedy_one(tiny_llama: Model) -> None:
    begun = ids(3, 7)
    found = continued(tiny_llama, begun, 5)
    whole = begun
    for _ in range(5):
        with torch.no_grad():
            whole = torch.cat([whole, tiny_llama(whole).logits[:, -1].argmax(-1, keepdim=True)], 1)
    assert torch.equal(found, whole[:, 7:])


def test_a_model_that_repeats_its_source_invents_less_than_another_document(tmp_path) -> None:
    import h5py

    module = tiny_module("llama")
    for layer in module.model.layers:  # nothing but the token itself reaches the unembedding
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    module.config.tie_word_embeddings = True
    module.tie_weights()
    model = wrap_model(module, byte_tokenizer(), name="repeats its last letter")
    letters = "abcdef"
    rows = tuple(model.encode(one * 12).numpy() for one in letters)
    counted = tuple(model.encode(one * 12).numpy() for one in letters * 3)
    options = DegenerationOptions(n_source=6, n_target=6)
    told: list[int] = []
    found = hallucination_ratio(
        model, Texts(rows, tuple(letters)),
        Texts((*counted, *rows), (*(f"other {n}" for n in range(18)), *letters)), options,
        progress=lambda done, total, _: told.append(done),
    )  # fmt: skip
    assert told == list(range(1, 7))
    assert (found.n_texts, found.n_documents, found.n_counted) == (6, 6, 18)
    assert found.ratio.tolist() == [0.0], "aaaaaa is one word, and the reference's own"
    assert found.other[0] == pytest.approx(1 - sigmoid(-1)), "b was never seen with a"
    assert found.ceiling == pytest.approx(1 - sigmoid(-1))
    assert found.example.endswith(" => aaaaaa")
    with h5py.File(tmp_path / "r.h5", "w") as file:
        found.save(file.create_group("r"))
        assert HallucinationRatio.load(file["r"]).n_judged.tolist() == [6]
    with pytest.raises(OptionError, match="documents that are not judged"):
        hallucination_ratio(
            model, Texts(rows, tuple(letters)), Texts(rows, tuple(letters)), options
        )
