"""The command line: one JSON document, exit codes, help that teaches, resumable work."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from fluoroscope.cli import COMMANDS, app
from fluoroscope.probes import open_run
from fluoroscope.running import BAD_INPUT, BUG, CHECK_FAILED, INTERRUPTED, USAGE
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

TEXT = "def f(x):\n    return x + 1  # one more\n\n\nprint(f(2))\n" * 5


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_module("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    for number in range(8):
        (folder / f"{number}.py").write_text(f"# file {number}\n{TEXT}")
    return folder


def call(*args: object) -> tuple[int, str]:
    """Exit code and standard output of the console script, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fluoroscope", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    return done.returncode, done.stdout


def test_help_answers_without_torch_and_fast() -> None:
    code = "import sys, fluoroscope.cli; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
    started = time.perf_counter()
    status, out = call("--help")
    assert status == 0
    assert "xray" in out
    assert time.perf_counter() - started < 15, "measured 0.2 s alone; torch would take longer"


@pytest.mark.parametrize("command", [function.__name__ for function in COMMANDS])
def test_every_command_teaches_by_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert result.output.count("Example: fluoroscope") >= 2
    assert "--json" in result.output


def test_decode_prints_one_document_with_what_was_asked_for(model_folder: Path) -> None:
    status, out = call(
        "decode", "--model", model_folder, "--prompt", "ab", "--prompt", "c<b>", "--json",
        "--max-new-tokens", 5, "--ignore-eos",
    )  # fmt: skip
    assert status == 0
    document = json.loads(out)
    assert document["ok"] is True
    assert document["command"] == "decode"
    assert [g["prompt"] for g in document["result"]] == ["ab", "c<b>"]
    for made in document["result"]:
        assert set(made) >= {
            "engine", "prompt", "prompt_ids", "token_ids", "text", "stop_reason", "stats",
        }  # fmt: skip
        assert len(made["token_ids"]) == 5
        assert set(made["stats"]) >= {
            "n_forward", "n_emitted", "tokens_per_forward", "tokens_per_second", "seconds",
        }  # fmt: skip


def test_the_whole_story_on_a_tiny_model(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    run, page = tmp_path / "run.h5", tmp_path / "page.html"
    status, out = call(
        "xray", "-m", model_folder, "-t", text_folder, "-n", 2048, "-o", run, "--report", page,
        "--json",
    )  # fmt: skip
    document = json.loads(out)
    assert status == 0, document
    assert document["result"]["n_tokens"] == 2048
    assert {"logit_lens", "massive_activations", "attention_sinks", "next_token"} <= set(
        document["result"]["results"]
    )
    assert page.read_text().startswith("<!doctype html>")
    for args in (
        ("info", run),
        ("verify", run),
        ("lens", run, "-m", model_folder, "-n", 128),
        ("lens", run, "-m", model_folder, "-n", 128, "--tuned", "--steps", 2),
        ("probe", run, "--tokens", 1500, "--every", 3),
        ("decode", "-m", model_folder, "-p", "hello", "-o", run, "--max-new-tokens", 3),
        ("report", run, "-o", page),
    ):
        status, out = call(*args, "--json")
        assert status == 0, (args, out)
        assert json.loads(out)["ok"] is True
    again = call("capture", "-m", model_folder, "-t", text_folder, "-n", 2048, "-o", run, "--json")
    assert again[0] == BAD_INPUT, "other settings than the file's"


def test_failures_have_their_exit_codes_and_still_one_document(
    model_folder: Path, tmp_path: Path
) -> None:
    cases = [
        (("decode", "-m", tmp_path / "nothing", "-p", "x"), BAD_INPUT, "ModelNotFoundError"),
        (("decode", "-m", model_folder), BAD_INPUT, "CorpusError"),
        (("decode", "-m", model_folder, "-p", "x", "-e", "plian"), BAD_INPUT, "UnknownEngineError"),
        (("info", tmp_path / "none.h5"), BAD_INPUT, "RunFileError"),
        (("sites", "nonsense", "-m", model_folder), BAD_INPUT, "UnknownSiteError"),
        (("decode", "--max-new-tokens", "0", "-p", "x"), USAGE, "BadParameter"),
        (("nonsense",), USAGE, None),
    ]
    for args, expected, kind in cases:
        status, out = call(*args, "--json")
        document = json.loads(out)
        assert status == expected, (args, document)
        assert document["ok"] is False
        assert kind in (None, document["error"]["type"])


def test_capture_takes_so_many_windows_of_each_document(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    few = ("capture", "-m", model_folder, "-t", text_folder, "-n", 2000, "--context", 64)
    for per_document, n_windows in ((1, 8), (2, 16)):
        run = tmp_path / f"{per_document}.h5"
        status, out = call(*few, "--per-document", per_document, "-o", run, "--json")
        assert status == 0, out
        assert json.loads(out)["result"]["n_documents"] == n_windows, "of eight files"
    assert call(*few, "--per-document", 0, "-o", tmp_path / "none.h5")[0] == USAGE


def test_a_damaged_run_fails_verification_with_its_own_code(
    model_folder: Path, text_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run.h5"
    assert call("capture", "-m", model_folder, "-t", text_folder, "-n", 500, "-o", run)[0] == 0
    shard = next((tmp_path / "run.shards").glob("*.h5"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    status, out = call("verify", run, "--json")
    assert status == CHECK_FAILED
    assert "do not match their digest" in json.loads(out)["result"]["problems"][0]


def test_a_bug_is_called_one_and_its_traceback_is_kept() -> None:
    import typer

    from fluoroscope.running import Terminal, command

    broken = typer.Typer()

    def fail(terminal: Terminal) -> None:
        """Fail."""
        raise ZeroDivisionError("oh")

    def stop(terminal: Terminal) -> None:
        """Stop."""
        raise KeyboardInterrupt

    command(broken, fail)
    command(broken, stop)
    result = CliRunner().invoke(broken, ["fail", "--json"])
    assert result.exit_code == BUG
    message = json.loads(result.output)["error"]["message"]
    saved = Path(message.partition("traceback in ")[2].rstrip(")"))
    assert "ZeroDivisionError" in saved.read_text()
    saved.unlink()
    assert CliRunner().invoke(broken, ["stop", "--json"]).exit_code == INTERRUPTED


def test_a_bare_prompt_is_told_how_prompts_are_given() -> None:
    done = CliRunner().invoke(app, ["decode", "some prompt"])
    assert done.exit_code == USAGE
    told = " ".join(done.stderr.replace("│", " ").split())
    assert "argument(s) (some prompt). Example: fluoroscope decode --prompt " in told


@pytest.fixture
def decoding(model_folder: Path, tmp_path: Path) -> Callable[..., Result]:
    """`fluoroscope decode` of that model in this process, with a run file and what was learned."""

    def run(*args: object) -> Result:
        given = [
            "decode",
            "-m",
            model_folder,
            "--max-new-tokens",
            4,
            "--set",
            "layout=plain",
            *args,
        ]
        return CliRunner().invoke(app, [*map(str, given)])

    return run


def test_an_interrupt_between_prompts_keeps_those_that_were_decoded(
    decoding: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fluoroscope.decoding import Engine

    generate, left = Engine.generate, [2]

    def interrupted(self: Engine, *args: Any, **more: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return generate(self, *args, **more)

    monkeypatch.setattr(Engine, "generate", interrupted)
    run, learned = tmp_path / "r.h5", tmp_path / "l.npz"
    prompts = ("-p", "abab", "-p", "cdcd", "-p", "efef")
    done = decoding(*prompts, "-e", "suffix", "-o", run, "--learned", learned)
    assert done.exit_code == INTERRUPTED
    assert "2 of 3 prompts were decoded and kept" in done.stderr
    with open_run(run).reading() as file:
        assert file["trace/suffix/prompts/text"].asstr()[()].tolist() == ["abab", "cdcd"]
    assert learned.exists()


def test_what_cannot_end_well_is_said_before_anything_is_decoded(
    decoding: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt too long behind a good one; a run file of another model; options of no sense."""
    from fluoroscope.decoding import Engine

    def never(*args: object, **more: object) -> None:
        raise AssertionError("decoded")

    other = tmp_path / "other"
    tiny_module("llama", seed=4).save_pretrained(other)
    byte_tokenizer().save_pretrained(other)
    run = tmp_path / "r.h5"
    assert decoding("-m", other, "-p", "ab", "-o", run).exit_code == 0
    monkeypatch.setattr(Engine, "generate", never)
    for args, said in (
        (("-p", "ab", "-p", "x" * 500), "PromptError"),
        (("-p", "ab", "-o", run), "RunMismatchError"),
        (("-p", "ab", "-e", "suffix", "--set", "max_draft=many"), "OptionError: max_draft must be"),
        (("-p", "ab", "--temperature", "inf"), "OptionError: temperature must be"),
        (("-p", "ab", "--chat"), "has no chat template"),
    ):
        done = decoding(*args)
        assert done.exit_code == BAD_INPUT, done.output
        assert said in done.stderr


def test_prompts_come_from_files_too(model_folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "prompts.txt"
    lines.write_text("one\n\ntwo\n")
    records = tmp_path / "prompts.jsonl"
    records.write_text('{"prompt": "three"}\n')
    for path, expected in ((lines, ["one", "two"]), (records, ["three"])):
        status, out = call(
            "decode", "-m", model_folder, "--prompts", path, "--max-new-tokens", 2, "--json"
        )
        assert status == 0
        assert [g["prompt"] for g in json.loads(out)["result"]] == expected
