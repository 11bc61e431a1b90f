"""A small task for encoder-decoder models: numbers in words to digits. Nothing is downloaded.

    three hundred and five ; twelve  ->  3 0 5 ; 1 2

Sources are word tokens, outputs digit tokens; a list holds several numbers, so that outputs are long
enough for blocks. Both sides share one vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


class Numerals:
    """The task.

    Args:
        most: Most numbers of a list.
    """

    PAD, START, END = 0, 1, 2

    def __init__(self, most: int = 5) -> None:
        self.most = most
        words = [*ONES, *TENS, "hundred", "thousand", "and", ";", *"0123456789"]
        self._ids = {word: number for number, word in enumerate(words, start=3)}
        self._words = {number: word for word, number in self._ids.items()}

    @property
    def d_vocab(self) -> int:
        """Tokens, padding, start and end included."""
        return 3 + len(self._ids)

    def pairs(self, n: int, *, seed: int) -> list[tuple[list[int], list[int]]]:
        """Sources and outputs, an end token behind each; the same ones for the same seed.

        Args:
            n: How many.
            seed: Of their choice.
        """
        draw = random.Random(seed)
        return [self._pair(draw) for _ in range(n)]

    def encode(self, text: str) -> list[int]:
        """Token ids of words separated by spaces, and the end token."""
        return [*(self._ids[word] for word in text.split()), self.END]

    def decode(self, ids: Sequence[int]) -> str:
        """Their words; special tokens fall out."""
        return " ".join(self._words[number] for number in ids if number in self._words)

    def _pair(self, draw: random.Random) -> tuple[list[int], list[int]]:
        numbers = [
            draw.randrange(10 ** draw.randint(1, 5)) for _ in range(draw.randint(2, self.most))
        ]
        source = " ; ".join(in_words(number) for number in numbers)
        output = " ; ".join(" ".join(str(number)) for number in numbers)
        return self.encode(source), self.encode(output)


def in_words(number: int) -> str:
    """A number below 100,000 in words, British style."""
    if number < 20:
        return ONES[number]
    if number < 100:
        rest = number % 10
        return TENS[number // 10 - 2] + (f" {ONES[rest]}" if rest else "")
    if number < 1000:
        rest = number % 100
        return f"{ONES[number // 100]} hundred" + (f" and {in_words(rest)}" if rest else "")
    rest = number % 1000
    joined = f" and {in_words(rest)}" if 0 < rest < 100 else f" {in_words(rest)}" if rest else ""
    return f"{in_words(number // 1000)} thousand{joined}"
