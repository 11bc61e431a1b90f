"""Opening a run's HDF5 files for reading, with errors that say what is wrong with which file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ..errors import DamagedRunFileError, NotARunFileError, RunFileError, SchemaVersionError
from .schema import ROOT_KIND, SCHEMA


@contextmanager
def open_main(path: Path) -> Iterator[h5py.File]:
    """The main file, open for reading.

    Raises:
        NotARunFileError: It is some other file.
        SchemaVersionError: It was written by a newer version.
        DamagedRunFileError: It cannot be read, now or while the block reads on.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        kind = DamagedRunFileError if _has_magic(path) else NotARunFileError
        raise kind(
            f"{path.name} must be an HDF5 run file; it cannot be read ({error}). If it was copied, "
            "copy it again; run files are only ever replaced whole."
        ) from error
    with file, _telling_damage(path):
        if file.attrs.get("kind") != ROOT_KIND:
            raise NotARunFileError(
                f"{path.name} is an HDF5 file, but no fluoroscope run (its attribute `kind` is "
                f"{file.attrs.get('kind')!r})."
            )
        schema = int(str(file.attrs["schema"]))
        if schema > SCHEMA:
            raise SchemaVersionError(
                f"{path.name} follows schema {schema}; this version reads up to {SCHEMA}. "
                "Upgrade: pip install --upgrade fluoroscope"
            )
        yield file


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    """HDF5's own complaints (they have no number of the system's) as damage to the file."""
    try:
        yield
    except OSError as error:
        if isinstance(error, RunFileError) or error.errno is not None:
            raise
        raise DamagedRunFileError(
            f"{path.name} is damaged: {error}. `fluoroscope verify` tells what is whole; run files are "
            "only ever replaced whole, so copy it again."
        ) from error


@contextmanager
def open_shard(path: Path) -> Iterator[h5py.File]:
    """A shard, open for reading.

    Raises:
        DamagedRunFileError: It cannot be read.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DamagedRunFileError(
            f"Shard {path.name} cannot be read ({error}). `fluoroscope verify` tells what is whole."
        ) from error
    with file:
        yield file


def _has_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"
