"""What every command shares: one JSON envelope, exit codes, errors, signals, the two consoles.

Exit codes: 0 done; 1 a bug (the traceback is saved and its path printed); 2 wrong usage; 3 bad
input (file, model, site, option value); 4 a check failed; 5 stopped early, resumable; 130
interrupted and 143 terminated, both after what was done had been kept.
"""

from __future__ import annotations

import inspect
import json
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console

from .progress import Tracker, track

SCHEMA = "fluoroscope.cli/1"
DONE, BUG, USAGE, BAD_INPUT, CHECK_FAILED, INCOMPLETE, INTERRUPTED, TERMINATED = (
    0, 1, 2, 3, 4, 5, 130, 143,
)  # fmt: skip


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like Ctrl-C, so that work in hand is kept."""


@dataclass(kw_only=True)
class Terminal:
    """How a command talks: results on standard output, all else on standard error."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    out: Console = field(default_factory=Console)
    err: Console = field(default_factory=lambda: Console(stderr=True))
    files: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    exit_code: int = DONE

    def say(self, text: str) -> None:
        """A line about what is going on (standard error; not with --quiet or --json)."""
        if not (self.quiet or self.json):
            self.err.print(text, highlight=False, markup=False)

    def show(self, renderable: Any) -> None:
        """A result for a person (standard output; with --json the document replaces it)."""
        if not self.json:
            self.out.print(renderable)

    def wrote(self, path: Path | str) -> None:
        """Note a file this command wrote."""
        self.files.append(str(path))

    def track(self, title: str, unit: str) -> AbstractContextManager[Tracker]:
        """A progress tracker for one stage."""
        console = Console(stderr=True, quiet=True) if self.quiet else self.err
        return track(title, unit, console)


Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no remarks.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")]


def command(app: typer.Typer, function: Callable[..., Any]) -> None:
    """Register `function` and give it the options and manners all commands share.

    Args:
        app: The application to register with.
        function: Takes a `Terminal` first, then its options; returns what `--json` prints as
            `result`. Its docstring is the help text.
    """

    def run(*, json: bool, quiet: bool, verbose: bool, **options: Any) -> None:
        terminal = Terminal(json=json, quiet=quiet, verbose=verbose)
        code = _run(function.__name__, partial(function, terminal, **options), terminal)
        if code != DONE:
            raise typer.Exit(code)

    shared = {"json": Json, "quiet": Quiet, "verbose": Verbose}
    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in shared.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = function.__doc__
    app.command(function.__name__)(run)


def _run(name: str, body: Callable[[], Any], terminal: Terminal) -> int:
    started = time.perf_counter()
    result, failure = None, None
    with warnings.catch_warnings(record=True) as caught, _terminate_as_interrupt():
        warnings.simplefilter("default")
        try:
            result = body()
            code = terminal.exit_code
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - sorted into exit codes here
            code, failure = _explain(error, terminal)
    terminal.warnings += [str(w.message) for w in caught if w.category is not DeprecationWarning]
    for warning in terminal.warnings:
        terminal.say(f"warning: {warning}")
    if terminal.json:
        document = envelope(
            name,
            result=result,
            error=failure,
            ok=code == DONE,
            warnings=terminal.warnings,
            files=terminal.files,
            seconds=round(time.perf_counter() - started, 3),
        )
        print_json(document)
    return code


def envelope(
    command: str | None,
    *,
    result: Any = None,
    error: dict[str, str] | None = None,
    ok: bool = False,
    warnings: Sequence[str] = (),
    files: Sequence[str] = (),
    seconds: float = 0.0,
) -> dict[str, Any]:
    """The document `--json` prints, for successes and failures alike."""
    return {
        "schema": SCHEMA,
        "command": command,
        "ok": ok,
        "result": result,
        "error": error,
        "warnings": list(warnings),
        "files": list(files),
        "seconds": seconds,
    }


def print_json(document: dict[str, Any]) -> None:
    """The one JSON document of a `--json` call, on standard output."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def _explain(error: BaseException, terminal: Terminal) -> tuple[int, dict[str, str]]:
    from .probes.errors import FluoroscopeError, IncompleteError

    message = str(error)
    if isinstance(error, KeyboardInterrupt):
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
        message = "Stopped. What was finished is kept; the same command picks up there."
    elif isinstance(error, IncompleteError):
        code = INCOMPLETE
    elif isinstance(error, FluoroscopeError):
        code = BAD_INPUT
    else:
        code = BUG
        message = f"{message} (a bug in fluoroscope; traceback in {_save_traceback(error)})"
    if terminal.verbose:
        terminal.err.print("".join(traceback.format_exception(error)), markup=False)
    if not terminal.json:
        line = (
            message if code in (INTERRUPTED, TERMINATED) else f"{type(error).__name__}: {message}"
        )
        terminal.err.print(line, highlight=False, markup=False, soft_wrap=True)
    return code, {"type": type(error).__name__, "message": message}


def _save_traceback(error: BaseException) -> Path:
    with tempfile.NamedTemporaryFile(
        "w", prefix="fluoroscope-", suffix=".traceback.txt", delete=False, encoding="utf-8"
    ) as file:
        file.write("".join(traceback.format_exception(error)))
    return Path(file.name)


@contextmanager
def _terminate_as_interrupt() -> Iterator[None]:
    """While it lasts, SIGTERM raises `Terminated` in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _raise_terminated(signum: int, frame: FrameType | None) -> None:
    raise Terminated
