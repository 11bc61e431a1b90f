"""Labels for probes that need no download: what Python's own tokeniser says of Python source.

A token of the model is labelled by the Python token its first byte other than a space falls in, so
labels follow from the text alone.
"""

from __future__ import annotations

import io
import keyword
import tokenize
from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from ..errors import OptionError
from ..runfile import Run

CLASSES = ("name", "keyword", "number", "string", "comment", "operator", "newline", "space")
"""Python token classes."""

_KIND = {
    tokenize.NUMBER: "number",
    tokenize.STRING: "string",
    tokenize.COMMENT: "comment",
    tokenize.OP: "operator",
    tokenize.NEWLINE: "newline",
    tokenize.NL: "newline",
}


def python_classes(text: str) -> Int[np.ndarray, " characters"]:
    """Class of every character of Python source, as an index into `CLASSES`.

    Source that is cut off is labelled as far as it can be read; the rest counts as space.
    """
    classes = np.full(len(text), CLASSES.index("space"))
    starts = np.cumsum([0, *(len(line) for line in text.splitlines(keepends=True))])
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            kind = _KIND.get(token.type)
            if token.type == tokenize.NAME:
                kind = "keyword" if keyword.iskeyword(token.string) else "name"
            if kind is not None:
                first = starts[token.start[0] - 1] + token.start[1]
                last = starts[token.end[0] - 1] + token.end[1]
                classes[first : max(last, first + 1)] = CLASSES.index(kind)
    except (tokenize.TokenError, SyntaxError, IndexError):
        pass
    return classes


def token_class(token_bytes: list[bytes]) -> Int[np.ndarray, " tokens"]:
    """Python class of each of a text's tokens."""
    text_bytes = b"".join(token_bytes)
    text = text_bytes.decode(errors="replace")
    classes = python_classes(text)
    character_of = _character_of_byte(text_bytes)
    labels, offset = [], 0
    for piece in token_bytes:
        inside = len(piece) - len(piece.lstrip(b" \t"))
        at = offset + (inside if inside < len(piece) else 0)
        character = min(int(character_of[min(at, len(character_of) - 1)]), len(classes) - 1)
        labels.append(classes[character] if len(classes) else CLASSES.index("space"))
        offset += len(piece)
    return np.array(labels)


def _character_of_byte(text: bytes) -> Int[np.ndarray, " bytes"]:
    starts = np.array([(byte & 0xC0) != 0x80 for byte in text] or [True])
    return np.maximum(starts.cumsum() - 1, 0)


def line_start(token_bytes: list[bytes]) -> Int[np.ndarray, " tokens"]:
    """1 where the next token begins a line (this one ends in a newline), else 0."""
    return np.array([int(piece.endswith(b"\n")) for piece in token_bytes])


LABELS: dict[str, tuple[Callable[[list[bytes]], np.ndarray], tuple[str, ...]]] = {
    "python-class": (token_class, CLASSES),
    "line-start": (line_start, ("inside", "before a line")),
}
"""Ready-made labels: function of a document's token bytes, and names of the classes."""


def labels_of(run: Run, name: str) -> tuple[Int[np.ndarray, " tokens"], tuple[str, ...]]:
    """Labels of every row of a run.

    Raises:
        OptionError: There are no such labels.
    """
    if name not in LABELS:
        raise OptionError(f"label must be one of {', '.join(LABELS)}, got {name!r}.")
    function, classes = LABELS[name]
    pieces = run.vocabulary.token_bytes
    per_document = [
        function([pieces[token] for token in run.tokens.document(number)])
        for number in range(run.tokens.n_documents)
    ]
    return np.concatenate(per_document), classes
