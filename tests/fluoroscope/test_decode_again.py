"""The same `fluoroscope decode` twice: what the run file holds is not decoded a second time."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fluoroscope.cli import app
from fluoroscope.decoding import Engine
from fluoroscope.probes import open_run
from fluoroscope.running import INTERRUPTED
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

PROMPTS = ("-p", "abab abab", "-p", "cdcd cdcd c", "-p", "efef", "-p", "abab abab")
CLOCKS = {"seconds", "seconds_draft", "seconds_verify"}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_module("llama").save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


class Decoder:
    """The command in this process, and the prompts that were decoded."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.decoded, self.left = folder, [], 10**6
        generate = Engine.generate

        def counted(engine: Engine, text: str, *args: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            self.decoded.append(text)
            return generate(engine, text, *args, **more)

        monkeypatch.setattr(Engine, "generate", counted)

    def __call__(self, run: Path, *args: object, left: int = 10**6) -> Result:
        self.decoded, self.left = [], left
        given = [
            "decode", "-m", self.folder, "--max-new-tokens", 6, "--set", "layout=plain", "-o", run,
            *args,
        ]  # fmt: skip
        return CliRunner().invoke(app, [*map(str, given)])


@pytest.fixture
def decode(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Decoder:
    return Decoder(model_folder, monkeypatch)


def columns(run: Path, engine: str) -> dict[str, Any]:
    """Every dataset and attribute of a trace but for clocks."""
    found: dict[str, Any] = {}

    def visit(name: str, item: Any) -> None:
        found.update({f"{name}@{key}": value for key, value in item.attrs.items()})
        if isinstance(item, h5py.Dataset) and name.rsplit("/", 1)[-1] not in CLOCKS:
            found[name] = item[()]

    with open_run(run).reading() as file:
        group = file[f"trace/{engine}"]
        found.update({f"@{key}": value for key, value in group.attrs.items()})
        group.visititems(visit)
    return found


@pytest.mark.parametrize(
    ("engine", "more"),
    [
        ("plain", ("-s", "layers.*.resid_post")),
        ("plain", ("--temperature", 1.5, "--seed", 3)),
        ("prompt-lookup", ("-s", "layers.*.resid_post", "--set", "thrifty=false")),
    ],
    ids=["states", "sampled", "drafts"],
)
@pytest.mark.parametrize("n_done", [1, 3])
def test_going_on_equals_never_having_stopped(
    decode: Decoder, tmp_path: Path, engine: str, more: tuple[object, ...], n_done: int
) -> None:
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    given = (*PROMPTS, "-e", engine, *more)
    assert decode(whole, *given).exit_code == 0
    texts = decode.decoded
    assert decode(broken, *given, left=n_done).exit_code == INTERRUPTED
    done = decode(broken, *given)
    assert done.exit_code == 0, done.output
    # The fourth prompt is the first once more, which the file holds by then.
    assert decode.decoded == texts[n_done:3]
    assert f"Kept from before: {min(n_done, 3) + 1} of 4 prompts; --again" in done.stderr
    expected, found = columns(whole, engine), columns(broken, engine)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


def test_an_engine_that_learns_gives_the_same_texts(decode: Decoder, tmp_path: Path) -> None:
    whole, broken, learned = tmp_path / "whole.h5", tmp_path / "b.h5", tmp_path / "l.npz"
    given = (*PROMPTS, "-e", "suffix")
    assert decode(whole, *given).exit_code == 0
    assert decode(broken, *given, "--learned", learned, left=2).exit_code == INTERRUPTED
    before = learned.read_bytes()
    assert decode(broken, *given, "--learned", learned).exit_code == 0
    assert decode.decoded == ["efef"]
    assert learned.read_bytes() != before, "what came new was learned too"
    same = ("generations/text", "generations/stop_reason", "tokens/id", "prompts/ids")
    expected, found = columns(whole, "suffix"), columns(broken, "suffix")
    for key in same:
        np.testing.assert_array_equal(found[key], expected[key])


def test_all_there_is_nothing_to_do(decode: Decoder, tmp_path: Path) -> None:
    run, page = tmp_path / "r.h5", tmp_path / "r.html"
    first = json.loads(decode(run, *PROMPTS, "--json").stdout)["result"]
    before = run.read_bytes()
    done = decode(run, *PROMPTS, "--json", "--report", page)
    assert json.loads(done.stdout)["result"] == first
    assert decode.decoded == []
    assert run.read_bytes() == before
    assert page.exists()
    decode(run, "-p", "efef")
    assert run.read_bytes() == before, "part of what is there is there"


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (("--seed", 4), "options"),
        (("--set", "repetition_penalty=1.1"), "options"),
        (("--stop", "zz"), "stopping"),
        (("--ignore-eos",), "stopping"),
        (("-s", "embed"), "sites"),
    ],
    ids=["seed", "option", "stop", "eos", "sites"],
)
def test_anything_else_is_decoded_anew(
    decode: Decoder, tmp_path: Path, other: tuple[object, ...], told: str
) -> None:
    run = tmp_path / "r.h5"
    decode(run, "-p", "ab", "-p", "cd")
    done = decode(run, "-p", "ab", "-p", "cd", *other)
    assert decode.decoded == ["ab", "cd"]
    assert f"was made with other {told}; it is made anew" in done.stderr
    decode(run, "-p", "ab", "-p", "cd", *other)
    assert decode.decoded == []


def test_other_engines_prompts_and_again(decode: Decoder, tmp_path: Path) -> None:
    run = tmp_path / "r.h5"
    decode(run, "-p", "ab", "-p", "cd")
    decode(run, "-p", "ab", "-e", "prompt-lookup")
    assert decode.decoded == ["ab"], "another engine's text is no substitute"
    decode(run, "-p", "new", "-p", "cd", "-p", "ab")
    assert decode.decoded == ["new"]
    with open_run(run).reading() as file:
        assert file["trace/plain/prompts/text"].asstr()[()].tolist() == ["new", "cd", "ab"]
        texts = file["trace/plain/generations/text"].asstr()[()].tolist()
    decode(run, "-p", "new", "-p", "cd", "-p", "ab", "--again")
    assert decode.decoded == ["new", "cd", "ab"]
    with open_run(run).reading() as file:
        assert file["trace/plain/generations/text"].asstr()[()].tolist() == texts


def test_an_interrupt_keeps_what_was_there_for_prompts_still_to_come(
    decode: Decoder, tmp_path: Path
) -> None:
    run = tmp_path / "r.h5"
    decode(run, "-p", "cd", "-p", "ef")
    decode(run, "-p", "ab", "-p", "cd", "-p", "gh", "-p", "ef", left=1)
    with open_run(run).reading() as file:
        assert file["trace/plain/prompts/text"].asstr()[()].tolist() == ["ab", "cd", "ef"]
    decode(run, "-p", "ab", "-p", "cd", "-p", "gh", "-p", "ef")
    assert decode.decoded == ["gh"]


def test_a_trace_that_does_not_say_what_it_was_made_with_is_made_anew(
    decode: Decoder, tmp_path: Path
) -> None:
    """Traces of older files, and those an X-ray wrote."""
    run = tmp_path / "r.h5"
    decode(run, "-p", "ab")
    with open_run(run).edit() as file:
        del file["trace/plain"].attrs["identity"]
    decode(run, "-p", "ab")
    assert decode.decoded == ["ab"]
