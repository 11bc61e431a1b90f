"""Exit codes, signals, warnings and the checks that keep a run file to its model."""

import json
import os
import signal
import warnings
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from fluoroscope.cli import app
from fluoroscope.probes import open_run
from fluoroscope.probes.errors import IncompleteError
from fluoroscope.running import (
    BAD_INPUT,
    BUG,
    DONE,
    INCOMPLETE,
    INTERRUPTED,
    TERMINATED,
    USAGE,
    Terminal,
    command,
)
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

TEXT = "def f(x):\n    return x + 1  # one more\n\n\nprint(f(2))\n" * 8


def tool_that(body) -> typer.Typer:
    made = typer.Typer()

    def work(terminal: Terminal) -> None:
        """Work."""
        body(terminal)

    command(made, work)
    return made


def run_of(body, *args: str) -> tuple[int, dict]:
    done = CliRunner().invoke(tool_that(body), ["--json", *args])
    return done.exit_code, json.loads(done.stdout)


def raising(error: BaseException):
    def body(terminal: Terminal) -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (IncompleteError("disk full"), INCOMPLETE, "IncompleteError"),
        (KeyboardInterrupt(), INTERRUPTED, "KeyboardInterrupt"),
    ],
)
def test_each_kind_of_end_has_its_code(error: BaseException, code: int, kind: str) -> None:
    status, document = run_of(raising(error))
    assert status == code
    assert document["ok"] is False
    assert document["error"]["type"] == kind
    assert {INCOMPLETE, INTERRUPTED, TERMINATED, BAD_INPUT, BUG, USAGE, DONE} == {
        5, 130, 143, 3, 1, 2, 0,
    }  # fmt: skip


def test_sigterm_keeps_what_is_done_and_the_handler_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def body(terminal: Terminal) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        status, document = run_of(body)
    finally:
        after = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)
    assert status == TERMINATED
    assert document["error"]["type"] == "Terminated"
    assert "same command picks up" in document["error"]["message"]
    assert after is before


def test_warnings_are_told_once_and_deprecations_kept_from_users() -> None:
    def body(terminal: Terminal) -> None:
        warnings.warn("mind this", RuntimeWarning, stacklevel=1)
        warnings.warn("old name", DeprecationWarning, stacklevel=1)
        terminal.wrote("x.html")

    status, document = run_of(body)
    assert status == DONE
    assert document["ok"] is True
    assert document["warnings"] == ["mind this"]
    assert document["files"] == ["x.html"]
    assert document["seconds"] >= 0
    assert document["schema"] == "fluoroscope.cli/1"
    shown = CliRunner().invoke(tool_that(body), [])
    assert shown.stderr.strip() == "warning: mind this"
    assert CliRunner().invoke(tool_that(body), ["-q"]).stderr == ""


@pytest.fixture(scope="module")
def two_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models of other weights, and a run of the first."""
    import torch

    folder = tmp_path_factory.mktemp("two")
    for number, name in enumerate(("one", "two")):
        module = tiny_module("llama")
        with torch.no_grad():
            module.lm_head.weight += 0.01 * number
        module.save_pretrained(folder / name)
        byte_tokenizer().save_pretrained(folder / name)
    for number in range(6):
        (folder / f"{number}.py").write_text(f"# {number}\n{TEXT}")
    done = CliRunner().invoke(
        app, ["capture", "-m", str(folder / "one"), "-t", str(folder), "-n", "2500", "-o",
              str(folder / "run.h5"), "--json"],
    )  # fmt: skip
    assert done.exit_code == DONE, done.output
    return folder


@pytest.mark.parametrize(
    "words",
    [["lens", "RUN", "-n", "64"], ["decode", "-p", "x", "--max-new-tokens", "2", "-o", "RUN"]],
    ids=["lens", "decode"],
)
def test_a_run_takes_nothing_from_another_model(two_models: Path, words: list[str]) -> None:
    line = [word.replace("RUN", str(two_models / "run.h5")) for word in words]
    done = CliRunner().invoke(app, [*line, "-m", str(two_models / "two"), "--json"])
    assert done.exit_code == BAD_INPUT
    assert json.loads(done.stdout)["error"]["type"] == "RunMismatchError"
    assert open_run(two_models / "run.h5").results == ()
    assert open_run(two_models / "run.h5").traces == ()


def test_a_probe_looks_at_every_so_many_sites(two_models: Path) -> None:
    run = str(two_models / "run.h5")
    sites = list(open_run(run).sites)
    assert len(sites) >= 2
    done = CliRunner().invoke(app, ["probe", run, "--every", "2", "--tokens", "2500", "--json"])
    assert done.exit_code == DONE, done.output
    assert json.loads(done.stdout)["result"]["sites"] == sites[::2]
    named = CliRunner().invoke(
        app, ["probe", run, "-s", sites[1], "--tokens", "2500", "--label", "line-start", "--json"]
    )
    assert json.loads(named.stdout)["result"]["sites"] == [sites[1]]
    assert json.loads(named.stdout)["result"]["label"] == "line-start"


def test_an_xray_computes_only_what_is_not_there(two_models: Path, tmp_path: Path) -> None:
    line = ["xray", "-m", str(two_models / "one"), "-t", str(two_models), "-n", "1024", "-o",
            str(tmp_path / "x.h5"), "--json"]  # fmt: skip
    assert CliRunner().invoke(app, line).exit_code == DONE
    run = open_run(tmp_path / "x.h5")
    with run.edit() as file:
        file["results/next_token"].attrs["mark"] = "kept"
        del file["results/logit_lens"]
    assert CliRunner().invoke(app, line).exit_code == DONE
    with run.reading() as file:
        assert file["results/next_token"].attrs["mark"] == "kept"
    assert "logit_lens" in run.refresh().results
    assert CliRunner().invoke(app, [*line, "--again"]).exit_code == DONE
    with run.reading() as file:
        assert "mark" not in file["results/next_token"].attrs
