"""Which generated words neither the reference nor the source accounts for, by step (arXiv 2304.04052).

    HR_i = 1 - sum_j max(1[t_ji in ref_j], max over p in s_j of C[p, t_ji]) / #{j : |t_j| >= i}
    C[p, q] = sigmoid((count(p, q) - alpha) / beta)

over texts j with source s_j, reference ref_j and generated words t_j; count(p, q) is the number of
other texts whose source holds p and whose continuation holds q. A word is a run of letters, case
aside, read off decoded text, so that pieces of words are whole again.

Deviations: the paper's alpha and beta could not be read; 1 and 1 are public third-party code's. With
them a word that was never seen with the source still counts as sigmoid(-1) = 0.27 accounted for, so
the ratio cannot exceed 0.73. That code reduces counts to whether a word occurs at all; here
they are counts.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

from ..errors import OptionError

WORD = re.compile(r"[^\W\d_]+")


def words_of(text: str) -> list[str]:
    """Words in order, letters only, case aside."""
    return WORD.findall(text.casefold())


class CoOccurrence:
    """How often words of a source go with words of what follows it.

    Args:
        pairs: Source and continuation of each text that is counted; none of those that are judged.
        alpha: Count that accounts for a word by half.
        beta: Counts over which that grows to nearly all.

    Raises:
        OptionError: `beta` is not positive.
    """

    def __init__(
        self, pairs: Iterable[tuple[str, str]], *, alpha: float = 1.0, beta: float = 1.0
    ) -> None:
        if beta <= 0:
            raise OptionError(f"beta must be positive, got {beta}.")
        self.alpha, self.beta, self.n_pairs = alpha, beta, 0
        self._counts: Counter[tuple[str, str]] = Counter()
        for source, continuation in pairs:
            self.n_pairs += 1
            after = set(words_of(continuation))
            self._counts.update((p, q) for p in set(words_of(source)) for q in after)

    def count(self, source_word: str, word: str) -> int:
        """Texts that hold both, each in its part."""
        return self._counts[source_word, word]

    def accounted(self, source: str, word: str) -> float:
        """Largest C[p, word] over the source's words p; 0 where it has none."""
        counts = [self._counts[p, word] for p in set(words_of(source))]
        if not counts:
            return 0.0
        return 1 / (1 + math.exp(-(max(counts) - self.alpha) / self.beta))


def unaccounted(
    sources: Sequence[str],
    references: Sequence[str],
    generated: Sequence[str],
    table: CoOccurrence,
) -> Float[np.ndarray, "texts words"]:
    """What is left of every generated word: 0 in the reference, else 1 - max C; NaN past the end.

    The mean of a column over texts is HR_i.

    Args:
        sources: Source of each text.
        references: How the text truly goes on.
        generated: How the model goes on.
        table: Counts over other texts.
    """
    written = [words_of(text) for text in generated]
    found = np.full((len(written), max(map(len, written), default=0)), np.nan)
    for row, (source, reference, own) in enumerate(zip(sources, references, written, strict=True)):
        known = set(words_of(reference))
        for place, word in enumerate(own):
            found[row, place] = 0.0 if word in known else 1 - table.accounted(source, word)
    return found
