"""A statement of the verdict, and the words it may use about how sure it is.

The rules are fixed, so that a sentence is as firm as its numbers: a rank is claimed only where
intervals do not meet, every sentence says what its interval is over or that there is none, and what was
measured on few texts says so.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

FEW = 8
"""Texts, prompts or documents below which a sentence says that they are few."""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One sentence of the verdict."""

    question: str
    """What it answers; sentences of one question stand together."""
    text: str
    """The sentence, computed from stored numbers."""
    uncertainty: str
    """How sure it is: what the interval is over, how much was measured, what it does not show."""
    figure: str
    """Id of the figure (or section) of the page that shows it."""
    source: str
    """Path in the run file of the numbers."""

    def as_dict(self) -> dict[str, str]:
        """All parts, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.text} ({self.uncertainty})"


@dataclass(frozen=True)
class Interval:
    """A number with its bounds; bounds are NaN where there are none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def bounded(self) -> bool:
        """Whether it has bounds."""
        return self.low == self.low and self.high == self.high

    def apart_from(self, other: Interval) -> bool:
        """Whether both have bounds and these do not meet."""
        both = self.bounded and other.bounded
        return both and (self.low > other.high or other.low > self.high)

    def excludes(self, value: float) -> bool:
        """Whether it has bounds and they leave out a value."""
        return self.bounded and not self.low <= value <= self.high

    def text(self, form: str) -> str:
        """The number and its bounds by a format: "2.43 (2.11 to 2.68)"."""
        shown = form.format(self.value)
        if not self.bounded:
            return shown
        return f"{shown} ({form.format(self.low)} to {form.format(self.high)})"


def counted(n: int, what: str) -> str:
    """How much was measured, and that it is little where it is: "4 texts, which is few"."""
    name = what if n != 1 else what.removesuffix("s")
    return f"{n:,} {name}" + (", which is few" if n < FEW else "")


def over(n: int, what: str, *, level: str = "95 % bootstrap") -> str:
    """What an interval is over: "95 % bootstrap over 16 documents"."""
    return f"{level} over {counted(n, what)}"


def unbounded(n: int, what: str) -> str:
    """That a number has no interval, and what it was measured on."""
    return f"no interval; {counted(n, what)}"


def basis(estimate: Interval, n: int, what: str) -> str:
    """What an interval is over, or that there is none, by whether the estimate has one."""
    return over(n, what) if estimate.bounded else unbounded(n, what)


def listed(names: list[str], most: int = 4) -> str:
    """Names as running text: "a, b and c"; beyond `most`, how many more."""
    shown = names[:most]
    if len(names) > most:
        return f"{', '.join(shown)} and {len(names) - most} more"
    return " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
