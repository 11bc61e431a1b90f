"""What counts as source, and at which steps of the continuation one looks."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class DegenerationOptions:
    """A source, its continuation, and how closely both are looked at."""

    n_source: int = 64
    """Tokens at the beginning of each text that count as source."""
    n_target: int = 128
    """Tokens that follow; they are forced, never drawn, so that all measures see the same text."""
    n_sinks: int = 1
    """First positions left out of the sink-corrected mass."""
    n_probes: int = 4
    """Random directions per Jacobian norm (Hutchinson); its relative error falls as their root."""
    seed: int = 0
    """Draws the directions."""

    def __post_init__(self) -> None:
        if self.n_source < 2 or self.n_target < 2:
            raise OptionError(
                "n_source and n_target must be at least 2 tokens, got "
                f"{self.n_source} and {self.n_target}."
            )
        if not 0 <= self.n_sinks < self.n_source:
            raise OptionError(
                f"n_sinks must leave some of the {self.n_source} source positions, got "
                f"{self.n_sinks}."
            )
        if self.n_probes < 1:
            raise OptionError(f"n_probes must be at least 1, got {self.n_probes}.")

    @property
    def length(self) -> int:
        """Tokens of a whole text."""
        return self.n_source + self.n_target

    @property
    def steps(self) -> tuple[int, ...]:
        """Powers of two, and the last: how many target tokens the looked-at query has seen."""
        powers = [2**k for k in range(self.n_target.bit_length()) if 2**k < self.n_target]
        return (*powers, self.n_target)

    @property
    def queries(self) -> tuple[int, ...]:
        """Positions of those queries."""
        return tuple(self.n_source + step - 1 for step in self.steps)
