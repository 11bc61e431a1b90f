"""Digests: what binds a run file to its weights, and a cached conversion to its bytes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SETTLED_S = 2.0
"""A file changed this shortly before it was digested may change again within its clock's resolution."""


def remembered_digest(path: Path, memory: Path) -> str:
    """SHA-256 of a file, read once and remembered for as long as the file is the same.

    The same means: size, time of modification, time of change and inode as they were. The time of
    change is the system's own, so that a file whose modification time was set back is read again; so
    is one that was younger than its clock can tell apart when it was digested.

    Args:
        path: The file.
        memory: Folder where digests are remembered, one small file each.
    """
    stat = path.stat()
    now = {
        "size": stat.st_size,
        "modified": stat.st_mtime_ns,
        "changed": stat.st_ctime_ns,
        "inode": stat.st_ino,
    }
    note = memory / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]}.json"
    try:
        held = json.loads(note.read_text())
        if held["file"] == now:
            return str(held["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    begun = time.time_ns()
    digest = file_digest(path)
    if begun - max(stat.st_mtime_ns, stat.st_ctime_ns) > SETTLED_S * 1e9:
        memory.mkdir(parents=True, exist_ok=True)
        partial = note.with_name(f"{note.name}.{os.getpid()}")
        partial.write_text(json.dumps({"file": now, "digest": digest}))
        partial.replace(note)
    return digest


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 over names and digests of several files, whatever their order."""
    lines = sorted(f"{path.name} {file_digest(path)}" for path in paths)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of tensors in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()
