"""Documents kept out of training, and judging on just these."""

import numpy as np
import pytest
import torch

from fluoroscope.probes import Run
from fluoroscope.probes.errors import OptionError
from fluoroscope.sae import EvaluateOptions, RunRows, evaluate, make_sae
from fluoroscope.sae.documents import kept_out, source_of_rows, unseen
from fluoroscope.sae.heldout import held_out

from .features.conftest import SITE, rows, tiny_run  # noqa: F401

QUICK = EvaluateOptions(n_loss_tokens=0, n_geometry_rows=20, baselines=False)


def record(run: Run, share: float) -> dict:
    return {"source": RunRows(run, [SITE], batch_rows=8, held_out=share).describe()}


def test_whole_documents_are_kept_out_and_a_larger_share_holds_the_smaller(tiny_run: Run) -> None:  # noqa: F811
    source = source_of_rows(tiny_run)
    small, large = (kept_out(tiny_run, share) for share in (0.1, 0.5))
    for out in (small, large):
        assert not set(source[out]) & set(source[~out])
    assert len(set(source[small])) == 2  # 10 % of 12 documents, rounded up
    assert len(set(source[large])) == 6
    assert (large | ~small).all()
    assert not kept_out(tiny_run, 0).any()
    for share in (-0.1, 1.0):
        with pytest.raises(OptionError, match="from 0 to 1"):
            kept_out(tiny_run, share)
    with pytest.raises(OptionError, match="too few to hold 99%"):
        kept_out(tiny_run, 0.99)


def test_training_reads_the_other_rows_once_each(tiny_run: Run, rows: torch.Tensor) -> None:  # noqa: F811
    source = RunRows(tiny_run, [SITE], batch_rows=16, held_out=0.25)
    training = rows[~kept_out(tiny_run, 0.25)]
    assert source.n_rows == len(training)
    batches = source.batches()
    read = torch.cat([next(batches)[SITE] for _ in range(len(training) // 16)])
    known = {row.numpy().tobytes() for row in training}
    assert all(row.numpy().tobytes() in known for row in read)
    positions = torch.cdist(read, training).argmin(1)
    counts = torch.bincount(positions, minlength=len(training))
    twins = len(training) - len(known)
    assert int((counts > 1).sum()) <= twins
    assert all(row.numpy().tobytes() in known for row in source.sample()[SITE])


def test_what_was_kept_out_is_what_is_judged_on(tiny_run: Run, rows: torch.Tensor) -> None:  # noqa: F811
    less, more = record(tiny_run, 0.1), record(tiny_run, 0.5)
    np.testing.assert_array_equal(unseen(tiny_run, less), kept_out(tiny_run, 0.1))
    parts = held_out(tiny_run, QUICK, [less, more])
    out = kept_out(tiny_run, 0.1)
    np.testing.assert_array_equal(parts.test, np.flatnonzero(out))
    assert parts.judged == set(parts.source[out])
    assert not out[parts.fit].any()

    sae = make_sae("topk", d_in=32, d_sae=64, k=4)
    sae.initialise(rows)
    sae.metadata = more
    found = evaluate(tiny_run, SITE, {"a": sae}, options=QUICK)
    assert not found.trained_here.any()
    assert found.n_documents == 6


def test_very_long_rows_are_left_out_and_counted(tiny_run: Run, rows: torch.Tensor) -> None:  # noqa: F811
    parts = held_out(tiny_run, QUICK)
    norms = rows.norm(dim=1).numpy()
    highest = np.quantile(norms[parts.test[parts.kept[parts.test]]], 0.9)
    ratio = float(highest / np.median(norms[parts.fit]))
    found = parts.without_long(tiny_run.activations[SITE], ratio)
    before, after = parts.test[parts.kept[parts.test]], parts.test[found.kept[parts.test]]
    limit = ratio * np.median(norms[parts.fit])
    np.testing.assert_array_equal(after, before[norms[before] <= limit])
    assert found.n_long == len(before) - len(after) > 0
    assert (norms[found.fit] <= limit).all()

    sae = make_sae("topk", d_in=32, d_sae=64, k=4)
    sae.initialise(rows)
    options = EvaluateOptions(
        n_loss_tokens=0, n_geometry_rows=20, baselines=False, max_norm_ratio=ratio
    )
    judged = evaluate(tiny_run, SITE, {"a": sae}, options=options)
    assert (judged.n_rows, judged.n_long) == (len(after), found.n_long)
    made = sae.decode(sae.encode(rows[after])).detach()
    spread = (rows[after] - rows[after].mean(0)).square().sum()
    assert judged.fvu[0] == pytest.approx(
        float((made - rows[after]).square().sum() / spread), rel=1e-4
    )
    with pytest.raises(OptionError, match="above 1"):
        EvaluateOptions(max_norm_ratio=0.5)


def test_all_rows_are_judged_on_where_none_was_kept_out(tiny_run: Run) -> None:  # noqa: F811
    mixed = held_out(tiny_run, QUICK, [record(tiny_run, 0.1), record(tiny_run, 0)])
    plain = held_out(tiny_run, QUICK)
    np.testing.assert_array_equal(mixed.test, plain.test)
    elsewhere = {"source": {"run": "other.h5", "corpus": "texts", "held_out": 0.1}}
    assert unseen(tiny_run, elsewhere).all()
