"""Sections on attention to a source, and on many subjects: what they say is what the numbers hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.probes.degeneration import AttentionDegeneration
from fluoroscope.probes.seq2seq import SourceRecall
from fluoroscope.probes.subjects import SubjectsComparison
from fluoroscope.reports import build_report
from fluoroscope.reports.sections.subjects import _short

STEPS = np.array([1, 2, 4])


def curve(*values: float) -> np.ndarray:
    return np.array(values)


def degeneration() -> AttentionDegeneration:
    flat = curve(0.5, 0.4, 0.3)
    many = np.stack([flat * 2, np.full(3, np.nan), flat])
    return AttentionDegeneration(
        source="recomputed", n_texts=5, n_source=10, n_target=4, n_sinks=1, steps=STEPS,
        uniform=flat, mass=flat + 0.2, mass_low=flat, mass_high=flat + 0.3,
        corrected=curve(0.9, 0.5, 0.2), corrected_low=flat, corrected_high=flat,
        corrected_uniform=curve(0.9, 0.8, 0.4), sink=flat,
        head_ratio=np.arange(18.0, dtype=np.float32).reshape(2, 3, 3) / 10,
        entropy=np.ones((2, 3)), jacobian=many, jacobian_low=many, jacobian_high=many,
        divergence=curve(2.5, 1.0, 0.25), divergence_low=flat, divergence_high=flat, options={},
        n_documents=4, weighted=curve(0.8, 0.6, 0.35), weighted_low=flat, weighted_high=flat,
    )  # fmt: skip


def recall() -> SourceRecall:
    accuracy = np.zeros((2, 2, 3))
    accuracy[1] = 0.75
    return SourceRecall(
        task="recall", models=np.array(["lm", "palm"]), parameters=np.array([10, 20]),
        bins=curve(1, 2, 3), accuracy=accuracy, loss=np.ones((2, 2)), chance=0.125, options={},
    )  # fmt: skip


def comparison() -> SubjectsComparison:
    rng = np.random.default_rng(0)
    read = rng.random((6, 3, 3, 3))
    read[0, :, 0, 0] = 0.91
    return SubjectsComparison(
        what="<b>brains</b>", subjects=np.array(["a", "b", "c"]), widths=np.array([3, 4, 5]),
        n_train=np.array([40, 40, 40]), n_test=20, metrics=np.array(["two-way", "top-1", "cosine"]),
        methods=np.array(["bridge", "alone", "ridge", "shared linear", "CCA", "shuffled"]),
        read=read, newcomer="c", n_few=np.array([32, 64]),
        joining=np.array(["reset-tuned", "from scratch", "ridge"]),
        joined=rng.random((3, 2, 3, 3)), building=np.array(["bridge", "bridge without cycle"]),
        synthesis=np.stack([np.full((3, 3), 0.4), np.full((3, 3), 0.1)]),
        subject_told=0.4, subject_chance=0.33,
        options={},
    )  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("run") / "run.h5"
    with create_run(path, provenance=Provenance()) as writer:
        writer.close()
    run = open_run(path)
    run.add_result("attention_degeneration", degeneration())
    run.add_result("source_recall", recall())
    run.add_result("subjects", comparison())
    return build_report(path).read_text(encoding="utf-8")


def test_sentences_say_what_the_numbers_hold(page: str) -> None:
    for sentence in (
        "is 0.50 times what even attention would leave (1.00 after the first token)",
        "by 0.25 nats (2.50 after the first)",
        "From 0.90 to 0.20 without sinks",
        "the source's share goes from 0.80 to 0.35; of attention itself from 0.90 to 0.20",
        "5 texts of 4 documents",
        "3 of 6 heads look at it more than evenly after 4 tokens",
        "falls by a factor of 1.7 per source position",
        "Best overall is palm with 75% of the answers; guessing would give 12%",
        "One decoder for 3 subjects identifies 91% of item pairs",
        "Between subjects the bridge explains 40% of the variance (bridge without cycle 10%)",
    ):
        assert sentence in page, sentence


def test_results_of_older_files_have_no_weighted_share(tmp_path: Path) -> None:
    path = tmp_path / "old.h5"
    with create_run(path, provenance=Provenance()) as writer:
        writer.close()
    none = dict.fromkeys(("weighted", "weighted_low", "weighted_high", "n_documents"))
    run = open_run(path)
    run.add_result("attention_degeneration", replace(degeneration(), **none))
    with run.edit() as file:
        for name in none:  # as a file from before the fields were there
            del file["results/attention_degeneration"].attrs[name]
    html = build_report(path).read_text(encoding="utf-8")
    assert "Which heads go on looking at the source?" in html
    assert "Does what it still looks at move anything?" not in html


def test_names_are_escaped(page: str) -> None:
    assert "<b>brains</b>" not in page


def test_keeping_a_result_needs_no_model(tmp_path) -> None:
    from fluoroscope.commands.results import keep
    from fluoroscope.terminal import Terminal

    terminal = Terminal(json=True)
    path = tmp_path / "new" / "results.h5"
    keep(terminal, None, "x", recall())
    keep(terminal, path, "recall", recall())
    keep(terminal, path, "again", recall())
    assert set(open_run(path).results) == {"recall", "again"}
    assert terminal.files == [str(path)] * 2


def test_names_are_told_without_what_all_subjects_share() -> None:
    names = ["bag of words", "M, random weights layers.20.resid_post",
             "M layers.12.resid_post", "M layers.20.resid_post"]  # fmt: skip
    proper = np.array([False, False, True, True])
    short, shared = _short(names, proper)
    assert short == ["bag of words", "random weights layers.20", "layers.12", "layers.20"]
    assert shared == " Those that are no controls are resid_post of M."
    mixed = ["M layers.1.resid_post", "N layers.1.mlp.out"]
    assert _short(mixed, np.ones(2, bool)) == (mixed, "")
    one = ["M layers.1.resid_post", "M layers.1.mlp.out"]
    assert _short(one, np.ones(2, bool)) == (
        ["layers.1.resid_post", "layers.1.mlp.out"],
        " Those that are no controls are sites of M.",
    )
    assert _short(["a", "b"], np.ones(2, bool)) == (["a", "b"], "")
