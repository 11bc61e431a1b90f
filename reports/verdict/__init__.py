"""The verdict: plain sentences computed from what a run file holds, each with its uncertainty.

One file per question. Nothing is claimed that the run file does not hold: a question whose results are
absent has no sentence, and of a result or a trace that cannot be made sense of a sentence says so while
the others stand.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...probes.runfile import Run
from .engine import engine
from .experts import experts
from .held import Held, read_held
from .information import information
from .others import others
from .residual import residual
from .sinks import sinks
from .statement import Statement
from .superposition import superposition

QUESTIONS = (residual, sinks, experts, superposition, information, engine, others)
"""One function per question, in the order of the page."""


def verdict_of(run: Run, only: Iterable[str] | None = None) -> tuple[Statement, ...]:
    """What a run file's results come to, question by question.

    Args:
        run: A run file.
        only: Names of results and traces to speak of; None for all.

    Raises:
        DamagedRunFileError: A result cannot be read; the message names it.

    Example:
        >>> for statement in verdict_of(open_run("run.h5")):  # doctest: +SKIP
        ...     print(statement)
    """
    held = read_held(run, None if only is None else frozenset(only))
    return statements(held)


def statements(held: Held) -> tuple[Statement, ...]:
    """The sentences that follow from what is held."""
    return tuple(statement for question in QUESTIONS for statement in question(held))


def by_question(found: Iterable[Statement]) -> list[tuple[str, list[Statement]]]:
    """Sentences of one question together, in the order in which questions first come up."""
    groups: dict[str, list[Statement]] = {}
    for statement in found:
        groups.setdefault(statement.question, []).append(statement)
    return list(groups.items())


def as_text(found: Iterable[Statement]) -> str:
    """The verdict for a terminal: questions, sentences below them, how sure each is in brackets."""
    lines: list[str] = []
    for question, those in by_question(found):
        lines += [
            "",
            question,
            *(f"  - {statement.text}\n    ({statement.uncertainty})" for statement in those),
        ]
    return "\n".join(lines[1:])


__all__ = ["Held", "Statement", "as_text", "by_question", "statements", "verdict_of"]
