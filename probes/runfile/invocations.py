"""The commands that wrote to a run file, with their effective options: /invocations.

One JSON text per command, in the order they ran; the same command with the same options stands there
once, so that a resumed or repeated command leaves the file as it was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..storable import text_array
from .h5 import texts
from .reader import Run

NAME = "invocations"


@dataclass(frozen=True)
class Invocation:
    """One command."""

    command: str
    options: dict[str, Any]
    """Options as the command got them; those left at nothing are left out."""


def invocations(run: Run) -> tuple[Invocation, ...]:
    """The commands that wrote to the file, oldest first."""
    with run.reading() as file:
        found = texts(file, NAME) if NAME in file else ()
    return tuple(Invocation(**json.loads(text)) for text in found)


def add_invocation(run: Run, invocation: Invocation) -> None:
    """Note a command, unless it is there with the same options."""
    held = [_text(one) for one in invocations(run)]
    text = _text(invocation)
    if text in held:
        return
    with run.edit() as file:
        if NAME in file:
            del file[NAME]
        file[NAME] = text_array([*held, text])


def _text(invocation: Invocation) -> str:
    stored = {"command": invocation.command, "options": invocation.options}
    return json.dumps(stored, sort_keys=True, default=str)
