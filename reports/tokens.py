"""Showing a token: every string from a model or user goes through `visible` before it is drawn.

Tokens hold spaces, newlines, control and bidirectional characters, bytes that are no character by
themselves, and text that looks like markup. Left as they are they vanish, mirror what follows or
abort the chart converter, so each is written out. Escaping for HTML is the template's work.
"""

from __future__ import annotations

import unicodedata

from ..probes.vocabulary import Vocabulary

LONGEST = 24
_NAMED = {" ": "·", "\n": "\\n", "\t": "\\t", "\r": "\\r", "\u00a0": "⍽"}
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}


def visible(text: str | bytes, *, longest: int | None = LONGEST) -> str:
    r"""A string with everything invisible written out.

    Args:
        text: A token's text or bytes; bytes that are no UTF-8 become \xNN.
        longest: Longer strings are cut in the middle; None never cuts.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", errors="backslashreplace")
    if not text:
        return "∅"
    shown = "".join(_show(character) for character in text)
    if longest is not None and len(shown) > longest:
        half = (longest - 1) // 2
        shown = f"{shown[:half]}…{shown[-half:]}"
    return shown


def plain(text: str) -> str:
    """Running text made safe to draw: as `visible`, but spaces and line breaks stay."""
    return "".join(c if c in " \n" else _show(c) for c in text)


def printable(text: str) -> str:
    """Any text with its control and bidirectional characters written out; other text as it is."""
    return text if text.isprintable() else plain(text)


def label(text: str, *, longest: int | None = 80) -> str:
    """A name, a sentence or a file name: as `visible`, but spaces stay spaces."""
    return visible(text, longest=longest).replace("·", " ")


def token_text(vocabulary: Vocabulary | None, token: int) -> str:
    """How a token is shown; its id where the vocabulary is not known."""
    if vocabulary is None or not 0 <= token < len(vocabulary):
        return f"#{token}"
    return visible(vocabulary.token_bytes[token])


def _show(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if unicodedata.category(character) in _HIDDEN:
        code = ord(character)
        return f"\\x{code:02x}" if code < 0x100 else f"\\u{{{code:x}}}"
    return character
