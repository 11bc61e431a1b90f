"""Capture over a corpus: exact, resumable, the same on one process and on two."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.probes import capture, capture_corpus, from_texts, open_run, wrap_model
from fluoroscope.probes.errors import OptionError, RunMismatchError
from fluoroscope.probes.runfile import Run, RunWriter
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

SITES = ["layers.*.resid_post", "layers.1.mlp.hidden"]


def model_and_corpus():
    texts = [f"text number {n} " + "abc " * (n % 13) for n in range(40)]
    return wrap_model(tiny_module("llama"), byte_tokenizer()), from_texts(texts)


def read(path: Path, **options) -> Run:
    model, corpus = model_and_corpus()
    return capture_corpus(model, corpus, SITES, path, context=48, batch_tokens=256, **options)


def same(left: Run, right: Run) -> None:
    assert left.tokens.names == right.tokens.names
    np.testing.assert_array_equal(left.tokens.ids, right.tokens.ids)
    for site in left.sites:
        assert torch.equal(left.activations[site].read(), right.activations[site].read())


def test_rows_equal_single_forward_passes(tmp_path: Path) -> None:
    """float32; a batch with padding differs from single texts by rounding: 1e-5."""
    run = read(tmp_path / "r.h5")
    model, _ = model_and_corpus()
    assert run.sites == tuple(s.name for s in model.sites.resolve(SITES))
    for number in range(run.tokens.n_documents):
        ids = torch.from_numpy(run.tokens.document(number).astype(np.int64))[None]
        with torch.no_grad(), capture(model, *SITES) as acts:
            model(ids)
        start, stop = run.tokens.offsets[number : number + 2]
        for site in run.sites:
            rows = run.activations[site].read(slice(int(start), int(stop)))
            torch.testing.assert_close(rows, acts[site][0], rtol=1e-4, atol=1e-5)
    assert run.provenance.settings["bos"] == "auto"
    assert run.complete


def test_nothing_above_the_last_site_runs(tmp_path: Path) -> None:
    model, corpus = model_and_corpus()
    ran: list[str] = []
    for name, part in model.module.named_modules():
        part.register_forward_hook(lambda *_, name=name: ran.append(name))
    capture_corpus(model, corpus, "layers.1.mlp.hidden", tmp_path / "r.h5", n_tokens=64)
    assert "model.layers.1.mlp.up_proj" in ran
    above = ("model.layers.1.mlp.down_proj", "model.layers.2", "model.norm", "lm_head")
    assert not [name for name in ran if name.startswith(above)]


def test_rows_reach_the_writer_while_the_pass_still_runs(tmp_path: Path, monkeypatch) -> None:
    """The first layer's rows are handed over before the last layer is computed."""
    seen: list[str] = []
    model, corpus = model_and_corpus()
    model.module.model.layers[2].register_forward_pre_hook(lambda *_: seen.append("layer 2 begins"))
    put = RunWriter.put

    def spy(writer: RunWriter, site: str, rows: torch.Tensor) -> None:
        seen.append(site)
        put(writer, site, rows)

    monkeypatch.setattr(RunWriter, "put", spy)
    capture_corpus(model, corpus, "layers.*.resid_post", tmp_path / "r.h5", n_tokens=16)
    assert seen[:2] == ["layers.0.resid_post", "layers.1.resid_post"]
    assert seen[2:4] == ["layer 2 begins", "layers.2.resid_post"]


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_capture_ends_as_an_uninterrupted_one(tmp_path: Path, after: int) -> None:
    whole = read(tmp_path / "whole.h5")
    calls = []

    def stop(done: int, total: int, note: str) -> None:
        calls.append(done)
        if len(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(tmp_path / "half.h5", progress=stop)
    half = open_run(tmp_path / "half.h5")
    assert not half.complete
    assert 0 < half.tokens.n_documents < whole.tokens.n_documents
    same(read(tmp_path / "half.h5"), whole)


def test_a_finished_capture_is_left_alone_and_another_is_refused(tmp_path: Path) -> None:
    read(tmp_path / "r.h5")
    before = (tmp_path / "r.shards" / "00000.h5").stat().st_mtime_ns
    read(tmp_path / "r.h5")
    assert (tmp_path / "r.shards" / "00000.h5").stat().st_mtime_ns == before
    with pytest.raises(RunMismatchError, match=r"settings\.dtype: 'float32' against 'bfloat16'"):
        read(tmp_path / "r.h5", dtype="bfloat16")
    stored = read(tmp_path / "r.h5", dtype="bfloat16", overwrite=True)
    assert stored.activations["layers.0.resid_post"].dtype == torch.bfloat16


def test_sites_without_a_row_per_token_are_refused(tmp_path: Path) -> None:
    model, corpus = model_and_corpus()
    with pytest.raises(OptionError, match="has no row per token"):
        capture_corpus(model, corpus, "layers.0.attn.pattern", tmp_path / "r.h5")
    with pytest.raises(OptionError, match="dtype must be one of"):
        capture_corpus(model, corpus, "embed", tmp_path / "r.h5", dtype="int8")
    assert not (tmp_path / "r.h5").exists()


TORCHRUN = ("torch.distributed.run", "--nproc-per-node", "2")
# Without a GPU too, this flag is what makes accelerate start several processes on one machine.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")  # fmt: skip


@pytest.mark.parametrize(
    "launcher", [TORCHRUN, pytest.param(ACCELERATE, marks=pytest.mark.slow)], ids=lambda it: it[0]
)
def test_two_processes_give_what_one_gives(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    root = str(Path(__file__).resolve().parents[2])
    script = tmp_path / "job.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {root!r})\nfrom pathlib import Path\n"
        "from tests.probes.test_capture_corpus import read\n"
        f"read(Path({str(tmp_path / 'two.h5')!r}))\n"
    )
    command = [sys.executable, "-m", *launcher, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=200)
    one, two = read(tmp_path / "one.h5"), open_run(tmp_path / "two.h5")
    assert two.complete
    assert two.verify().ok
    prefixes = {shard["file"].partition("-")[0] for shard in two.shards}
    assert prefixes == {"rank0000", "rank0001"}, "each process wrote its share"
    assert not list(tmp_path.glob("two.rank*"))
    order_one, order_two = one.tokens.index.argsort(), two.tokens.index.argsort()
    for a, b in zip(order_one.tolist(), order_two.tolist(), strict=True):
        assert one.tokens.names[a] == two.tokens.names[b]
        np.testing.assert_array_equal(one.tokens.document(a), two.tokens.document(b))
        for site in one.sites:
            left = one.activations[site].read(slice(*map(int, one.tokens.offsets[a : a + 2])))
            right = two.activations[site].read(slice(*map(int, two.tokens.offsets[b : b + 2])))
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
