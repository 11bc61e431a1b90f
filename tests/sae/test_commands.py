"""`fluoroscope sae train` on a small run file."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import open_run
from fluoroscope.running import BAD_INPUT
from fluoroscope.sae import SaeTraining, load_sae
from tests.sae.planting import planted
from tests.sae.test_session import run_file

FIVE = ["topk", "batchtopk", "jumprelu", "matryoshka", "mp"]


def call(*args: object) -> tuple[int, dict]:
    result = CliRunner().invoke(app, ["sae", "train", *map(str, args), "--json", "--quiet"])
    return result.exit_code, json.loads(result.stdout)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    run_file(tmp_path / "r.h5", planted(n_rows=1000, d=16, p=32, k=3)[0])
    return tmp_path / "r.h5"


def test_one_command_trains_five_architectures(run, tmp_path):
    chosen = [word for name in FIVE for word in ("-a", name)]
    code, document = call(
        run, "--site", "x", *chosen, "--latents", 48, "--k", 4, "--steps", 30, "--batch", 100,
        "-o", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, document
    assert set(document["result"]) == set(FIVE)
    opened = open_run(run)
    for name in FIVE:
        sae = load_sae(tmp_path / "out" / name)
        assert (sae.architecture, sae.d_sae) == (name, 48)
        result = opened.result(f"sae_{name}", SaeTraining)
        assert result.final_fvu == pytest.approx(document["result"][name]["fvu"])
    assert not (tmp_path / "out" / "checkpoint.pt").exists()


def test_sweeps_name_what_differs(run, tmp_path):
    code, document = call(
        run, "-s", "x", "-k", 2, "-k", 4, "-l", 48, "-n", 3, "-b", 100, "-o", tmp_path / "out",
        "-a", "topk, relu",
    )  # fmt: skip
    assert code == 0, document
    assert set(document["result"]) == {"topk_k2", "topk_k4", "relu"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-s", "z"], "no rows of 'z'"),
        (["-s", "x", "-l", 5000], "fewer than the 5,000 latents"),
        (["-s", "x", "-a", "vae"], "Unknown architecture"),
        (["-s", "x", "-b", 5000], "batch_rows must be"),
        (["-s", "x", "-l", 10, "-k", 11], "k must be from 1"),
        (["-s", "x", "--held-out", 0.95], "too few to hold 95%"),
    ],
)
def test_bad_input_ends_before_anything_is_written(run, tmp_path, args, message):
    code, document = call(
        run, *([] if "-b" in args else ["-b", 100]), *args, "-o", tmp_path / "out"
    )
    assert code == BAD_INPUT
    assert message in document["error"]["message"]
    assert not (tmp_path / "out").exists()


def test_help_teaches_by_example():
    result = CliRunner().invoke(app, ["sae", "train", "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope sae train") >= 2
