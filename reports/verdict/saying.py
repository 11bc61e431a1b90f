"""A sentence where the numbers allow one; where they do not, a sentence that says so in its place.

One result that cannot be made sense of (of another version, without rows, without a finite number)
costs the verdict its own sentences and no others.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence

from ..section import UNREADABLE, Stored, told
from ..tokens import label
from .held import Held
from .statement import Statement

Made = Statement | Sequence[Statement]
_NOT_FINITE = re.compile(r"\b(nan|inf)\b")


def each(
    held: Held, kind: str, make: Callable[[Stored], Made], *, question: str
) -> list[Statement]:
    """What every result of a kind comes to.

    Args:
        held: What the run file holds.
        kind: Kind of result.
        make: Makes its sentences.
        question: Where a sentence stands that says there is none.
    """
    return [
        statement
        for stored in held.of(kind)
        for statement in said(
            lambda stored=stored: make(stored),
            question=question,
            name=stored.name,
            figure=stored.name,
            source=stored.source,
        )
    ]


def said(
    make: Callable[[], Made], *, question: str, name: str, figure: str, source: str
) -> list[Statement]:
    """The sentences that `make` gives, or one that tells why there is none.

    Args:
        make: Makes them.
        question: What they answer.
        name: What they are about.
        figure: Id of the figure or section that shows it.
        source: Its path in the run file.
    """

    def unsayable(why: str) -> Statement:
        return Statement(
            question=question,
            text=f"What {label(name)} comes to cannot be said: {why}.",
            uncertainty="nothing is claimed of it",
            figure=figure,
            source=source,
        )

    try:
        with warnings.catch_warnings():  # means over nothing; they are seen below
            warnings.simplefilter("ignore", RuntimeWarning)
            made = make()
    except UNREADABLE as error:
        return [unsayable(told(error).rstrip("."))]
    found = [made] if isinstance(made, Statement) else list(made)
    return [
        unsayable("its numbers are not finite") if _NOT_FINITE.search(one.text) else one
        for one in found
    ]
