"""Progress for what takes over two seconds: a bar in a terminal, a line every 10 s in a log.

Everything goes to standard error, so that standard output holds results only. Library code knows
nothing of this file: it calls `progress(done, total, note)` whenever it likes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
)
from rich.text import Text

from .logfile import LogFile
from .pace import Pace

SHOW_AFTER_S = 2.0
LINE_EVERY_S = 10.0


class Tracker:
    """Counts one stage of work; `library_call(progress=tracker)` drives it.

    Args:
        title: What is going on.
        unit: What is counted.
        console: Where it is shown.
        log: Gets the lines too.
        in_parts: Whether the call counts several parts one after another, so that what is left of one
            is not what is left of all. Found out by itself when the second begins.
    """

    def __init__(
        self,
        title: str,
        unit: str,
        console: Console,
        log: LogFile | None = None,
        *,
        in_parts: bool = False,
    ) -> None:
        self.title, self.unit, self._console = title, unit, console
        self._log = log or LogFile()
        self._started = self._last_line = time.monotonic()
        self._pace, self._in_parts = Pace(), in_parts
        self._bar: Progress | None = None
        self._task = None

    def __call__(self, done: int, total: int | None = None, note: str = "") -> None:
        """Report that `done` of `total` units are finished.

        Args:
            done: Units finished so far.
            total: All units, or None where that is not known.
            note: A few words on what is happening, shown after the bar.
        """
        now = time.monotonic()
        self._pace.report(now, done, total)
        if now - self._started < SHOW_AFTER_S:
            return
        if self._console.is_terminal:
            self._show_bar(done, total, note)
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            of = f" of {total:,}" if total else ""
            told = f"{self.title}: {done:,}{of} {self.unit}"
            line = ", ".join(filter(None, (told, self.speed(now), self.left(now))))
            line += f" ({note})" if note else ""
            self._log.write("progress", line)
            if not self._console.is_terminal:
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def speed(self, now_s: float) -> str:
        """Units per second in words; empty before they can be told."""
        rate = self._pace.per_second(now_s)
        if rate is None:
            return ""
        return f"{f'{rate:,.0f}' if rate >= 10 else f'{rate:.2g}'} {self.unit}/s"

    def left(self, now_s: float) -> str:
        """Time left in words, of the part where there are several; empty before it can be told."""
        left = self._pace.left_s(now_s)
        if left is None:
            return ""
        several = self._in_parts or self._pace.n_parts > 1
        return f"{left:,.0f} s left{' of this part' if several else ''}"

    def _show_bar(self, done: int, total: int | None, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _PaceColumn(self),
                TextColumn("{task.fields[note]}", style="dim", markup=False),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(self.title, total=total, note=note)
            self._bar.start()
        assert self._task is not None
        self._bar.update(self._task, completed=done, total=total, note=note)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()


class _PaceColumn(ProgressColumn):
    """Speed and time left, as the lines tell them."""

    def __init__(self, tracker: Tracker) -> None:
        super().__init__()
        self._tracker = tracker

    def render(self, task: Task) -> Text:
        now = time.monotonic()
        told = filter(None, (self._tracker.speed(now), self._tracker.left(now)))
        return Text(", ".join(told), style="progress.data.speed")


@contextmanager
def track(
    title: str, unit: str, console: Console, log: LogFile | None = None, *, in_parts: bool = False
) -> Iterator[Tracker]:
    """A tracker that cleans up its bar on every way out."""
    tracker = Tracker(title, unit, console, log, in_parts=in_parts)
    try:
        yield tracker
    finally:
        tracker.close()
