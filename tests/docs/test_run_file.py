"""`docs/run-file.md` names everything a run file holds, and a run file holds what it names."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from fluoroscope.decoding import make_engine, save_generations
from fluoroscope.decoding.stopping import Stopping
from fluoroscope.probes import capture_corpus, from_texts, readings, wrap_model
from fluoroscope.probes.runfile.schema import SCHEMA
from fluoroscope.sae.architectures import make_sae
from fluoroscope.sae.features.firing import add_trace_firing
from tests.docs.blocks import DOCS
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

PAGE = DOCS / "run-file.md"
SITE = "layers.1.resid_post"


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run file with rows, a result, and the trace of an engine that drafted."""
    path = tmp_path_factory.mktemp("run") / "run.h5"
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny llama")
    texts = from_texts(["one two one two one two one two", "three four three four"])
    run = capture_corpus(model, texts, SITE, path)
    run.add_result("layer_stats", readings.layer_stats(model, readings.texts_of(run, n_tokens=40)))
    engine = make_engine(model, "prompt-lookup", thrifty=False, layout="plain")
    made = engine.generate(
        torch.tensor([1, 2, 3, 1, 2, 3, 1, 2]), stopping=Stopping(max_new_tokens=8), sites=[SITE]
    )
    save_generations(run, engine, made)
    width = made[0].captured[SITE].shape[1]
    add_trace_firing(run, SITE, make_sae("topk", d_in=width, d_sae=16, k=4), name="small")
    return path


@dataclass(frozen=True)
class Row:
    """One row of the page's table."""

    path: str
    shape: str
    type: str

    @property
    def pattern(self) -> str:
        named = re.sub(r"\b(SITE|NAME|ENGINE)\b", "WILD", self.path.strip("/"))
        return re.escape(named).replace("WILD", "[^/]+")


def documented() -> list[Row]:
    """The page's table."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"^\| `(/[^`]*)` \| ([^|]*) \| ([^|]*) \|", text, flags=re.MULTILINE)
    assert len(found) > 40
    return [Row(path, shape.strip(), kind.strip()) for path, shape, kind in found]


def held_in(run_file: Path) -> dict[str, Any]:
    """Shape and type of every dataset by path; None for groups. Fields of results are left out."""
    found: dict[str, Any] = {}

    def see(name: str, one: Any) -> None:
        if not name.startswith("results/layer_stats/"):
            is_data = isinstance(one, h5py.Dataset)
            found[name] = (
                (one.ndim, h5py.check_string_dtype(one.dtype), one.dtype) if is_data else None
            )

    with h5py.File(run_file) as file:
        file.visititems(see)
    return found


def test_everything_in_the_file_is_on_the_page(run_file: Path) -> None:
    known = [row.pattern for row in documented()]
    missing = [
        name
        for name, is_data in held_in(run_file).items()
        if is_data and not any(re.fullmatch(pattern, name) for pattern in known)
    ]
    assert not missing, f"docs/run-file.md does not tell of {missing}"


def test_everything_on_the_page_is_in_the_file_and_so_typed(run_file: Path) -> None:
    held = held_in(run_file)
    for row in documented():
        if row.path in ("/", "/invocations"):  # commands leave invocations; this run has none
            continue
        names = [name for name in held if re.fullmatch(row.pattern, name)]
        assert names, f"no run file holds {row.path}"
        for facts in (held[name] for name in names):
            if facts is None or row.type == "any" or row.path.endswith("/SITE"):
                continue
            n_axes, is_text, dtype = facts
            assert n_axes == row.shape.count(",") + 1, row.path
            assert ("text" if is_text else str(dtype)) == row.type, row.path


def test_attributes_are_as_the_page_says(run_file: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"Schema version: {SCHEMA}." in text
    with h5py.File(run_file) as file:
        shards = run_file.with_suffix(".shards")
        for where in (file, file["trace/prompt-lookup"], file[f"activations/{SITE}"]):
            for name in where.attrs:
                assert re.search(rf"\b{name}\b", text), f"the attribute {name} of {where.name}"
        assert sorted(path.suffix for path in shards.iterdir()) == [".h5"]
        with h5py.File(next(shards.iterdir())) as shard:
            names: list[str] = []
            shard.visit(names.append)
            assert {"tokens/ids", "documents/name", f"activations/{SITE}"} <= set(names)
            assert "sha256" in shard["tokens/ids"].attrs
        for held in file["results/layer_stats"].values():
            assert {"axes", "unit", "doc"} <= set(held.attrs)
