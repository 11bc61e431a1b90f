"""`fluoroscope sae`: from a run file and a dictionary to a page."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import capture_corpus, from_texts, open_model, open_run
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT
from fluoroscope.sae import make_sae, save_sae
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SITE = "layers.1.resid_post"
TEXT = "def f{n}(x):\n    return x + {n}  # number {n}\n"


def call(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["sae", *map(str, args), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a run of it and two dictionaries."""
    folder = tmp_path_factory.mktemp("sae")
    tiny_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    model = open_model(str(folder / "model"))
    texts = [TEXT.format(n=n) * 2 for n in range(8)]
    run = capture_corpus(model, from_texts(texts, "texts"), SITE, folder / "run.h5", context=64)
    rows = run.activations[SITE].read().float()
    for name in ("topk", "mp"):
        sae = make_sae(name, d_in=32, d_sae=64, k=4)
        sae.initialise(rows)
        sae.metadata["site"] = SITE
        save_sae(sae, folder / name)
    return folder


@pytest.mark.parametrize("command", ["eval", "features", "synthetic", "modality"])
def test_help_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, ["sae", command, "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope sae") >= 2


def test_eval_and_features_fill_the_page(folder: Path) -> None:
    run, model = folder / "run.h5", folder / "model"
    code, document = call(
        "eval", run, "-s", folder / "topk", "-s", folder / "mp", "-m", model, "--loss-tokens", 200
    )
    assert code == 0, document
    assert document["result"]["dictionaries"][:2] == ["topk", "mp"]
    assert all(v is not None for v in document["result"]["delta_loss"])
    code, document = call("features", run, "-s", folder / "mp", "-m", model, "-f", 5)
    assert code == 0, document
    assert document["result"]["features"] == [5]
    assert set(open_run(run).results) >= {"sae_comparison", "sae_features", "sae_features_paths"}
    page = build_report(run, folder / "page.html").read_text()
    for needle in ("Dictionaries at", "Feature 5: what does it fire on?", "Order of atoms in mp"):
        assert needle in page


def test_a_text_is_asked_about(folder: Path) -> None:
    run, model = folder / "run.h5", folder / "model"
    ask = ("features", run, "-s", folder / "topk", "-m", model, "--text")
    code, document = call(*ask, TEXT.format(n=3)[:20])
    assert code == 0, document
    assert document["result"]["in_run"] is True
    code, document = call(*ask, "quite another text")
    assert code == 0, document
    assert document["result"]["in_run"] is False
    assert document["result"]["features"]


def test_wrong_input_is_told_apart(folder: Path, tmp_path: Path) -> None:
    code, document = call("eval", folder / "run.h5", "-s", tmp_path, "--loss-tokens", 0)
    assert code == BAD_INPUT
    other = make_sae("topk", d_in=8, d_sae=16, k=2)
    save_sae(other, tmp_path / "other")
    code, document = call("features", folder / "run.h5", "-s", tmp_path / "other", "--no-model")
    assert code == BAD_INPUT
    assert "the dictionary reads 8 columns" in document["error"]["message"]


def test_synthetic_goes_on_and_draws(tmp_path: Path) -> None:
    run = tmp_path / "s.h5"
    ask = ("synthetic", "-o", run, "--steps", 100, "--rho", 0, "-a", "relu")
    code, document = call(*ask, "--seeds", 1)
    assert code == 0, document
    code, document = call(*ask, "--seeds", 2, "--plot", tmp_path / "a.svg")
    assert code == 0, document
    assert document["result"]["trainings"] == 2
    assert "<svg" in (tmp_path / "a.svg").read_text()
    assert "absorbs least" in build_report(run).read_text()
    assert call("synthetic", "-o", run, "-a", "nope")[0] == BAD_INPUT


def test_dictionaries_of_other_widths_are_refused(folder: Path, tmp_path: Path) -> None:
    save_sae(make_sae("topk", d_in=8, d_sae=16, k=2), tmp_path / "narrow")
    code, document = call(
        "eval", folder / "run.h5", "-s", tmp_path / "narrow", "--loss-tokens", 0, "--no-baselines"
    )
    assert code == BAD_INPUT, document
    assert torch.is_grad_enabled()
