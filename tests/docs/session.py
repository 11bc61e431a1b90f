"""Runs a page's blocks in order, in a folder of its own, as a reader would."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.docs.blocks import TOLERANCE, Block, difference

WORKER = """
import contextlib, io, json, sys, traceback
asked, answers = sys.stdin, sys.stdout
for line in asked:
    given = json.loads(line)
    out, failed = io.StringIO(), None
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(given["text"], given["where"], "exec"), globals())
    except BaseException as error:
        failed = [type(error).__name__, str(error), traceback.format_exc()]
    answers.write(json.dumps([out.getvalue(), failed]) + "\\n")
    answers.flush()
"""


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
        self._python: subprocess.Popen[str] | None = None
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
            self._python.kill()
            self._python.communicate()

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
        worker = self._worker()
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps({"text": block.text, "where": block.where}) + "\n")
        worker.stdin.flush()
        answer = worker.stdout.readline()
        if not answer:
            return f"Python ended: {worker.communicate()[1]}"
        printed, failed = json.loads(answer)
        return self._judge(block.mark("raises"), printed, failed)

    def _judge(self, wanted: str | None, printed: str, failed: list[Any] | None) -> str | None:
        self._output = printed
        if wanted is None:
            return None if failed is None else f"{failed[2]}"
        if failed is None:
            return f"{wanted} was not raised"
        self._output = f"{failed[0]}: {failed[1]}"
        return None if failed[0] == wanted else f"{wanted} expected, got:\n{failed[2]}"

    def _worker(self) -> subprocess.Popen[str]:
        if self._python is None:
            self._python = subprocess.Popen(
                [sys.executable, "-c", WORKER],
                cwd=self._folder, env=self._environment, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        return self._python
