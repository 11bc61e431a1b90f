"""How fast work goes and how long it still takes, as far as its reports tell; else nothing.

Library calls report (done, total) and may do so for several parts one after another, each counting from
its own beginning. So the speed is that of the part under way, measured from its first report: a resumed
part begins at what is there already, which took no time now. What is left is left of that part.
"""

from __future__ import annotations

MEASURE_S = 2.0
"""Seconds a part must have moved for before its speed is told."""


class Pace:
    """The speed of the part under way.

    Attributes:
        n_parts: Parts begun so far.
    """

    def __init__(self) -> None:
        self.n_parts = 0
        self._done, self._total = 0, None
        self._from_done, self._from_s = 0, 0.0

    def report(self, now_s: float, done: int, total: int | None) -> None:
        """Note a report.

        Args:
            now_s: Seconds on a clock that only goes forward.
            done: Units finished in this part.
            total: Units of this part; None where unknown.
        """
        finished = self._total is not None and self._done >= self._total and total != self._total
        if not self.n_parts or done < self._done or finished:
            self.n_parts += 1
            self._from_done, self._from_s = done, now_s
        elif done == self._from_done:  # nothing has moved yet: what went before is no part of it
            self._from_s = now_s
        self._done, self._total = done, total

    def per_second(self, now_s: float) -> float | None:
        """Units per second; None before they can be told."""
        passed = now_s - self._from_s
        if passed < MEASURE_S or self._done <= self._from_done:
            return None
        return (self._done - self._from_done) / passed

    def left_s(self, now_s: float) -> float | None:
        """Seconds until this part is done if it goes on like this; None before they can be told."""
        speed = self.per_second(now_s)
        if speed is None or self._total is None:
            return None
        return max(self._total - self._done, 0) / speed
