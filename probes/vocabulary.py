"""The bytes behind every token id, decoded once, so that nothing later guesses from strings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-Fa-f]{2})>$")


@dataclass(frozen=True)
class Vocabulary:
    """Token bytes by id."""

    token_bytes: tuple[bytes, ...]
    """UTF-8 bytes of each token; a token may hold part of a character only."""
    special: frozenset[int]
    """Ids of special tokens, whose bytes are their names."""

    def __len__(self) -> int:
        return len(self.token_bytes)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The vocabulary of a byte-level or SentencePiece-like tokenizer.

    Byte-level pieces are mapped back through the byte alphabet; in SentencePiece-like ones "▁" is a
    space and "<0x0A>" a byte. Which of the two a tokenizer is, its own pieces tell.
    """
    pieces = {index: piece for piece, index in tokenizer.get_vocab().items()}
    special = frozenset(
        index for index, added in tokenizer.added_tokens_decoder.items() if added.special
    ) | frozenset(tokenizer.all_special_ids)
    added = {index: token.content for index, token in tokenizer.added_tokens_decoder.items()}
    alphabet = _byte_alphabet()
    plain = [piece for index, piece in pieces.items() if index not in added]
    # Either mark is also a letter or a sign of the other kind's text, so the majority decides.
    n_byte_spaces = sum(piece.startswith("Ġ") for piece in plain)
    n_plain_spaces = sum(piece.startswith("▁") for piece in plain)
    byte_level = n_byte_spaces > n_plain_spaces or (
        n_byte_spaces == n_plain_spaces
        and all(character in alphabet for piece in plain for character in piece)
    )
    token_bytes = []
    for index in range(max(pieces, default=-1) + 1):
        piece = pieces.get(index, "")
        if index in added:
            text = added[index]
            as_is = byte_level or index in special
            token_bytes.append((text if as_is else text.replace("▁", " ")).encode())
        elif byte_level:
            token_bytes.append(_from_alphabet(piece, alphabet))
        else:
            token_bytes.append(_from_sentencepiece(piece))
    return Vocabulary(tuple(token_bytes), special)


def _from_alphabet(piece: str, alphabet: dict[str, int]) -> bytes:
    return b"".join(
        bytes([alphabet[character]]) if character in alphabet else character.encode()
        for character in piece
    )


def _from_sentencepiece(piece: str) -> bytes:
    match = _BYTE_TOKEN.match(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace("▁", " ").encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """The characters byte-level tokenizers write bytes as (GPT-2's alphabet).

    Printable Latin-1 bytes stand for themselves, the others for characters from U+0100 on, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(others)
    }
