"""The comparison end to end on tiny models: resumable, bound to its options, written to a file."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import stats

from fluoroscope.moe.moex import measuring
from fluoroscope.moe.moex.autoencoder import AutoencoderOptions
from fluoroscope.moe.moex.comparison import ComparisonOptions, MoexComparison, compare, student
from fluoroscope.moe.moex.contestants import (
    CONTESTANTS,
    Sizes,
    active_parameters,
    build,
    contestant,
)
from fluoroscope.moe.moex.detection import DetectionOptions
from fluoroscope.moe.moex.games import play_games, write_games
from fluoroscope.moe.moex.tasks import Task, chess_task, docstrings, text_task
from fluoroscope.moe.moex.training import IGNORED, TrainOptions
from fluoroscope.probes import open_model
from fluoroscope.probes.corpus import from_texts
from fluoroscope.probes.errors import CorpusError, OptionError, RunMismatchError

pytest.importorskip("chess", reason="the package chess is not installed")
SIZES = Sizes(d_model=16, n_layers=2, n_heads=2, context=64)
TRAINING = TrainOptions(steps=4, n_rows=4, warmup=1)


def options(*slugs: str, seeds: tuple[int, ...] = (0,), noise: float = 0.1) -> ComparisonOptions:
    return ComparisonOptions(
        contestants=slugs, seeds=seeds, noise=noise, sizes=SIZES, training=TRAINING
    )


@pytest.fixture(scope="module")
def chess_small(tmp_path_factory: pytest.TempPathFactory) -> Task:
    played = play_games(64, n_plies=16, seed=0)
    file = write_games(played, tmp_path_factory.mktemp("games") / "games.pgn")
    return chess_task(str(file), context=64)


def words(n: int = 200) -> list[str]:
    generator = np.random.default_rng(0)
    stock = np.array([
        "a",
        "model",
        "that",
        "reads",
        "and",
        "writes",
        "the",
        "stream",
        "of",
        "words",
        "it",
        "was",
        "given",
    ])
    return [" ".join(generator.choice(stock, 120)) for _ in range(n)]


def test_tasks_hold_out_what_they_measure_on(chess_small: Task) -> None:
    assert len(chess_small.test_rows) == 16
    assert len(chess_small.train_rows) == 48
    pieces, whole = chess_small.labels
    assert len(pieces) == len(whole) == int(chess_small.stops.sum())
    assert pieces[0].sum() == 32, "at the first stop all pieces stand"
    text = text_task(from_texts(words()), context=64, d_vocab=300)
    assert text.d_vocab <= 300
    assert text.test_rows.shape[1] == 64
    bos = text.tokenizer.bos_token_id
    assert bool((text.train_rows[:, 0] == bos).all())
    assert not bool((text.train_rows[:, 1:] == bos).any())
    assert bool((text.test_rows[text.test_rows != IGNORED] >= 0).all())
    with pytest.raises(CorpusError, match="at least 8"):
        text_task(from_texts(words(4)), context=64)


def test_docstrings_are_all_there_is_of_a_file() -> None:
    code = '"""Top."""\nclass A:\n    """Of a class."""\n    def f(self):\n        """Of f."""\n'
    found = list(docstrings(from_texts([code, "x = 1", "this is no Python ("])))
    assert found == ["Top.\n\nOf a class.\n\nOf f."]


def test_active_parameters_agree() -> None:
    active = {c.slug: active_parameters(build(c, Sizes(), 32, seed=0)) for c in CONTESTANTS}
    dense = active["dense-gelu"][0]
    for slug, (used, total) in active.items():
        assert used == pytest.approx(dense, rel=0.02), slug
        if contestant(slug).routing != "dense":
            assert total == pytest.approx(active["moex"][1], rel=0.02), slug


def test_chess_from_start_to_file(
    chess_small: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = lambda **more: AutoencoderOptions(steps=5, **more)  # noqa: E731
    monkeypatch.setattr(measuring, "AutoencoderOptions", small)
    slugs = ("dense-gelu", "dense-sae", "switch", "moex", "moex-untrained")
    rules = options(*slugs, seeds=(0, 1))
    told: list[tuple] = []
    found = compare(chess_small, rules, work=tmp_path / "w", progress=lambda *now: told.append(now))
    assert told[-1][0] == told[-1][1] == 2 * (4 + 2 + 2 * 2), "planned and done agree"
    assert found.values.shape == (len(measuring.METRICS), len(slugs), 2)
    for metric in ("loss", "coverage", "coverage_board", "reconstruction", "l0"):
        assert np.isfinite(found.of(metric)).all(), metric
    assert np.isnan(found.of("detection")).all()
    assert np.isfinite(found.of("loss_spliced")).tolist() == [slug == "dense-sae" for slug in slugs]
    assert found.contestants[found.champion] == "MoE-X"
    row = found.metrics.tolist().index("loss")
    assert found.ahead[row, found.champion] == 0.0
    mixed = np.isfinite(found.load[:, 0])
    np.testing.assert_allclose(np.nansum(found.load[mixed], axis=1), 1.0, rtol=1e-5)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found.save(file.create_group("x"))
        again = MoexComparison.load(file["x"])
    np.testing.assert_array_equal(again.values, found.values)
    made = open_model(tmp_path / "w" / "moex-0" / "model")
    assert made.decode(made.encode(";1.e4")) == ";1.e4"
    once_more = compare(chess_small, rules, work=tmp_path / "w")
    np.testing.assert_array_equal(once_more.values, found.values)
    with pytest.raises(RunMismatchError, match="noise"):
        compare(chess_small, options("moex", noise=0.2), work=tmp_path / "w")


def test_an_interrupted_comparison_goes_on(chess_small: Task, tmp_path: Path) -> None:
    rules = options("dense-relu", "moex")
    whole = compare(chess_small, rules, work=tmp_path / "whole")

    def stop(done: int, total: int, note: str) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(chess_small, rules, work=tmp_path / "parts", progress=stop)
    parts = compare(chess_small, rules, work=tmp_path / "parts")
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-3)


def test_text_has_a_detection_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = lambda **more: DetectionOptions(n_features=5, n_contexts=5, **more)  # noqa: E731
    monkeypatch.setattr(measuring, "DetectionOptions", small)
    task = text_task(from_texts(words()), context=64, d_vocab=300)
    found = compare(task, options("dense-relu", "moex"), work=tmp_path)
    assert (found.of("detection") >= 0).all()
    assert (found.of("detection") <= 1).all()
    assert np.isnan(found.of("coverage")).all()
    held = json.loads((tmp_path / "moex-0" / "measured.json").read_text())
    assert 0 < len(held["arrays"]["detection_scores"]) <= 5


def test_students_interval_is_scipys() -> None:
    """Three values: half-width t(0.975, 2) * s / sqrt(3)."""
    values = np.array([[1.0, 2.0, 4.0]])
    mean, low, high = student(values)
    expected = stats.t.interval(0.95, 2, loc=7 / 3, scale=stats.sem(values[0]))
    assert (float(low[0]), float(high[0])) == pytest.approx(expected)
    assert float(mean[0]) == pytest.approx(7 / 3)
    assert np.isnan(student(values[:, :1])[1]).all()


def test_impossible_options_are_refused() -> None:
    with pytest.raises(OptionError, match="No contestant 'gpt5'; there are dense-gelu"):
        ComparisonOptions(contestants=("gpt5",))
    with pytest.raises(OptionError, match="seed"):
        ComparisonOptions(seeds=(0, 0))
    with pytest.raises(OptionError, match="layer must be from 0 to 1"):
        ComparisonOptions(layer=2)
    with pytest.raises(OptionError, match="divide"):
        Sizes(d_model=10)
