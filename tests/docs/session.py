"""Runs a page's blocks in order, in a folder of its own, as a reader would."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
import traceback
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.docs.blocks import TOLERANCE, Block, difference

WARM = ("torch", "transformers", "fluoroscope.probes", "fluoroscope.decoding", "tests.docs.session")
"""Imported once; every page's Python is forked from there."""


def serve(channel: Connection, folder: str, environment: dict[str, str]) -> None:
    """A page's Python: takes blocks, answers with what they printed and what they raised."""
    os.chdir(folder)
    os.environ.update(environment)
    sys.path.insert(0, folder)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    while True:
        where, text = channel.recv()
        out, failed = io.StringIO(), None
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(text, where, "exec"), namespace)
        except BaseException as error:  # noqa: BLE001 - whatever a block raises is its answer
            failed = (type(error).__name__, str(error), traceback.format_exc())
        channel.send((out.getvalue(), failed))


class Session:
    """One reader of one page."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        bin_folder = Path(sys.executable).parent
        self._environment = {
            **os.environ,
            "PATH": f"{bin_folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "NO_COLOR": "1",
            "COLUMNS": "100",
        }
        self._python: tuple[BaseProcess, Connection] | None = None
        self._output = ""

    @property
    def output(self) -> str:
        """Standard output of the last block that ran."""
        return self._output

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._python is not None:
            self._python[0].kill()
            self._python[0].join()
            self._python[1].close()

    def take(self, block: Block) -> str | None:
        """Run, write or compare a block; what is wrong, or None."""
        name = block.mark("file")
        if name is not None:
            (self._folder / name).write_text(block.text, encoding="utf-8")
            return None
        if block.is_output:
            within = float(block.mark("within") or TOLERANCE)
            return difference(block.text, self._output, within=within)
        if not block.runs:
            return None
        return self._bash(block) if block.language == "bash" else self._run_python(block)

    def _bash(self, block: Block) -> str | None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.text],
            cwd=self._folder, env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        wanted = int(block.mark("exit") or 0)
        self._output = done.stdout if wanted == 0 else done.stdout + done.stderr
        if done.returncode != wanted:
            return f"ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return None

    def _run_python(self, block: Block) -> str | None:
        process, channel = self._process()
        channel.send((block.where, block.text))
        try:
            printed, failed = channel.recv()
        except EOFError:
            process.join()
            return f"Python ended with {process.exitcode}"
        return self._judge(block.mark("raises"), printed, failed)

    def _judge(
        self, wanted: str | None, printed: str, failed: tuple[str, str, str] | None
    ) -> str | None:
        self._output = printed
        if wanted is None:
            return None if failed is None else f"{failed[2]}"
        if failed is None:
            return f"{wanted} was not raised"
        self._output = f"{failed[0]}: {failed[1]}"
        return None if failed[0] == wanted else f"{wanted} expected, got:\n{failed[2]}"

    def _process(self) -> tuple[BaseProcess, Connection]:
        if self._python is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(list(WARM))
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, str(self._folder), self._environment), daemon=True
            )
            process.start()
            theirs.close()
            self._python = process, ours
        return self._python
