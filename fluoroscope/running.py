"""What every command shares: one JSON envelope, exit codes, errors, signals, the options of all.

Exit codes: 0 done; 1 a bug (the traceback is saved and its path printed); 2 wrong usage; 3 bad
input (file, model, site, option value); 4 a check failed; 5 stopped early, resumable; 130
interrupted and 143 terminated, both after what was done had been kept.

No command asks anything while it runs, so there is no `--no-input`.
"""

from __future__ import annotations

import inspect
import json
import shlex
import signal
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from .configuration import load
from .logfile import Format, LogFile
from .recording import record
from .terminal import DONE, Terminal, harmless

SCHEMA = "fluoroscope.cli/1"
BUG, USAGE, BAD_INPUT, CHECK_FAILED, INCOMPLETE, INTERRUPTED, TERMINATED = 1, 2, 3, 4, 5, 130, 143

__all__ = [
    "BAD_INPUT",
    "BUG",
    "CHECK_FAILED",
    "DONE",
    "INCOMPLETE",
    "INTERRUPTED",
    "SCHEMA",
    "TERMINATED",
    "USAGE",
    "Terminal",
    "Terminated",
    "command",
    "envelope",
    "print_json",
]


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; handled like Ctrl-C, so that work in hand is kept."""


def _shared(*flags: str, help: str, **more: Any) -> Any:
    return typer.Option(*flags, help=help, rich_help_panel="In every command", **more)


SHARED: dict[str, tuple[Any, Any]] = {
    "json": (
        Annotated[
            bool, _shared("--json", help="Print exactly one JSON document, also on failure.")
        ],
        False,
    ),
    "config": (
        Annotated[
            Path | None,
            _shared(
                "--config",
                help="TOML file with options: those of one command in a table of its name, those of "
                "all above. The command line wins.",
                is_eager=True,
                callback=load,
            ),
        ],
        None,
    ),
    "quiet": (
        Annotated[bool, _shared("--quiet", "-q", help="No progress and no remarks, only results.")],
        False,
    ),
    "verbose": (
        Annotated[
            int,
            _shared(
                "--verbose",
                "-v",
                count=True,
                help="-v shows tracebacks of errors and where warnings come from; -vv also what "
                "libraries log.",
            ),
        ],
        0,
    ),
    "log_file": (
        Annotated[
            Path | None,
            _shared(
                "--log-file", help="Append remarks, progress, warnings and errors to this file."
            ),
        ],
        None,
    ),
    "log_format": (
        Annotated[Format, _shared("--log-format", help="json is one object a line.")],
        "text",
    ),
    "no_color": (
        Annotated[
            bool,
            _shared("--no-color", help="No colours; the same as NO_COLOR=1 in the environment."),
        ],
        False,
    ),
}
"""Options of every command: annotation and default by name."""


def command(app: typer.Typer, function: Callable[..., Any]) -> None:
    """Register `function` and give it the options and manners all commands share.

    Args:
        app: The application to register with.
        function: Takes a `Terminal` first, then its options; returns what `--json` prints as
            `result`. Its docstring is the help text; paragraphs that begin with "Example: " end
            the help page.
    """

    def run(**given: Any) -> None:
        shared = {name: given.pop(name) for name in SHARED}
        terminal = _terminal(shared)
        code = _run(function.__name__, partial(function, terminal, **given), terminal, given)
        if code != DONE:
            raise typer.Exit(code)

    own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in SHARED.items()
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    examples = [part for part in paragraphs if part.startswith(EXAMPLE)]
    run.__doc__ = "\n\n".join(part for part in paragraphs if part not in examples)
    epilog = "\n\n".join(f"{EXAMPLE}`{part.removeprefix(EXAMPLE)}`" for part in examples)
    app.command(function.__name__, cls=_Command, epilog=epilog)(run)


EXAMPLE = "Example: "


class _Command(TyperCommand):
    """A command that answers words it has no place for with a call as it should be."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.TyperException as error:
            first = (self.epilog or "").partition("\n\n")[0].replace("`", "")
            if first and "unexpected extra argument" in error.message:
                error.message = f"{error.message.rstrip('.')}. {first}"
            raise


def _terminal(shared: dict[str, Any]) -> Terminal:
    try:
        log = LogFile(shared["log_file"], shared["log_format"])
    except OSError as error:
        raise typer.BadParameter(f"--log-file cannot be written: {error}") from None
    return Terminal(
        json=shared["json"],
        quiet=shared["quiet"],
        verbose=shared["verbose"],
        no_color=shared["no_color"],
        log=log,
    )


def _run(name: str, body: Callable[[], Any], terminal: Terminal, options: dict[str, Any]) -> int:
    started = time.perf_counter()
    result, failure = None, None
    log = terminal.log
    log.write("start", shlex.join(["fluoroscope", *sys.argv[1:]]))
    with (
        warnings.catch_warnings(record=True) as caught,
        _terminate_as_interrupt(),
        log.libraries(shown=terminal.verbose > 1, own=terminal.heard),
    ):
        warnings.simplefilter("default")
        try:
            result = body()
            code = terminal.exit_code
            record(terminal, name, options)
        except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - sorted into exit codes here
            code, failure = _explain(error, terminal)
    terminal.warnings += [str(w.message) for w in caught if w.category is not DeprecationWarning]
    where = {str(w.message): f" ({w.filename}:{w.lineno})" for w in caught}
    for warning in terminal.warnings:
        terminal.warn(warning, where=where.get(warning, ""))
    seconds = round(time.perf_counter() - started, 3)
    log.write("end", name, code=code, seconds=seconds)
    if terminal.json:
        document = envelope(
            name,
            result=result,
            error=failure,
            ok=code == DONE,
            warnings=terminal.warnings,
            files=terminal.files,
            seconds=seconds,
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
    terminal.log.write("error", "".join(traceback.format_exception(error)).rstrip())
    if terminal.verbose:
        terminal.err.print("".join(traceback.format_exception(error)), highlight=False)
    if not terminal.json:
        line = (
            message if code in (INTERRUPTED, TERMINATED) else f"{type(error).__name__}: {message}"
        )
        terminal.err.print(harmless(line), highlight=False, soft_wrap=True)
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
