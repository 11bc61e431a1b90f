"""How a command talks: results on standard output, all else on standard error and in the log file."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from .logfile import LogFile
from .progress import Tracker, track

DONE = 0


@dataclass(kw_only=True)
class Terminal:
    """What a command prints to. Results for a person, for `--json`, remarks and progress are apart."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    no_color: bool = False
    log: LogFile = field(default_factory=LogFile)
    out: Console = field(init=False)
    err: Console = field(init=False)
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exit_code: int = DONE

    def __post_init__(self) -> None:
        # Without colour rich still draws bold and dim; an unset flag leaves NO_COLOR to rich.
        plain = True if self.no_color else None
        # What is printed holds names, paths and tokens: "[/INST]" is no markup, ":x:" no picture.
        self.out = Console(no_color=plain, markup=False, emoji=False)
        self.err = Console(stderr=True, no_color=plain, markup=False, emoji=False)

    def say(self, text: str) -> None:
        """A line about what is going on (standard error; not with --quiet or --json)."""
        self.log.write("info", text)
        self._remark(text)

    def warn(self, text: str, *, where: str = "") -> None:
        """A warning, and with -v where it comes from."""
        self.log.write("warning", text)
        self._remark(f"warning: {text}{where if self.verbose else ''}")

    def heard(self, level: str, text: str) -> None:
        """Something the package itself logged: a remark at once, or a warning at the end."""
        if level == "info":
            self.say(text)
        else:
            self.warnings.append(text)

    def _remark(self, text: str) -> None:
        if not (self.quiet or self.json):
            self.err.print(harmless(text), highlight=False)

    def show(self, renderable: Any) -> None:
        """A result for a person (standard output; with --json the document replaces it).

        A table that does not go to a terminal is written as tab-separated lines, whole: no frame,
        nothing wrapped or cut.
        """
        if self.json:
            return
        if isinstance(renderable, Table) and not self.out.is_terminal:
            for line in as_lines(renderable):
                self.out.print(line, highlight=False, soft_wrap=True)
            return
        if isinstance(renderable, str):
            renderable = harmless(renderable)
        elif isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = harmless(renderable.plain)
        self.out.print(renderable, soft_wrap=not self.out.is_terminal)

    def wrote(self, path: Path | str) -> None:
        """Note a file this command wrote."""
        self.files.append(str(path))

    def track(
        self, title: str, unit: str, *, in_parts: bool = False
    ) -> AbstractContextManager[Tracker]:
        """A progress tracker for one library call.

        Args:
            title: What is going on.
            unit: What is counted.
            in_parts: Whether the call counts several parts one after another.
        """
        console = Console(stderr=True, quiet=True) if self.quiet else self.err
        return track(title, unit, console, self.log, in_parts=in_parts)


_STEERING = dict.fromkeys(
    [*range(9), *range(11, 32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)],
    "\ufffd",
)
"""Control characters but tab and line break, and those that turn the direction of writing."""


def harmless(text: str) -> str:
    """Text that cannot steer the terminal: what a model wrote may hold escape sequences."""
    return text.translate(_STEERING)


def as_lines(table: Table) -> list[str]:
    """A table as tab-separated lines, its header first where it shows one."""
    columns = [[_flat(cell) for cell in column.cells] for column in table.columns]
    rows = list(zip(*columns, strict=True)) if columns else []
    if table.show_header:
        rows.insert(0, tuple(_flat(column.header) for column in table.columns))
    return ["\t".join(row).rstrip() for row in rows]


def _flat(cell: Any) -> str:
    return harmless("; ".join(str(cell).splitlines()).replace("\t", " "))
