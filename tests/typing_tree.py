"""Lay out the package as it is installed, for the type checker.

The rooms stand at the top of the repository while their import name is `fluoroscope.<room>`. A type
checker follows folders, not setuptools' mapping, so `build/typing/fluoroscope/` links the front door's
files and the rooms into the shape they have after installation.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("probes", "sae", "moe", "decoding", "reports")


def main() -> None:
    package = ROOT / "build" / "typing" / "fluoroscope"
    shutil.rmtree(package, ignore_errors=True)
    link_files(ROOT / "fluoroscope", package)
    for room in ROOMS:
        link_files(ROOT / room, package / room)


def link_files(source: Path, target: Path) -> None:
    """Mirror `source`'s folders below `target` and link each Python file (checkers skip links to
    folders)."""
    for path in [*source.rglob("*.py"), *source.rglob("py.typed")]:
        link = target / path.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)


if __name__ == "__main__":
    main()
