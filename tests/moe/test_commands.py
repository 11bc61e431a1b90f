"""`fluoroscope moe`: from a dense model to a page that tells the story."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT
from tests.families import tiny_module
from tests.moe.planting import PLANTED, grown, plant
from tests.tokenizers_ import byte_tokenizer

TEXT = "def f(x):\n    return x + 1  # one more\n" * 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(4):
        (folder / f"{number}.py").write_text(f"# file {number}\n{TEXT}")
    return folder


def call(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["moe", *map(str, args), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.parametrize("command", ["carve", "profile", "prune"])
def test_help_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, ["moe", command, "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope moe") >= 2


def test_carve_profile_prune_and_the_page(corpus: Path, tmp_path: Path) -> None:
    dense, made, run = tmp_path / "dense", tmp_path / "made", tmp_path / "moe.h5"
    tiny_module("llama").save_pretrained(dense)
    byte_tokenizer().save_pretrained(dense)
    code, document = call("carve", "-m", dense, "-t", corpus, "--experts", 4, "-o", made)
    assert code == 0, document
    assert document["result"]["loss_carved"] == pytest.approx(
        document["result"]["loss_dense"], abs=1e-3
    )
    assert call("carve", "-m", dense, "-t", corpus, "-o", made)[0] == BAD_INPUT
    code, document = call(
        "profile", "-m", made, "-t", corpus, "--quantile", 50, "--layer-fraction", 1, "-o", run
    )
    assert code == 0, document
    assert document["result"]["super_experts"]
    assert any("lower quantile" in w for w in document["warnings"]) is False
    code, document = call(
        "prune", "-m", made, "-t", corpus, "-e", "1:0", "--draws", 1, "-o", run,
        "--save", tmp_path / "pruned",
    )  # fmt: skip
    assert code == 0, document
    assert (tmp_path / "pruned" / "config.json").exists()
    html = build_report(run).read_text()
    for heading in ("Super experts", "What the super experts hold up"):
        assert f">{heading}</h2>" in html


def test_bad_input_says_what_the_model_has(corpus: Path, tmp_path: Path) -> None:
    dense = tmp_path / "dense"
    tiny_module("llama").save_pretrained(dense)
    byte_tokenizer().save_pretrained(dense)
    code, document = call("profile", "-m", dense, "-t", corpus)
    assert code == BAD_INPUT
    assert "is dense: 3 layers" in document["error"]["message"]
    code, document = call("prune", "-m", dense, "-t", corpus, "-e", "one")
    assert code == BAD_INPUT
    assert "LAYER:EXPERT" in document["error"]["message"]


def test_profile_of_planted_experts_reaches_the_page(tmp_path: Path) -> None:
    from fluoroscope.moe.criterion import CriterionOptions
    from fluoroscope.moe.effects import pruning_effects
    from fluoroscope.moe.profile import profile_experts
    from fluoroscope.probes import Provenance, create_run, open_run
    from tests.moe.test_criterion import texts

    model = plant(grown("qwen2_moe"))
    with create_run(
        tmp_path / "a.h5", provenance=Provenance(model=model.info.as_dict(), corpus={})
    ) as writer:
        writer.set_vocabulary(model.vocabulary)
        writer.close()
    run = open_run(tmp_path / "a.h5")
    run.add_result("expert_profile", profile_experts(model, texts(), CriterionOptions(quantile=96)))
    effects = pruning_effects(model, texts(), PLANTED, n_random=1, prompt="ab")
    run.add_result("expert_effects", effects)
    html = build_report(tmp_path / "a.h5").read_text()
    assert "3 of" in html
    assert "L1 E4" in html
    assert build_report(tmp_path / "a.h5", tmp_path / "b.html").read_text() == html
