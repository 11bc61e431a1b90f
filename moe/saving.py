"""A model's folder, written whole or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..probes.errors import RunExistsError
from ..probes.model import Model
from ..probes.runfile.atomic import PARTIAL, telling_when_full


def require_new(folder: str | Path) -> Path:
    """The folder, if it is new or empty.

    Raises:
        RunExistsError: It holds something.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise RunExistsError(f"{folder} must be new or empty; give another folder.")
    return folder


def save_model(model: Model, folder: str | Path) -> Path:
    """Write weights, configuration and tokenizer; an interrupted call leaves nothing behind.

    Raises:
        RunExistsError: The folder holds something.
        IncompleteError: The disk is full.
    """
    folder = require_new(folder)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}{PARTIAL}")
    try:
        with telling_when_full(folder):
            model.module.save_pretrained(partial)
            if model.has_tokenizer:
                model.tokenizer.save_pretrained(partial)
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder
