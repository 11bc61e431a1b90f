"""When a generation ends: token ids, strings, lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..probes import Model
from ..probes.errors import OptionError

StopReason = Literal["eos", "stop_string", "max_new_tokens", "context", "interrupted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When to stop."""

    max_new_tokens: int = 128
    """At most this many tokens."""
    stop: Sequence[str] = ()
    """Strings that end the text; it is cut before the first of them. The tokens stay whole."""
    ignore_eos: bool = False
    """Whether to go on past the model's end-of-sequence tokens."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise OptionError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if isinstance(self.stop, str):
            raise OptionError(
                f"stop must be a tuple of strings, got {self.stop!r}; one is ({self.stop!r},)."
            )
        if any(not text for text in self.stop):
            raise OptionError("A stop string must not be empty.")


class Stopper:
    """Watches one generation for its end.

    Args:
        model: Whose end-of-sequence ids and context count.
        rules: When to stop.
        n_prompt: Tokens of the prompt.
    """

    def __init__(self, model: Model, rules: Stopping, n_prompt: int) -> None:
        self._model, self._rules, self._n_prompt = model, rules, n_prompt
        self._eos = frozenset() if rules.ignore_eos else eos_ids(model)
        # A token of a byte-level tokenizer may be as short as a byte.
        self._n_watched = 64 + max((len(text.encode()) for text in rules.stop), default=0)

    def check(self, emitted: Sequence[int]) -> StopReason | None:
        """Why the generation ends with the last of `emitted`; None if it goes on."""
        if emitted[-1] in self._eos:
            return "eos"
        if self._rules.stop and self.cut(self._text(emitted[-self._n_watched :])) is not None:
            return "stop_string"
        if len(emitted) >= self._rules.max_new_tokens:
            return "max_new_tokens"
        limit = self._model.max_positions
        if limit is not None and self._n_prompt + len(emitted) >= limit:
            return "context"
        return None

    def room(self, n_emitted: int) -> int:
        """How many more tokens may be emitted."""
        left = self._rules.max_new_tokens - n_emitted
        limit = self._model.max_positions
        return left if limit is None else min(left, limit - self._n_prompt - n_emitted)

    def cut(self, text: str) -> str | None:
        """`text` up to the first stop string; None where there is none."""
        found = [at for at in (text.find(stop) for stop in self._rules.stop) if at >= 0]
        return text[: min(found)] if found else None

    def _text(self, ids: Sequence[int]) -> str:
        return self._model.decode(list(ids))


def eos_ids(model: Model) -> frozenset[int]:
    """Ids that end a text: those of the generation config, else the config's."""
    generation = getattr(model.module, "generation_config", None)
    found = getattr(generation, "eos_token_id", None)
    if found is None:
        found = getattr(model.config, "eos_token_id", None)
    if found is None:
        return frozenset()
    return frozenset(found) if isinstance(found, list | tuple) else frozenset({found})
