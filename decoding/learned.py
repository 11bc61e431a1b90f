"""What an engine learned, in a file: kept after one session, taken up in the next."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ..probes.runfile.atomic import replacing
from .engine import Engine
from .errors import LearnedError
from .speculative import Speculative

FACTS = "facts"


def require_learning(engine: Engine) -> Speculative:
    """The engine, if it is of a kind that learns from its prompts.

    Raises:
        LearnedError: It keeps nothing between prompts.
    """
    if not isinstance(engine, Speculative) or not engine.drafter.memory():
        raise LearnedError(f"{engine.about.name!r} keeps nothing between prompts.")
    return engine


def save_learned(engine: Engine, file: Path | str) -> None:
    """Write what an engine learned from its prompts; the file appears whole or not at all.

    Raises:
        LearnedError: This engine learns nothing.
    """
    memory = require_learning(engine).drafter.memory()
    path = Path(file)
    with replacing(path) as partial, partial.open("wb") as out:
        everything: dict[str, Any] = memory | {FACTS: np.array(json.dumps(_facts(engine)))}
        np.savez_compressed(out, **everything)


def load_learned(engine: Engine, file: Path | str) -> None:
    """Give an engine what another of its kind learned.

    Raises:
        LearnedError: The engine learns nothing, or the file is damaged, or of another engine,
            vocabulary or tokenizer.
    """
    path, learning = Path(file), require_learning(engine)
    try:
        with np.load(path, allow_pickle=False) as held:
            memory = {name: held[name] for name in held.files}
        facts = json.loads(str(memory.pop(FACTS)))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise LearnedError(f"{path.name} holds nothing an engine learned: {error}") from error
    wanted = _facts(engine)
    if facts != wanted:
        differing = ", ".join(
            f"{k}: {facts.get(k)} here {wanted[k]}" for k in wanted if facts.get(k) != wanted[k]
        )
        raise LearnedError(f"{path.name} was learned elsewhere ({differing}).")
    learning.drafter.remember(memory)


def _facts(engine: Engine) -> dict[str, object]:
    model = engine.model
    return {
        "engine": engine.about.name,
        "d_vocab": model.d_vocab,
        "tokenizer": model.tokenizer_digest if model.has_tokenizer else None,
    }
