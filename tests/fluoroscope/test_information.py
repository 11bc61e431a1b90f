"""`fluoroscope information`: from a run file to the page, refusals included."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


def call(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, [*map(str, args), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny model's folder and a run of it over random text in forty files."""
    folder = tmp_path_factory.mktemp("information")
    tiny_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "text").mkdir()
    generator = np.random.default_rng(0)
    for number in range(40):
        words = generator.choice(["ab", "ba", "cab", "ad"], size=60)
        (folder / "text" / f"{number}.txt").write_text(" ".join(words))
    code, document = call(
        "capture", "-m", folder / "model", "-t", folder / "text", "--context", 96,
        "-o", folder / "run.h5",
    )  # fmt: skip
    assert code == 0, document
    return folder / "model", folder / "run.h5"


def test_information_and_its_page(captured: tuple[Path, Path], tmp_path: Path) -> None:
    model, run = captured
    code, document = call("information", run, "-m", model, "--classes", 24, "-k", 2)
    assert code == 0, document
    result = document["result"]
    assert result["computed"] == [
        "information_predictions", "information_loss", "information_geometry",
        "information_alignment", "information_flow",
    ]  # fmt: skip
    assert result["layers"] == [0, 1, 2]
    assert not any("--again" in line for line in document["warnings"])
    assert len(result["acceptance"]) == 3
    # Letters inside these words follow from the ones before: a random model's states show some of it.
    assert max(row[0] for row in result["futures"]) > 0.2
    code, document = call("information", run, "-m", model)
    assert document["result"]["computed"] == []
    said = " ".join(document["warnings"])
    assert "2 tokens looked ahead, not 4; --again measures it anew" in said
    assert "24 classes, not" in said
    assert "layers, not" not in said
    html = build_report(run, tmp_path / "page.html").read_text()
    for words in ("Why does drafting work here?", "What is the loss made of?", "(tautological)",
                  "How many directions of a state matter"):  # fmt: skip
        assert words in html


def test_another_model_and_too_few_tokens_are_refused(captured: tuple[Path, Path], tmp_path: Path):
    model, run = captured
    code, document = call("information", run, "-m", model, "--tokens", 1024, "--again")
    assert code == BAD_INPUT
    assert "needs at least" in document["error"]["message"]
    other = tmp_path / "other"
    module = tiny_module("llama")
    module.get_input_embeddings().weight.data.add_(1)
    module.save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    code, document = call("information", run, "-m", other)
    assert code == BAD_INPUT
    assert document["error"]["type"] == "RunMismatchError"


def test_dry_run_writes_nothing(captured: tuple[Path, Path]) -> None:
    model, run = captured
    before = run.read_bytes()
    code, document = call("information", run, "-m", model, "--dry-run")
    assert code == 0, document
    assert run.read_bytes() == before


def test_help_teaches_by_example() -> None:
    result = CliRunner().invoke(app, ["information", "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope information") >= 2
