"""The log file of a command (`--log-file`): what it said, its progress, warnings, errors, its end.

Lines are appended, so that an interrupted command and its continuation stand one under the other.
Times are UTC. Results are not in it: they are on standard output and in the files written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Format = Literal["text", "json"]


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
    def libraries(self, *, shown: bool) -> Iterator[None]:
        """While it lasts, what libraries log from level INFO on is written too.

        Args:
            shown: Whether it also goes to standard error (`-vv`).
        """
        handlers: list[logging.Handler] = []
        if self._path is not None:
            handlers.append(_Forward(self))
        if shown:
            handlers.append(logging.StreamHandler())
        root = logging.getLogger()
        level = root.level
        try:
            for handler in handlers:
                root.addHandler(handler)
            if handlers:
                root.setLevel(logging.INFO)
            yield
        finally:
            root.setLevel(level)
            for handler in handlers:
                root.removeHandler(handler)


class _Forward(logging.Handler):
    def __init__(self, log: LogFile) -> None:
        super().__init__(logging.INFO)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log.write(record.levelname.lower(), record.getMessage(), logger=record.name)
