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
    TimeRemainingColumn,
)
from rich.text import Text

from .logfile import LogFile

SHOW_AFTER_S = 2.0
LINE_EVERY_S = 10.0


class Tracker:
    """Counts one stage of work; `library_call(progress=tracker)` drives it."""

    def __init__(self, title: str, unit: str, console: Console, log: LogFile | None = None) -> None:
        self.title, self.unit, self._console = title, unit, console
        self._log = log or LogFile()
        self._started = self._last_line = time.monotonic()
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
        if now - self._started < SHOW_AFTER_S:
            return
        if self._console.is_terminal:
            self._show_bar(done, total, note)
        if now - self._last_line >= LINE_EVERY_S:
            self._last_line = now
            line = _line(self.title, self.unit, done, total, now - self._started, note)
            self._log.write("progress", line)
            if not self._console.is_terminal:
                self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _show_bar(self, done: int, total: int | None, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                _RateColumn(self.unit, self._started),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[note]}"),
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


def _line(title: str, unit: str, done: int, total: int | None, seconds: float, note: str) -> str:
    """How far the work is, how fast it goes and how long it will still take."""
    rate = done / max(seconds, 1e-9)
    speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    of, left = (f" of {total:,}", "") if total else ("", "")
    if total and done:
        left = f", {max(total - done, 0) / rate:,.0f} s left"
    after = f" ({note})" if note else ""
    return f"{title}: {done:,}{of} {unit}, {speed} {unit}/s{left}{after}"


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str, started: float) -> None:
        super().__init__()
        self._unit, self._started = unit, started

    def render(self, task: Task) -> Text:
        rate = task.completed / max(time.monotonic() - self._started, 1e-9)
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return Text(f"{speed} {self._unit}/s", style="progress.data.speed")


@contextmanager
def track(title: str, unit: str, console: Console, log: LogFile | None = None) -> Iterator[Tracker]:
    """A tracker that cleans up its bar on every way out."""
    tracker = Tracker(title, unit, console, log)
    try:
        yield tracker
    finally:
        tracker.close()
