"""Options from a TOML file (`--config run.toml`).

    model = "path/to/model"          # for every command that has the option
    [capture]                        # for one command
    tokens = 20_000
    sites = ["layers.*.resid_post"]

What is typed on the command line wins over the command's own table, that over the keys above the
tables, that over the default. Keys are the long options, with - or _. A key that no command knows is
an error, so that a misspelt one cannot silently do nothing. The options a command ended up with are
stored in the run file it writes (`probes/runfile/invocations.py`).
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any

import typer

NOT_IN_A_FILE = {"help", "config", "json"}
"""These belong on the command line: they choose what kind of answer is wanted."""


def load(context: Any, path: Path | None) -> Path | None:
    """Callback of `--config`: make the file's values the defaults of the command.

    Args:
        context: typer's context of the command (its public class is not the one it makes).
        path: The file.

    Raises:
        BadParameter: The file cannot be read, or holds a key that nothing knows.
    """
    if path is None or context.resilient_parsing:
        return path
    held = _read(path)
    name = str(context.info_name)
    group = context.parent.command if context.parent is not None else None
    commands: dict[str, Any] = getattr(group, "commands", {name: context.command})
    own = held.pop(name, {}) if isinstance(held.get(name), dict) else {}
    everything = {option for command in commands.values() for option in options_of(command)}
    for key, value in held.items():
        if isinstance(value, dict):
            _require(key, commands, f"{path.name}: no command", "commands")
        else:
            _require(_plain(key), everything, f"{path.name}: no command has an option", "options")
    mine = options_of(context.command)
    for key in own:
        _require(_plain(key), mine, f"{path.name}: `{name}` has no option", "options")
    shared = {k: v for k, v in held.items() if not isinstance(v, dict) and _plain(k) in mine}
    defaults = {mine[_plain(key)]: value for key, value in (shared | own).items()}
    context.default_map = {**(context.default_map or {}), **defaults}
    return path


def options_of(command: Any) -> dict[str, str]:
    """Long options of a command, as written in a file (`max_new_tokens`), with their parameters."""
    found = {}
    for parameter in command.params:
        for option in parameter.opts:
            if option.startswith("--") and _plain(option[2:]) not in NOT_IN_A_FILE:
                found[_plain(option[2:])] = parameter.name
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise typer.BadParameter(
            f"{path} must be a TOML file; it cannot be read: {error}"
        ) from None


def _require(key: str, known: Any, what: str, plural: str) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=2)
    hint = (
        f"Did you mean: {', '.join(near)}?"
        if near
        else f"The {plural}: {', '.join(sorted(known))}."
    )
    raise typer.BadParameter(f"{what} {key!r}. {hint}")


def _plain(key: str) -> str:
    return key.replace("-", "_")
