"""`fluoroscope completion`: what makes a shell complete commands, options and their values."""

from enum import StrEnum
from typing import Annotated

import typer

from ..running import Terminal


class Shell(StrEnum):
    """Shells there is a script for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


WHERE = {
    "bash": "echo 'eval \"$(fluoroscope completion bash)\"' >> ~/.bashrc",
    "zsh": "echo 'eval \"$(fluoroscope completion zsh)\"' >> ~/.zshrc",
    "fish": "fluoroscope completion fish > ~/.config/fish/completions/fluoroscope.fish",
}


def completion(
    terminal: Terminal,
    *,
    shell: Annotated[Shell, typer.Argument(help="The shell you type in.", show_default=False)],
) -> dict[str, str]:
    """Print the script that makes a shell complete commands, options, sites, engines and run files.

    The shell is named, not guessed: guessing from the parent process fails in containers. To keep
    it, put the line that standard error shows where your shell reads it.

    Example: fluoroscope completion bash

    Example: fluoroscope completion zsh
    """
    from typer.completion import get_completion_script  # pyright: ignore[reportPrivateImportUsage]

    script = get_completion_script(
        prog_name="fluoroscope", complete_var="_FLUOROSCOPE_COMPLETE", shell=shell.value
    )
    if not terminal.json:
        terminal.out.print(script, markup=False, highlight=False, soft_wrap=True)
    terminal.say(f"# to keep it: {WHERE[shell.value]}")
    return {"shell": shell.value, "script": script, "install": WHERE[shell.value]}
