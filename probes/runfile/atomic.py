"""Files that appear whole or not at all, and one writer at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..errors import IncompleteError, RunFileError

PARTIAL = ".partial"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` when the block ends well, by one rename.

    Until then `path` is what it was; if the block fails nothing is left behind.

    Raises:
        IncompleteError: The disk is full; what was there before is untouched.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    try:
        with telling_when_full(path):
            yield partial
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def telling_when_full(path: Path) -> Iterator[None]:
    """Say in our own words that the disk is full while `path` is being made.

    Raises:
        IncompleteError: The disk is full.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:  # HDF5 reports a failed flush as RuntimeError
        if is_disk_full(error):
            raise IncompleteError(
                f"The disk is full: {path.name} could not be written. What was committed before is "
                "kept. Free space and run the same command again; it picks up there."
            ) from error
        raise


def is_disk_full(error: BaseException) -> bool:
    """Whether an error means that no space is left (HDF5 says so only in its text)."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    text = str(error)
    return getattr(error, "errno", None) in full or any(f"errno = {code}" in text for code in full)


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Hold the run file for writing.

    Raises:
        RunFileError: Another process holds it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunFileError(
            f"{path.name} is being written by another process; wait for it, or write to another file."
        ) from error
    try:
        yield
    finally:
        lock.release()
