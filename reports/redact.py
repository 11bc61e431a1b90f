"""Runs whose texts are replaced while their numbers stay, to share a page without its texts.

What a token says is hidden wherever the page could take it from, because it is hidden in the data the
renderers get: in a copy of the run file in memory, token ids and texts are replaced before anything is
drawn. A renderer written tomorrow is covered without knowing of it: texts are hidden unless they are
names the toolkit itself writes (`KEPT`).

"prompts" hides the prompts; "text" hides every text: prompts, what was generated, the tokens read,
candidates, names of documents. In place of a text stand as many blocks as it has characters. Token
ids go as well, for whoever has the tokenizer can read them:
each becomes a number of its own within its result or trace. So whatever is computed from tokens being
equal stays right; and so one can see which hidden tokens are equal, as in a cryptogram. Where even that
tells too much, leave results and traces out (`only`).
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
JSON = "json:"
"""What stands before JSON in an attribute of a result."""
BLOCK = "░"
"""Light, so that a background colour still shows."""
LONGEST = 64
"""Lengths above are told as this: a very long token is nearly a name."""

KEPT = {
    "architecture",
    "building",
    "checks",
    "classes",
    "conditions",
    "coordinates",
    "divergences",
    "engine",
    "in_units",
    "joining",
    "meanings",
    "methods",
    "metrics",
    "models",
    "modules",
    "phases",
    "quantities",
    "refusals",
    "refused",
    "sites",
    "stop_reason",
    "variants",
    "verdicts",
}
"""Text arrays that hold the toolkit's own names."""
KEPT_ATTRIBUTES = {
    "kind", "kinds", "sources",
    "engine", "summary", "paper", "options", "model", "label", "source", "doc",
    "axes", "unit", "dtype", "architecture", "rule", "site", "protocol", "probe_label", "family",
    "state_dtype",
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
        """The vocabulary, and after it one entry of blocks per hidden token.

        Hidden token ids point there. Where all texts go, so does the vocabulary's own part.
        """
        if not self.has_vocabulary:
            return Vocabulary((), frozenset())
        held = self._original.vocabulary
        hidden = tuple((BLOCK * self._length(token)).encode() for token in self._hidden_tokens)
        if self.what == "text":
            return Vocabulary((b"",) * len(held) + hidden, frozenset())
        return Vocabulary(held.token_bytes + hidden, held.special)

    @cached_property
    def tokens(self) -> Tokens:
        """The token axis; ids and names are hidden with all texts."""
        held = self._original.tokens
        if self.what == "prompts":
            return held
        return replace(
            held, ids=self._coded("/tokens", held.ids), names=tuple(map(blocks, held.names))
        )

    @cached_property
    def _codes(self) -> dict[str, np.ndarray]:
        """Per scope (one result, one trace) the ids it holds, in order of their number."""
        found: dict[str, set[int]] = {}
        with super().reading() as file:
            for held in _everything(file):
                if isinstance(held, h5py.Dataset) and self._is_hidden(held):
                    found.setdefault(_scope(held), set()).update(np.unique(held[()]).tolist())
        if self.what == "text":
            found["/tokens"] = set(np.unique(self._original.tokens.ids).tolist())
        return {scope: np.array(sorted(ids), dtype=np.int64) for scope, ids in found.items()}

    @cached_property
    def _hidden_tokens(self) -> list[int]:
        """The token behind each hidden id, scope after scope."""
        return [token for scope in self._codes for token in self._shuffled(scope)]

    def _shuffled(self, scope: str) -> list[int]:
        """Ids of a scope in an order that depends on nothing but their number and a fixed seed."""
        ids = self._codes[scope]
        return np.random.default_rng(len(ids)).permutation(ids).tolist()

    def _coded(self, scope: str, ids: np.ndarray) -> np.ndarray:
        """Hidden ids: equal where the tokens of one scope are; what is no token (below 0) stays."""
        start = len(self._original.vocabulary) if self.has_vocabulary else 0
        for other in self._codes:
            if other == scope:
                break
            start += len(self._codes[other])
        number = {token: start + at for at, token in enumerate(self._shuffled(scope))}
        coded = [token if token < 0 else number[token] for token in np.ravel(ids).tolist()]
        return np.array(coded, dtype=ids.dtype).reshape(ids.shape)

    def _length(self, token: int) -> int:
        """Characters of a token, up to `LONGEST`; one for what the vocabulary lacks."""
        pieces = self._original.vocabulary.token_bytes
        if not 0 <= token < len(pieces):
            return 1
        return min(len(pieces[token].decode("utf-8", errors="replace")), LONGEST)

    def _is_hidden(self, held: h5py.Dataset) -> bool:
        """Whether a dataset holds token ids that must go."""
        name = str(held.name)
        if self.what == "prompts":
            return name.startswith("/trace/") and name.endswith("/prompts/ids")
        return held.dtype.kind in "iu" and IDS.search(name.rpartition("/")[2]) is not None

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
        elif self._is_hidden(held):
            _replace(held, self._coded(_scope(held), np.asarray(held[()])))

    def _hide_text(self, held: h5py.Group | h5py.Dataset) -> None:
        for key, value in dict(held.attrs).items():
            if key == "options":
                mark = JSON if str(value).startswith(JSON) else ""
                held.attrs[key] = mark + json.dumps(
                    _bare(json.loads(str(value).removeprefix(mark)))
                )
            elif isinstance(value, str) and key not in KEPT_ATTRIBUTES:
                held.attrs[key] = blocks(value)
            elif isinstance(value, np.integer) and IDS.search(key):
                del held.attrs[key]
        if not isinstance(held, h5py.Dataset):
            return
        name = str(held.name).rpartition("/")[2]
        if h5py.check_string_dtype(held.dtype) is not None:
            if name not in KEPT:
                _replace(held, _blocked(held))
        elif self._is_hidden(held):
            _replace(held, self._coded(_scope(held), np.asarray(held[()])))


def _scope(held: h5py.Dataset) -> str:
    """The result or trace a dataset belongs to."""
    return "/".join(str(held.name).split("/")[:3])


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
