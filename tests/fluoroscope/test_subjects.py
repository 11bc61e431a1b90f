"""`fluoroscope subjects models` in this process: controls and patches from options to page."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import open_run
from fluoroscope.probes.subjects import SubjectsComparison
from fluoroscope.reports import build_report
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

LINES = "Line {0} has {1} words about things that number {2}.\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subjects")
    tiny_module("llama").save_pretrained(path / "model")
    byte_tokenizer().save_pretrained(path / "model")
    (path / "text").mkdir()
    for n in range(80):
        (path / f"text/{n}.txt").write_text(
            "".join(LINES.format(n, k, n * k % 7) for k in range(4))
        )
    return path


def test_an_untrained_twin_and_patches_reach_the_page(folder: Path) -> None:
    model, run = folder / "model", folder / "s.h5"
    given = [
        "subjects", "models", "--subject", f"{model}:layers.0.resid_post", "--subject",
        f"{model}:layers.1.mlp.hidden", "--teacher", model, "-t", folder / "text", "--train", 40,
        "--test", 48, "--anchors", 8, "--steps", 3, "--few", 32, "--random-weights", "--patched", 5,
        "-o", run, "--json",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*map(str, given)])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)["result"]
    bag, twin, _, last = result["subjects"]
    assert bag == "bag of words"
    assert twin.endswith("random weights layers.1.mlp.hidden")
    assert result["floor"] == [-1, -1, 0, 1], "its own twin before the bag of words"
    assert result["recovered"][0][0][0] == [None] * 3, "a control is no target"
    assert isinstance(result["recovered"][0][0][3][0], float)
    found = open_run(run).result("subjects", SubjectsComparison)
    assert found.n_patched == 5
    assert found.proper.tolist() == [False, False, True, True]
    assert any(f"{last} is read at" in line for line in result["gates"])
    html = build_report(run).read_text(encoding="utf-8")
    for sentence in (
        "Does training of the subjects matter to what is read?",
        "Do built states serve a model in place of its own?",
        "5 test items; own state 1, mean state 0",
        "Controls, which averages leave out: bag of words, ",
    ):
        assert sentence in html, sentence


def test_pooled_signals_are_not_put_into_models(folder: Path) -> None:
    model = folder / "model"
    given = [
        "subjects", "models", "--subject", f"{model}:layers.0.resid_post", "--subject",
        f"{model}:layers.1.resid_post", "--teacher", model, "-t", folder / "text", "--train", 40,
        "--test", 40, "--anchors", 0, "--steps", 2, "--few", 32, "--aggregate", "pad",
    ]  # fmt: skip
    done = CliRunner().invoke(app, [*map(str, given)])
    assert done.exit_code == 0, done.output
    assert "not put into models: that needs --aggregate linear" in done.stderr
