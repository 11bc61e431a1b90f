"""Run a page and write what its blocks printed into its `text output` blocks.

    python -m tests.docs.refill docs/tutorials/01-first-xray.md

For whoever changes a page or a number: read the difference before committing it. Blocks that hold `...`
are only compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import groupby
from pathlib import Path

from tests.docs.blocks import Block, blocks
from tests.docs.session import Session


def refill(page: Path) -> list[str]:
    """Rewrite a page's outputs; what went wrong, block by block."""
    wrong: list[str] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[tuple[Block, str]] = []
    with tempfile.TemporaryDirectory() as folder, Session(Path(folder)) as session:
        for block in blocks(page):
            started = time.perf_counter()
            if block.is_output and "..." not in block.text:
                found.append((block, session.output.strip("\n")))
                continue
            fault = session.take(block)
            if block.runs:
                sys.stderr.write(f"{block.where}: {time.perf_counter() - started:.1f} s\n")
                sys.stderr.write(session.output)
            if fault is not None:
                wrong.append(f"{block.where}: {fault}")
    for block, output in reversed(found):
        end = block.line + len(block.text.splitlines())
        lines[block.line : end] = aligned(output)
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return wrong


def aligned(output: str) -> list[str]:
    """Lines with tabs as columns."""
    found: list[str] = []
    for has_tabs, group in groupby(output.splitlines(), lambda line: "\t" in line):
        rows = [line.split("\t") for line in group]
        if not has_tabs:
            found += [row[0].rstrip() for row in rows]
            continue
        columns = max(map(len, rows))
        widths = [max(len(row[n]) for row in rows if n < len(row)) for n in range(columns)]
        padded = (map(str.ljust, row, widths) for row in rows)
        found += ["  ".join(cells).rstrip() for cells in padded]
    return found


if __name__ == "__main__":
    faults = [fault for name in sys.argv[1:] for fault in refill(Path(name).resolve())]
    sys.stderr.write("\n".join(faults) + "\n")
    sys.exit(bool(faults))
