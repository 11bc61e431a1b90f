"""`fluoroscope sae`: from a run file and a dictionary to a page."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import capture_corpus, from_texts, open_model, open_run
from fluoroscope.reports import build_report
from fluoroscope.running import BAD_INPUT
from fluoroscope.sae import SaeComparison, load_sae, make_sae, save_sae, save_saelens
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


def test_training_compares_on_documents_kept_out(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run.h5"
    run.write_bytes((folder / "run.h5").read_bytes())
    shutil.copytree(folder / "run.shards", tmp_path / "run.shards")
    code, document = call(
        "train", run, "-s", SITE, "-a", "topk,mp", "-k", 4, "-k", 2, "-l", 40, "-n", 20, "-b", 50,
        "--held-out", 0.25, "--compare", "--loss-tokens", 100, "--cards", 1, "-m", folder / "model",
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, document
    names = {"topk_k4", "topk_k2", "mp_k4", "mp_k2"}
    assert set(document["result"]) == names
    assert all(one["held_out"]["delta_loss"] is not None for one in document["result"].values())
    opened = open_run(run)
    assert set(opened.results) >= {
        "sae_comparison", "sae_features_topk_k4", "sae_features_mp_k4", "sae_paths_mp_k4",
        *(f"sae_{name}" for name in names),
    }  # fmt: skip
    found = opened.result("sae_comparison", SaeComparison)
    assert not found.trained_here.any()
    assert found.n_rows < len(opened.tokens.ids) / 3
    assert "Dictionaries at" in build_report(run, tmp_path / "page.html").read_text()


@pytest.mark.parametrize("kind", ["saelens", "sparsify"])
def test_dictionaries_of_other_libraries_are_judged(
    folder: Path, tmp_path: Path, kind: str
) -> None:
    sae = load_sae(folder / "topk")
    if kind == "saelens":
        sae.metadata["site"] = "layers.1.resid_post"
        other = save_saelens(sae, tmp_path / "other")
        config = json.loads((other / "cfg.json").read_text())
        config["metadata"]["hook_name"] = "blocks.1.hook_resid_post"
        (other / "cfg.json").write_text(json.dumps(config))
    else:
        other = tmp_path / "other"
        other.mkdir()
        (other / "cfg.json").write_text(json.dumps({"k": 4, "num_latents": 64}))
        weights = {
            "encoder.weight": sae.W_enc.t(), "encoder.bias": sae.b_enc, "W_dec": sae.W_dec,
            "b_dec": sae.b_dec,
        }  # fmt: skip
        save_file(
            {name: value.detach().contiguous() for name, value in weights.items()},
            other / "sae.safetensors",
        )
    code, document = call(
        "eval", folder / "run.h5", "-s", folder / "topk", "-s", other, "--loss-tokens", 0,
        "--no-baselines",
    )  # fmt: skip
    assert code == 0, document
    assert document["result"]["fvu"][1] == pytest.approx(document["result"]["fvu"][0], rel=1e-5)
    code, document = call("features", folder / "run.h5", "-s", other, "--no-model", "-f", 3)
    assert code == 0, document


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
    assert "SAELens (cfg.json), sparsify" in document["error"]["message"]
    twice = ("-s", folder / "topk", "-s", folder / "." / "topk")
    code, document = call("eval", folder / "run.h5", *twice, "--loss-tokens", 0)
    assert code == BAD_INPUT
    assert "same name" in document["error"]["message"]
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
