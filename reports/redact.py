"""Runs whose texts are replaced while their numbers stay, to share a page without its texts.

What a token says is hidden wherever the page could take it from, because it is hidden in the data the
renderers get: in a copy of the run file in memory, token ids and texts are replaced before anything is
drawn. A renderer written tomorrow is covered without knowing of it: texts are hidden unless they are
names the toolkit itself writes (`KEPT`).

"prompts" hides the prompts; "text" hides every text: prompts, what was generated, the tokens read,
candidates, names of documents. In place of a text stand as many blocks as it has characters. Token
ids go as well, for whoever has the tokenizer can read them (a deviation: the sheet would keep ids).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import h5py
import numpy as np

from ..probes.runfile import Provenance, Run, Tokens
from ..probes.runfile.h5 import dataset, subgroup, texts
from ..probes.storable import text_array
from ..probes.vocabulary import Vocabulary

Redact = Literal["prompts", "text"]
BLOCK = "█"
LONGEST = 64
"""Lengths above are told as this: a very long token is nearly a name."""

KEPT = {"classes", "conditions", "checks", "sites", "stop_reason", "engine", "modules", "phases"}
"""Text arrays that hold the toolkit's own names."""
KEPT_ATTRIBUTES = {
    "kind", "kinds", "engine", "summary", "paper", "options", "model", "label", "source", "doc",
    "axes", "unit", "dtype",
}  # fmt: skip
"""Text attributes of the same sort."""
IDS = re.compile(r"^(?!n_|expert|latent|feature|neuron|head|layer|channel)(.*_)?(ids?|tokens?)$")
"""Names of integer arrays that hold token ids; ids of experts and the like are numbers and stay."""
TOLD = {"--text", "-t", "--prompt", "-p", "--prompts", "--stop"}
"""Options whose values are texts or name them."""


class RedactedRun(Run):
    """A run as the page sees it, without its texts.

    Args:
        run: The run; its file is only read.
        what: Which texts are hidden.
    """

    def __init__(self, run: Run, what: Redact) -> None:
        super().__init__(run.path)
        self.what = what
        self._original = run
        self.provenance = _without_texts(self.provenance, what)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, and after it one entry per length: that many blocks.

        Hidden token ids point there. Where all texts go, so does the vocabulary's own part.
        """
        held = self._original.vocabulary
        lengths = tuple((BLOCK * n).encode() for n in range(LONGEST + 1))
        if self.what == "text":
            return Vocabulary((b"",) * len(held) + lengths, frozenset())
        return Vocabulary(held.token_bytes + lengths, held.special)

    @cached_property
    def tokens(self) -> Tokens:
        """The token axis; ids and names are hidden with all texts."""
        held = self._original.tokens
        if self.what == "prompts":
            return held
        return replace(held, ids=self._hidden(held.ids), names=tuple(map(blocks, held.names)))

    @cached_property
    def _lengths(self) -> np.ndarray:
        """Length in characters by token id."""
        if not self.has_vocabulary:
            return np.zeros(0, dtype=np.int64)
        pieces = self._original.vocabulary.token_bytes
        lengths = [len(piece.decode("utf-8", errors="replace")) for piece in pieces]
        return np.minimum(np.array(lengths, dtype=np.int64), LONGEST)

    def _hidden(self, ids: np.ndarray) -> np.ndarray:
        """The entry of its length in place of every token id; what is no token (below 0) stays."""
        n = len(self._lengths)
        known = np.clip(ids, 0, max(n - 1, 0))
        lengths = self._lengths[known] if n else np.zeros_like(known)
        return np.where(ids < 0, ids, n + lengths).astype(ids.dtype)

    @contextmanager
    def reading(self) -> Iterator[h5py.File]:
        """A copy in memory of what the page draws, without texts."""
        with (
            super().reading() as file,
            h5py.File("redacted", "w", driver="core", backing_store=False) as copy,
        ):
            for key, value in file.attrs.items():
                copy.attrs[key] = value
            for name in ("results", "trace", "vocabulary"):
                if name in file:
                    file.copy(name, copy)
            if "invocations" in file:
                copy["invocations"] = text_array(_told(text) for text in texts(file, "invocations"))
            for held in _everything(copy):
                if self.what == "prompts":
                    self._hide_prompt(held)
                else:
                    self._hide_text(held)
            yield copy

    def _hide_prompt(self, held: h5py.Group | h5py.Dataset) -> None:
        name = str(held.name)
        if not (name.startswith("/trace/") and isinstance(held, h5py.Dataset)):
            return
        if name.endswith("/prompts/text"):
            _replace(held, _blocked(held))
        elif name.endswith("/prompts/ids"):
            _replace(held, self._hidden(np.asarray(held[()])))

    def _hide_text(self, held: h5py.Group | h5py.Dataset) -> None:
        for key, value in held.attrs.items():
            if key == "options":
                held.attrs[key] = json.dumps(_bare(json.loads(str(value))))
            elif isinstance(value, str) and key not in KEPT_ATTRIBUTES:
                held.attrs[key] = blocks(value)
            elif isinstance(value, np.integer) and IDS.search(key):
                held.attrs[key] = self._hidden(np.asarray(value))[()]
        if not isinstance(held, h5py.Dataset):
            return
        name = str(held.name).rpartition("/")[2]
        if h5py.check_string_dtype(held.dtype) is not None:
            if name not in KEPT:
                _replace(held, _blocked(held))
        elif held.dtype.kind in "iu" and IDS.search(name):
            _replace(held, self._hidden(np.asarray(held[()])))


def _everything(file: h5py.File) -> list[h5py.Group | h5py.Dataset]:
    """Groups and datasets of results and traces."""
    found: list[h5py.Group | h5py.Dataset] = []
    for name in ("results", "trace"):
        if name in file:
            subgroup(file, name).visititems(lambda _, held: found.append(held))
    return found


def blocks(text: str) -> str:
    """As many blocks as the text has characters, up to `LONGEST`; nothing stays nothing."""
    return BLOCK * min(len(text), LONGEST)


def _blocked(held: h5py.Dataset) -> np.ndarray:
    """A text array with every text replaced."""
    words = np.asarray(held.asstr()[()], dtype=object)
    return text_array(blocks(str(word)) for word in words.ravel()).reshape(words.shape)


def _replace(held: h5py.Dataset, values: np.ndarray) -> None:
    where, _, name = str(held.name).rpartition("/")
    group, attributes = subgroup(held.file, where), dict(held.attrs)
    del group[name]
    group[name] = values
    for key, value in attributes.items():
        dataset(group, name).attrs[key] = value


def _bare(value: Any) -> Any:
    """Options without texts: a string with a space in it is one."""
    if isinstance(value, dict):
        return {key: _bare(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_bare(item) for item in value]
    return blocks(value) if isinstance(value, str) and " " in value.strip() else value


def _without_texts(provenance: Provenance, what: Redact) -> Provenance:
    """Provenance whose command line (and, for "text", corpus) tells no text."""
    command = list(provenance.command)
    for at, part in enumerate(command):
        if at and command[at - 1] in TOLD:
            command[at] = blocks(part)
        elif part.partition("=")[0] in TOLD and "=" in part:
            option, _, value = part.partition("=")
            command[at] = f"{option}={blocks(value)}"
    corpus: dict[str, Any] = dict(provenance.corpus)
    if what == "text" and not str(corpus.get("description", "")).startswith("standard library"):
        corpus["description"] = blocks(str(corpus.get("description", "")))
    return replace(provenance, command=command, corpus=corpus)


def _told(text: str) -> str:
    """A stored command without the texts among its options."""
    held = json.loads(text)
    names = {option.lstrip("-") for option in TOLD if option.startswith("--")}
    for key, value in held["options"].items():
        if key in names:
            held["options"][key] = (
                [blocks(str(v)) for v in value] if isinstance(value, list) else blocks(str(value))
            )
    return json.dumps(held, sort_keys=True)
