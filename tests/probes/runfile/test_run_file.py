"""The run file: what was committed is never lost, what is read is what was written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.probes.errors import (
    DamagedRunFileError,
    IncompleteError,
    MissingResultError,
    NotARunFileError,
    OptionError,
    RunExistsError,
    RunFileError,
    RunMismatchError,
    SchemaVersionError,
    UnknownSiteError,
)
from fluoroscope.probes.readings import NextToken
from fluoroscope.probes.runfile import link_parts
from fluoroscope.probes.vocabulary import Vocabulary

ORIGIN = Provenance(
    model={"name": "m", "weights_digest": "a" * 64, "tokenizer_digest": "b" * 64},
    corpus={"digest": "c"},
    sites=("x", "y"),
    settings={"context": 8},
)


def write(path: Path, n_documents: int = 6, *, first: int = 0, close: bool = True, **options):
    """Documents of lengths 1, 2, 3, ... whose rows tell where they stand."""
    with create_run(path, provenance=ORIGIN, **options) as writer:
        writer.set_vocabulary(Vocabulary((b"a", b"\xff", b"<x>"), frozenset({2})))
        for number in range(first, n_documents):
            writer.append([f"d{number}"], [number], [ids_of(number)], rows_of(number))
        if close:
            writer.close()
    return open_run(path)


def ids_of(number: int) -> np.ndarray:
    return np.arange(number + 1) + 10 * number


def rows_of(number: int) -> dict[str, torch.Tensor]:
    n = number + 1
    x = torch.arange(n * 4, dtype=torch.float32).reshape(n, 4) + 1000 * number
    return {
        "x": x,
        "y": torch.randn(n, 3, generator=torch.Generator().manual_seed(number)).bfloat16(),
    }


def expected(site: str, n_documents: int = 6) -> torch.Tensor:
    return torch.cat([rows_of(number)[site] for number in range(n_documents)])


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    run = write(tmp_path / "r.h5", shard_bytes=100)
    assert len(run.shards) > 2
    for site in ("x", "y"):
        read = run.activations[site].read()
        assert read.dtype == expected(site).dtype
        assert torch.equal(read, expected(site))
        assert torch.equal(run.activations[site].read(slice(2, 13)), expected(site)[2:13])
        order = np.array([20, 0, 7, 7])
        assert torch.equal(run.activations[site].read(order), expected(site)[order])
    assert run.tokens.offsets.tolist() == [0, 1, 3, 6, 10, 15, 21]
    assert run.tokens.document(2).tolist() == [20, 21, 22]
    assert run.tokens.document_of(9) == 3
    assert run.tokens.positions()[:6].tolist() == [0, 0, 1, 0, 1, 2]
    assert run.vocabulary.token_bytes == (b"a", b"\xff", b"<x>")
    assert run.complete
    assert run.verify().ok


def test_any_hdf5_reader_sees_the_same_rows(tmp_path: Path) -> None:
    write(tmp_path / "r.h5", shard_bytes=100)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("r.h5", "r.shards"):
        (tmp_path / name).rename(moved / name)
    with h5py.File(moved / "r.h5") as file:
        np.testing.assert_array_equal(file["activations/x"][()], expected("x").numpy())
        bits = file["activations/y"][()]
        assert file["activations/y"].attrs["dtype"] == "bfloat16"
    assert torch.equal(torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16), expected("y"))
    assert open_run(moved / "r.h5").verify().ok


def test_an_interrupted_run_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole.h5", shard_bytes=60)
    half = write(tmp_path / "half.h5", 3, close=False, shard_bytes=60)
    assert not half.complete
    assert half.tokens.n_documents == 3
    resumed = write(tmp_path / "half.h5", first=3, shard_bytes=60)
    for site in ("x", "y"):
        assert torch.equal(resumed.activations[site].read(), whole.activations[site].read())
    assert resumed.tokens.names == whole.tokens.names
    assert resumed.verify().ok


WRITER = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.probes.runfile.test_run_file import ORIGIN, ids_of, rows_of
from fluoroscope.probes import create_run
with create_run(Path({path!r}), provenance=ORIGIN, shard_bytes=1) as writer:
    for number in range(writer.n_documents, 10_000):
        writer.append([f"d{{number}}"], [number], [ids_of(number % 7)], rows_of(number % 7))
        print(writer.n_documents, flush=True)
"""


@pytest.mark.slow
def test_twenty_kills_lose_nothing_that_was_committed(tmp_path: Path) -> None:
    kill_and_check(tmp_path, 20)


def test_kill_9_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    kill_and_check(tmp_path, 3)


def kill_and_check(tmp_path: Path, n_kills: int) -> None:
    root = str(Path(__file__).resolve().parents[3])
    path = tmp_path / "r.h5"
    generator = np.random.default_rng(0)
    before = 0
    for _ in range(n_kills):
        code = WRITER.format(root=root, path=str(path))
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            said = int(child.stdout.readline())
            time.sleep(float(generator.uniform(0, 0.4)))
            os.kill(child.pid, signal.SIGKILL)
            lines = child.stdout.read().split("\n")[:-1]  # the last may be cut short
        said = max([said, *map(int, lines)])
        run = open_run(path)
        assert run.verify().ok
        assert run.tokens.n_documents >= max(said, before)
        before = run.tokens.n_documents
        rows = torch.cat([rows_of(number % 7)["x"] for number in range(before)])
        assert torch.equal(run.activations["x"].read(), rows)


def test_a_reader_sees_the_last_commit_and_keeps_its_snapshot(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN, shard_bytes=1) as writer:
        writer.append(["d0"], [0], [ids_of(0)], rows_of(0))
        while writer.n_documents < 1:
            time.sleep(0.01)
        early = open_run(tmp_path / "r.h5")
        writer.append(["d1"], [1], [ids_of(1)], rows_of(1))
        writer.close()
    assert len(early.activations["x"]) == 1
    assert len(early.refresh().activations["x"]) == 3


def test_bad_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RunFileError, match="There is no run file"):
        open_run(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(NotARunFileError, match="must be an HDF5 run file"):
        open_run(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(NotARunFileError, match="no fluoroscope run"):
        open_run(tmp_path / "foreign.h5")
    write(tmp_path / "r.h5")
    data = (tmp_path / "r.h5").read_bytes()
    (tmp_path / "cut.h5").write_bytes(data[: len(data) // 3])
    with pytest.raises(DamagedRunFileError):
        open_run(tmp_path / "cut.h5")
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        file.attrs["schema"] = 99
    with pytest.raises(SchemaVersionError, match="schema 99.*Upgrade"):
        open_run(tmp_path / "r.h5")


def test_missing_and_damaged_shards_are_named(tmp_path: Path) -> None:
    run = write(tmp_path / "r.h5", shard_bytes=100)
    shard = tmp_path / "r.shards" / run.shards[1]["file"]
    data = bytearray(shard.read_bytes())
    with h5py.File(shard) as file:
        offset = file["activations/x"].id.get_offset()
    data[offset] ^= 0x10
    shard.write_bytes(data)
    found = open_run(tmp_path / "r.h5").verify()
    assert not found.ok
    assert any(shard.name in problem and "digest" in problem for problem in found.problems)
    assert open_run(tmp_path / "r.h5").verify(quick=True).ok, "quick reads no rows"
    shard.unlink()
    with pytest.raises(DamagedRunFileError, match=shard.name):
        open_run(tmp_path / "r.h5")


def test_another_origin_is_refused_and_named(tmp_path: Path) -> None:
    write(tmp_path / "r.h5")
    other = Provenance(**{**ORIGIN.as_dict(), "settings": {"context": 9}, "sites": ("x", "y")})
    with pytest.raises(RunMismatchError, match=r"settings\.context: 8 against 9"):
        create_run(tmp_path / "r.h5", provenance=other)
    with pytest.raises(RunExistsError, match="overwrite"):
        create_run(tmp_path / "r.h5", provenance=ORIGIN, resume=False)
    run = open_run(tmp_path / "r.h5")
    run.require(weights_digest="a" * 64, tokenizer_digest="b" * 64)
    with pytest.raises(RunMismatchError, match="aaaaaaaaaaaa, but this model has ffffffffffff"):
        run.require(weights_digest="f" * 64)
    with pytest.raises(UnknownSiteError, match="holds no rows of 'z'"):
        _ = run.activations["z"]


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN):
        with pytest.raises(RunFileError, match="written by another process"):
            create_run(tmp_path / "r.h5", provenance=ORIGIN).__enter__()


def test_rows_and_tokens_must_agree(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        with pytest.raises(OptionError, match="x has 1 rows for 2 tokens"):
            writer.append(["d"], [0], [ids_of(1)], {"x": torch.zeros(1, 4)})


def put_all(writer, number: int) -> None:
    for site, rows in rows_of(number).items():
        writer.put(site, rows)


def test_rows_that_come_before_their_documents_make_the_shard_that_was_announced(
    tmp_path: Path,
) -> None:
    whole = write(tmp_path / "whole.h5", shard_bytes=60)
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        for announced in ((0, 1, 2), (3, 4, 5)):
            writer.expect(sum(number + 1 for number in announced))
            for number in announced:
                assert writer.is_expecting
                put_all(writer, number)
                writer.append([f"d{number}"], [number], [ids_of(number)])
            assert not writer.is_expecting, "the shard ends with the last row announced"
        writer.close()
    run = open_run(tmp_path / "r.h5")
    assert [shard["n_rows"] for shard in run.shards] == [6, 15]
    assert run.verify().ok
    assert run.tokens.names == whole.tokens.names
    for site in ("x", "y"):
        assert torch.equal(run.activations[site].read(), whole.activations[site].read())


def test_a_shard_that_ends_early_holds_whole_documents_only(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        writer.expect(100)
        for number in range(3):
            put_all(writer, number)
            writer.append([f"d{number}"], [number], [ids_of(number)])
        writer.put("x", rows_of(3)["x"])  # its document never comes
    run = open_run(tmp_path / "r.h5")
    assert not run.complete
    assert run.verify().ok
    for site in ("x", "y"):
        assert torch.equal(run.activations[site].read(), expected(site, 3))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_shard_without_documents_leaves_nothing(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        writer.expect(100)
        put_all(writer, 3)
    assert open_run(tmp_path / "r.h5").tokens.n_documents == 0
    assert not list((tmp_path / "r.shards").iterdir())


def test_rows_must_be_announced_and_agree_with_their_documents(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        with pytest.raises(OptionError, match="x gets row 1 where 0 were expected; call expect"):
            writer.put("x", torch.zeros(1, 4))
        writer.expect(3)
        with pytest.raises(OptionError, match="x gets row 4 where 3 were expected"):
            writer.put("x", torch.zeros(4, 4))
        writer.put("x", torch.zeros(1, 4))
        with pytest.raises(OptionError, match="x has 1 rows for 2 tokens"):
            writer.append(["d"], [0], [ids_of(1)])


def test_a_slow_model_commits_in_time_within_a_shard(tmp_path: Path) -> None:
    with create_run(tmp_path / "r.h5", provenance=ORIGIN, commit_every_s=0.0) as writer:
        writer.expect(100)
        put_all(writer, 0)
        writer.append(["d0"], [0], [ids_of(0)])
        assert not writer.is_expecting
        while writer.n_documents < 1:
            time.sleep(0.01)
    assert open_run(tmp_path / "r.h5").verify().ok


def test_a_full_disk_keeps_what_was_committed(tmp_path: Path) -> None:
    """A file-size limit stands in for the disk: the second shard does not fit."""
    root = str(Path(__file__).resolve().parents[3])
    code = f"""
import resource, signal, sys, torch, numpy as np
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.probes.runfile.test_run_file import ORIGIN
from fluoroscope.probes import create_run
from fluoroscope.probes.errors import IncompleteError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = create_run(Path({str(tmp_path / "r.h5")!r}), provenance=ORIGIN, shard_bytes=1)
try:
    with writer:
        writer.append(["small"], [0], [np.arange(2)], {{"x": torch.ones(2, 4)}})
        while writer.n_documents < 1:
            pass
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        writer.append(["large"], [1], [np.arange(40_000)], {{"x": torch.ones(40_000, 4)}})
        writer.close()
except IncompleteError as error:
    sys.exit(0 if "The disk is full" in str(error) else 7)
sys.exit(8)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    run = open_run(tmp_path / "r.h5")
    assert run.tokens.names == ("small",)
    assert run.verify().ok
    assert not list(tmp_path.rglob("*.partial")), "no half-written file stays behind"
    assert IncompleteError.__doc__


def test_results_are_kept_with_meaning_and_unit(tmp_path: Path) -> None:
    run = write(tmp_path / "r.h5")
    curve = np.array([1.0, np.nan])
    result = NextToken(
        loss=1.5, loss_low=float("nan"), loss_high=2.0, entropy=1.0, top1=0.5, position=np.arange(2),
        loss_by_position=curve, entropy_by_position=curve, n_by_position=np.array([3, 0]),
        n_tokens=3, n_documents=1,
    )  # fmt: skip
    run.add_result("loss", result)
    run.add_result("loss", result)
    assert run.results == ("loss",)
    back = run.result("loss", NextToken)
    assert back.loss == 1.5
    np.testing.assert_array_equal(back.loss_by_position, curve)
    with run.reading() as file:
        stored = file["results/loss/loss_by_position"]
        assert (stored.attrs["unit"], json.loads(stored.attrs["axes"])) == ("nats", ["positions"])
    with pytest.raises(MissingResultError, match="holds: loss"):
        run.result("nothing", NextToken)


def test_a_failed_edit_changes_nothing(tmp_path: Path) -> None:
    run = write(tmp_path / "r.h5")
    before = (tmp_path / "r.h5").read_bytes()
    with pytest.raises(ZeroDivisionError), run.edit() as file:
        file["results/half"] = 1
        raise ZeroDivisionError
    assert (tmp_path / "r.h5").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))


def test_parts_are_linked_in_order_without_copying(tmp_path: Path) -> None:
    parts = [tmp_path / "r.rank0.h5", tmp_path / "r.rank1.h5"]
    write(parts[0], 3, shard_bytes=60, prefix="rank0-")
    write(parts[1], 6, first=3, shard_bytes=60, prefix="rank1-")
    link_parts(tmp_path / "r.h5", parts, ORIGIN, complete=True)
    run = open_run(tmp_path / "r.h5")
    assert torch.equal(run.activations["x"].read(), expected("x"))
    assert run.tokens.names == tuple(f"d{number}" for number in range(6))
    assert run.verify().ok
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "r.h5",
        "r.shards",
    ]


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 30),
    block=st.integers(1, 9),
    memory=st.integers(1, 2000),
    seed=st.integers(0, 99),
)
def test_shuffled_batches_hold_every_row_once(
    size: int, block: int, memory: int, seed: int
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = write(Path(folder) / "r.h5", shard_bytes=100)
        options = {"shuffle": True, "seed": seed, "memory_bytes": memory, "block_rows": block}
        batches = list(run.batches(["x", "y"], size, **options))
        again = list(run.batches(["x", "y"], size, **options))
        assert all(len(batch["x"]) == size for batch in batches[:-1])
        x, y = (torch.cat([batch[site] for batch in batches]) for site in ("x", "y"))
        assert torch.equal(x, torch.cat([batch["x"] for batch in again]))
        order = x[:, 0].argsort()
        assert torch.equal(x[order], expected("x"))
        assert torch.equal(y[order], expected("y")), "sites stay aligned"


def test_batches_in_order_are_the_rows(tmp_path: Path) -> None:
    run = write(tmp_path / "r.h5", shard_bytes=100)
    batches = [batch["x"] for batch in run.batches("x", 4)]
    assert torch.equal(torch.cat(batches), expected("x"))
    kept = [batch["x"] for batch in run.batches("x", 4, drop_last=True)]
    assert [len(batch) for batch in kept] == [4] * 5
    with pytest.raises(OptionError, match="at least 1"):
        list(run.batches("x", 0))


def test_enough_memory_mixes_uniformly(tmp_path: Path) -> None:
    """Mean displacement of a uniform permutation is n/3; false alarm below 1e-6 for n = 4096."""
    with create_run(tmp_path / "r.h5", provenance=ORIGIN) as writer:
        rows = torch.arange(4096, dtype=torch.float32)[:, None]
        writer.append(["d"], [0], [np.arange(4096)], {"x": rows})
        writer.close()
    run = open_run(tmp_path / "r.h5")
    order = torch.cat([b["x"] for b in run.batches("x", 256, shuffle=True)])[:, 0]
    displacement = (order - torch.arange(4096)).abs().mean().item() / 4096
    assert abs(displacement - 1 / 3) < 0.02
