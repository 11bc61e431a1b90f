"""The effective options of a command, kept in the run file it wrote.

Provenance says what the run came from; this says what was asked for later too (a lens, a probe, a
generation), with every option as it was in the end, wherever it came from: command line, configuration
file or default. Of paths only the last part is kept.
"""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from .terminal import Terminal


def record(terminal: Terminal, name: str, options: dict[str, Any]) -> None:
    """Note the command in every run file it wrote; a second of the same changes nothing.

    Args:
        terminal: Holds the files written.
        name: The command.
        options: Its options as it got them.
    """
    written = [
        path for path in map(Path, terminal.files) if path.suffix == ".h5" and path.is_file()
    ]
    if not written:
        return
    from .probes import open_run
    from .probes.errors import FluoroscopeError, NotARunFileError
    from .probes.ranks import this_rank
    from .probes.runfile.invocations import Invocation, add_invocation

    if not this_rank().is_first:
        return
    kept = {key: _bare(value) for key, value in options.items() if _counts(value)}
    for path in written:
        try:
            add_invocation(open_run(path), Invocation(name, kept))
        except NotARunFileError:
            continue
        except FluoroscopeError as error:
            terminal.warnings.append(f"The options were not noted in {path.name}: {error}")


def _counts(value: Any) -> bool:
    return value is not None and value is not False and value != []


def _bare(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bare(item) for item in value]
    if isinstance(value, PurePath) or (isinstance(value, str) and _is_path(value)):
        return PurePath(value).name
    return value


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~")) and "\n" not in text and " " not in text
