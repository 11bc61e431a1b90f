"""The log file of a command (`--log-file`): what it said, its progress, warnings, errors, its end.

Lines are appended, so that an interrupted command and its continuation stand one under the other.
Times are UTC. Results are not in it: they are on standard output and in the files written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Format = Literal["text", "json"]
OWN = "fluoroscope"
"""Name above all loggers of this package."""


class LogFile:
    """Where lines go; nowhere without a path.

    Args:
        path: The file; its folder is made.
        kind: "text" for `time level message`, "json" for one JSON object a line.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path | None = None, kind: Format = "text") -> None:
        self._path, self._kind = path, kind
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def write(self, level: str, message: str, **fields: Any) -> None:
        """Append one entry.

        Args:
            level: "info", "progress", "warning", "error", "start" or "end".
            message: What happened; it may have several lines.
            fields: More to tell; `key=value` at the end of a text line.
        """
        if self._path is None:
            return
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        if self._kind == "json":
            entry = {"time": time, "level": level, "message": message} | fields
            line = json.dumps(entry, ensure_ascii=False, default=str)
        else:
            more = "".join(f" {key}={value}" for key, value in fields.items())
            line = f"{time} {level:<8} {message}{more}"
        with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(line + "\n")

    @contextmanager
    def libraries(self, *, shown: bool, own: Callable[[str, str], None]) -> Iterator[None]:
        """While it lasts, what libraries log from level INFO on is written too.

        Args:
            shown: Whether it also goes to standard error (`-vv`).
            own: Takes level and message of what this package logs itself, for people to read.
        """
        handlers: list[logging.Handler] = []
        if self._path is not None:
            handlers.append(_Forward(self._write_others))
        if shown:
            handlers.append(logging.StreamHandler())
        with ExitStack() as stack:
            stack.enter_context(_listening(logging.getLogger(), handlers))
            ours = [_Forward(lambda record: own(_level(record), record.getMessage()))]
            stack.enter_context(_listening(logging.getLogger(OWN), ours))
            yield

    def _write_others(self, record: logging.LogRecord) -> None:
        if record.name.partition(".")[0] != OWN:
            self.write(_level(record), record.getMessage(), logger=record.name)


@contextmanager
def _listening(logger: logging.Logger, handlers: Sequence[logging.Handler]) -> Iterator[None]:
    level = logger.level
    try:
        for handler in handlers:
            logger.addHandler(handler)
        if handlers:
            logger.setLevel(logging.INFO)
        yield
    finally:
        logger.setLevel(level)
        for handler in handlers:
            logger.removeHandler(handler)


def _level(record: logging.LogRecord) -> str:
    return record.levelname.lower()


class _Forward(logging.Handler):
    def __init__(self, take: Callable[[logging.LogRecord], None]) -> None:
        super().__init__(logging.INFO)
        self._take = take

    def emit(self, record: logging.LogRecord) -> None:
        self._take(record)
