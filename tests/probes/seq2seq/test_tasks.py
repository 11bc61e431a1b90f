"""Every answer stands in the source and nowhere in the target before it, decoys or not."""

import numpy as np
import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.seq2seq import (
    Seq2SeqOptions,
    TaskOptions,
    TrainingOptions,
    compare_constructions,
    draw,
)


@pytest.mark.parametrize("n_decoys", [0, 3])
def test_recall_answers_are_the_sources_and_decoys_are_not(n_decoys: int) -> None:
    task = TaskOptions(n_items=5, n_filler=2, n_decoys=n_decoys, n_symbols=9)
    batch = draw(task, 40, torch.Generator().manual_seed(0))
    assert batch.wanted.shape[1] == task.n_target == 5 * (2 + 2 * n_decoys + 2)
    n_wrong = 0
    for row in range(40):
        pairs = batch.source[row, : batch.lengths[row]].view(-1, 2).tolist()
        true = dict(pairs)
        target, scored = batch.wanted[row].tolist(), batch.scored[row]
        assert int(scored.sum()) == len(true)
        for place in scored.nonzero()[:, 0].tolist():
            key = target[place - 1]
            assert target[place] == true[key]
            assert batch.fed[row, place] == key  # the question is what is fed
        first = 2 + 2 * n_decoys + 2
        for start in range(0, len(true) * first, first):
            wrong = target[start + 2 : start + 2 + 2 * n_decoys]
            for key, value in zip(wrong[::2], wrong[1::2], strict=True):
                assert key in true
                assert value != true[key]
                assert 10 <= value < 19  # a value, of nine
                n_wrong += 1
    assert (n_wrong > 0) == (n_decoys > 0)


def test_a_comparison_has_a_bin_per_question_and_none_is_empty() -> None:
    task = TaskOptions(n_items=3, n_filler=0, n_decoys=1)
    found = compare_constructions(
        task, Seq2SeqOptions(d_vocab=0, d_model=16),
        TrainingOptions(n_steps=2, n_rows=4, n_test=64, seeds=(0, 1)), models=("lm", "palm"),
    )  # fmt: skip
    assert found.accuracy.shape == (2, 2, 3)
    assert np.isfinite(found.accuracy).all()
    assert found.bins.tolist() == [3, 7, 11]
    assert found.options["task"]["n_decoys"] == 1


def test_impossible_tasks_are_refused() -> None:
    with pytest.raises(OptionError, match="n_decoys at least 0"):
        TaskOptions(n_decoys=-1)
    with pytest.raises(OptionError, match="a key of its own"):
        TaskOptions(n_items=33)
