"""Checkpoints: everything a training needs to go on bit for bit, in one file that is replaced whole.

The file is torch's own archive, read back with `weights_only`, so that it can hold no code; the archive
checks its sums. It begins with the settings of the training, and another training's is refused.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch

from ..probes.runfile.atomic import replacing
from .errors import CheckpointError

NAME = "checkpoint.pt"


def write_checkpoint(folder: Path, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Replace the checkpoint in a folder.

    Args:
        folder: Made if new.
        settings: What the training is, ready for JSON; must be the same to go on.
        state: Tensors and plain values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / NAME) as partial:
        torch.save({"settings": _text(settings), "state": state}, partial)


def read_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """The state in a folder's checkpoint; None where there is none.

    Raises:
        CheckpointError: It is damaged, or from a training with other settings.
    """
    path = folder / NAME
    if not path.is_file():
        return None
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
        stored, state = held["settings"], held["state"]
    except (RuntimeError, OSError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error}). Delete it and begin afresh, or give another folder."
        ) from error
    if stored != _text(settings):
        raise CheckpointError(
            f"{path} is of another training: {_difference(json.loads(stored), settings)}. Give the "
            "same options, another folder, or delete it."
        )
    return state


def _text(settings: dict[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _difference(stored: dict[str, Any], given: dict[str, Any], at: str = "") -> str:
    """The first settings that differ, in words."""
    given = json.loads(_text(given))
    found = []
    for key in sorted(stored.keys() | given.keys()):
        mine, theirs = stored.get(key), given.get(key)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            if mine != theirs:
                found.append(_difference(mine, theirs, f"{at}{key}."))
        elif mine != theirs:
            found.append(f"{at}{key} was {mine!r}, is {theirs!r}")
    return "; ".join(found[:3])
