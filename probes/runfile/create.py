"""Starting a run file, going on with one, deleting one, and joining what several ranks wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py

from ..errors import RunExistsError, RunFileError, RunMismatchError
from .atomic import PARTIAL, is_disk_full
from .h5 import array, subgroup
from .mainfile import shard_folder, write_main
from .provenance import Provenance
from .reader import open_run
from .shards import Shard, read_shard
from .writer import COMMIT_EVERY_S, SHARD_BYTES, RunWriter


def create_run(
    path: str | Path,
    *,
    provenance: Provenance,
    resume: bool = True,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    commit_every_s: float = COMMIT_EVERY_S,
    prefix: str = "",
) -> RunWriter:
    """Start a run file, or go on with one.

    Args:
        path: Where; rows go to `<name>.shards` beside it.
        provenance: Where the run comes from.
        resume: Whether a file with the same provenance is continued.
        overwrite: Whether a file that is there is deleted first.
        shard_bytes: A shard is finished when it holds this much.
        commit_every_s: ... or this long after the last.
        prefix: Start of shard names; ranks that write side by side have one each.

    Raises:
        RunExistsError: There is a file, and it may be neither continued nor overwritten.
        RunMismatchError: It came from another model, corpus or setting; the differences are named.
        RunFileError: The path cannot be written, or another process is writing it.
    """
    path = Path(path)
    folder = shard_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        raise RunFileError(f"{path} cannot be written: {error}. Choose another place.") from error
    shards: list[Shard] = []
    if overwrite:
        remove_run(path)
        folder.mkdir(exist_ok=True)
    elif path.exists():
        shards, provenance = _continue(path, provenance, resume=resume)
    for stale in (*folder.glob(f"*{PARTIAL}"), *path.parent.glob(f"{path.name}.*{PARTIAL}")):
        stale.unlink(missing_ok=True)
    listed = {shard.file for shard in shards}
    for orphan in folder.glob(f"{prefix}*.h5"):
        if orphan.name not in listed:
            orphan.unlink()
    return RunWriter(
        path,
        provenance,
        shards,
        shard_bytes=shard_bytes,
        commit_every_s=commit_every_s,
        prefix=prefix,
    )


def remove_run(path: Path) -> None:
    """Delete a run file and its shards, and nothing else."""
    path.unlink(missing_ok=True)
    folder = shard_folder(path)
    if folder.is_dir():
        for file in folder.iterdir():
            if file.suffix == ".h5" or file.name.endswith(PARTIAL):
                file.unlink()
        folder.rmdir()


def link_parts(
    path: Path, parts: Sequence[Path], provenance: Provenance, *, complete: bool
) -> None:
    """Make one run file of what several ranks wrote, by linking their shards; no row is copied.

    Args:
        path: The run file to make.
        parts: Run files of the ranks, in rank order, beside `path`; removed once linked.
        provenance: Where the whole comes from.
        complete: Whether all parts are.
    """
    folder = shard_folder(path)
    folder.mkdir(exist_ok=True)
    shards: list[Shard] = []
    vocabulary = None
    for part in parts:
        with h5py.File(part, "r") as file:
            if "vocabulary" in file:
                held = subgroup(file, "vocabulary")
                vocabulary = (array(held, "bytes"), array(held, "offsets"), array(held, "special"))
        for source in sorted(shard_folder(part).glob("*.h5")):
            target = folder / source.name
            target.unlink(missing_ok=True)
            target.hardlink_to(source)
            shards.append(read_shard(target))
    write_main(path, provenance, shards, complete=complete, vocabulary=vocabulary)
    for part in parts:
        remove_run(part)


def _continue(
    path: Path, provenance: Provenance, *, resume: bool
) -> tuple[list[Shard], Provenance]:
    if not resume:
        raise RunExistsError(
            f"{path.name} exists already. Choose another name, resume=True to go on with it, or "
            "overwrite=True (--overwrite) to start afresh."
        )
    run = open_run(path)
    differences = run.provenance.differences(provenance)
    if differences:
        raise RunMismatchError(
            f"{path.name} cannot be continued, it came from something else: "
            f"{'; '.join(differences[:5])}. Choose another name, or overwrite=True (--overwrite)."
        )
    folder = shard_folder(path)
    return [read_shard(folder / entry["file"]) for entry in run.shards], run.provenance
