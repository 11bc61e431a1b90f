"""Following a run that is still being written: its page is drawn again whenever the run file changed.

Run files are only ever replaced whole, so whatever is read is a state some writer committed. A page is
drawn from one such state; where the file was replaced meanwhile and what was read from both does not
fit, it is drawn again. A file that cannot be read (a copy still under way) is waited for; the last
whole page stays. No server is needed: the page reads itself again (`report.js`; without a script, by
a refresh in its head), and stops when it is no longer followed.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..probes.errors import FluoroscopeError, NotARunFileError, OptionError
from ..probes.runfile import open_run
from ..probes.runfile.atomic import replacing
from .page import build_report

MARK = re.compile(r"<!--follow-->.*?<!--/follow-->\n?", re.DOTALL)
"""What of a page belongs to following; no text of a run can hold it, for `<` is escaped there."""
Signature = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What came of looking at a run file that had changed."""

    problem: str = ""
    """Why no page was drawn; empty where one was."""
    complete: bool = False
    """Whether everything asked for has been captured."""
    n_bytes: int = 0
    """Size of the page."""
    seconds: float = 0.0
    """How long drawing took."""


def follow_run(
    run: Path,
    page: Path,
    *,
    every_s: float = 10.0,
    sleep: Callable[[float], None] = time.sleep,
    **options: Any,
) -> Generator[Drawn]:
    """Draw a run's page whenever the run file has changed. Endless; closing it lets the page rest.

    Args:
        run: The run file; it need not be there yet.
        page: The page, whole at every moment.
        every_s: Seconds between two looks at the file, and between two of the page at itself.
        sleep: Waits; other than `time.sleep` in tests.
        **options: As of `build_report`.

    Yields:
        What came of each change. A file that is missing or cannot be read is a problem, told once.

    Raises:
        NotARunFileError: The file is some other file.
        OptionError: An option is wrong, or the page is larger than it may be.
    """
    drawn: Signature | None = None
    told = ""
    try:
        while True:
            seen = _signature(run)
            if seen is None:
                outcome = Drawn(problem=f"There is no {run.name} yet.")
            elif seen == drawn:
                sleep(every_s)
                continue
            else:
                outcome, read = _draw(run, page, seen, every_s, options)
                drawn = None if outcome.problem else read
            if not outcome.problem or outcome.problem != told:
                yield outcome
            told = outcome.problem
            if outcome.problem:
                sleep(every_s)
    finally:
        settle(page)


def settle(page: Path) -> None:
    """Let a page rest: it no longer reads itself again. Everything else of it stays as it is."""
    if page.is_file():
        text = page.read_text(encoding="utf-8")
        if MARK.search(text):
            with replacing(page) as partial:
                partial.write_text(MARK.sub("", text), encoding="utf-8")


def _draw(
    run: Path, page: Path, seen: Signature, every_s: float, options: dict[str, Any]
) -> tuple[Drawn, Signature]:
    """A page from the file's present state, or a later one if it changes meanwhile; and which."""
    while True:
        started = time.monotonic()
        try:
            opened = open_run(run)
            build_report(opened, page, refresh_s=every_s, **options)
        except (NotARunFileError, OptionError):
            raise
        except Exception as error:
            now = _signature(run)
            if now != seen and now is not None:
                seen = now
                continue
            if not isinstance(error, FluoroscopeError | OSError):
                raise
            return Drawn(problem=f"No page of {run.name} could be drawn yet: {error}"), seen
        seconds = time.monotonic() - started
        n_bytes = page.stat().st_size
        return Drawn(complete=opened.complete, n_bytes=n_bytes, seconds=seconds), seen


def _signature(path: Path) -> Signature | None:
    try:
        held = path.stat()
    except FileNotFoundError:
        return None
    return held.st_mtime_ns, held.st_size, held.st_ino
