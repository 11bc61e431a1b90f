"""What an experiment has measured so far, so that an interrupted one goes on where it was.

One JSON object a line, appended and flushed when a unit of work (one condition, all its seeds) is
done: after `kill -9` every finished unit is there, and a line cut short is ignored. The file is
named after a digest of the experiment's options, so other options begin another file. It is removed
once the result stands in the run file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
Progress = Callable[[int, int, str], None]


class Journal:
    """Finished units of one experiment.

    Args:
        folder: Where journals lie, beside the run file; None keeps nothing.
        experiment: Its name.
        options: The options that shape its numbers.
    """

    def __init__(self, folder: Path | None, experiment: str, options: Any) -> None:
        described = json.dumps(dataclasses.asdict(options), sort_keys=True, default=str)
        digest = hashlib.sha256(described.encode()).hexdigest()[:12]
        self.path = None if folder is None else folder / f"{experiment}-{digest}.jsonl"
        self._done: dict[str, Rows] = {}
        if self.path is not None and self.path.is_file():
            for line in self.path.read_text(encoding="utf-8").splitlines():
                try:
                    entry = json.loads(line)
                    self._done[entry["unit"]] = entry["rows"]
                except (json.JSONDecodeError, KeyError):
                    continue  # cut short by a kill: this unit is done again

    @property
    def n_done(self) -> int:
        """Units that are done."""
        return len(self._done)

    def get(self, unit: str) -> Rows | None:
        """What a unit measured, if it is done."""
        return self._done.get(unit)

    def add(self, unit: str, rows: Rows) -> None:
        """Keep what a unit measured."""
        self._done[unit] = rows
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            # After a line cut short a fresh one must begin.
            file.write(
                ("" if self._ends_well() else "\n") + json.dumps({"unit": unit, "rows": rows})
            )
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget everything, in the file too."""
        self._done.clear()
        self.remove()

    def remove(self) -> None:
        """Take the file away, and its folder if nothing else is in it."""
        if self.path is None:
            return
        self.path.unlink(missing_ok=True)
        if self.path.parent.is_dir() and not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def _ends_well(self) -> bool:
        assert self.path is not None
        if not self.path.is_file() or self.path.stat().st_size == 0:
            return True
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"


def run_units(
    units: Sequence[str],
    measure: Callable[[str, Progress], Rows],
    journal: Journal,
    progress: Progress | None = None,
) -> Rows:
    """Measure every unit that the journal does not hold yet.

    Args:
        units: Names, in order.
        measure: Measures one unit and says how far it is.
        journal: Keeps what is done.
        progress: Called with (done, total, note) in thousandths of a unit, so that bars move within
            units too.

    Returns:
        The rows of all units, in order.
    """
    found: Rows = []
    for number, unit in enumerate(units):
        rows = journal.get(unit)
        if rows is None:

            def inner(
                done: int, total: int, note: str, number: int = number, unit: str = unit
            ) -> None:
                if progress is not None:
                    share = int(1000 * done / max(total, 1))
                    progress(1000 * number + share, 1000 * len(units), f"{unit}: {note}")

            rows = measure(unit, inner)
            journal.add(unit, rows)
        found += rows
        if progress is not None:
            progress(1000 * (number + 1), 1000 * len(units), unit)
    return found
