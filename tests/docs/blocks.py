"""Fenced blocks and links of the project's Markdown pages, and what a block's marks mean.

    ```bash                     run, must end with 0
    ```bash exit=3              run, must end with 3
    ```bash no-run: REASON      shown only; the reason is listed by a test
    ```python                   run, in the page's one Python session
    ```python raises=NAME       must raise that error
    ```python file=NAME         written to that file
    ```text output              standard output of the block before (of an error, its message)
    ```text output within=0.3   the same, numbers up to 30 per cent: they hang on the text or machine

Everything else is only shown. In an expected output `...` stands for anything, runs of blanks are
equal, and numbers may differ by two per cent or by one in their last digit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
RUNS = ("bash", "python")
SHOWN = ("text", "json", "toml", "console")
TOLERANCE = 0.02
NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?"


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Line of its opening fence, from 1."""
    language: str
    marks: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def reason(self) -> str | None:
        """Why it is not run; None where it is."""
        found = re.match(r"no-run:\s*(.*)", self.marks)
        return found[1] if found else None

    def mark(self, name: str) -> str | None:
        found = re.search(rf"\b{name}=(\S+)", self.marks)
        return found[1] if found else None

    @property
    def runs(self) -> bool:
        return self.language in RUNS and self.reason is None and self.mark("file") is None

    @property
    def is_output(self) -> bool:
        return self.language == "text" and self.marks.split(" ")[0] == "output"


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything below docs that a person wrote."""
    below = [path for path in sorted(DOCS.rglob("*.md")) if not _is_made(path)]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *below]


def _is_made(path: Path) -> bool:
    parts = path.relative_to(DOCS).parts
    return parts[0] in ("_build", "_ext") or parts[:2] == ("reference", "made")


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for token in MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8")):
        if token.type == "fence":
            language, _, marks = token.info.strip().partition(" ")
            assert token.map is not None
            found.append(Block(page, token.map[0] + 1, language, marks.strip(), token.content))
    return found


def links(page: Path) -> Iterator[str]:
    """Targets of the links and pictures of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for inline in token.children or ():
            if inline.type == "link_open":
                yield str(inline.attrs["href"])
            elif inline.type == "image":
                yield str(inline.attrs["src"])


def difference(expected: str, got: str, *, within: float = TOLERANCE) -> str | None:
    """What is wrong with an output, or None."""
    pattern, wanted = _pattern(expected)
    match = re.fullmatch(pattern, _tidy(got), flags=re.DOTALL)
    if match is None:
        return f"expected:\n{expected}\ngot:\n{got}"
    for text, found in zip(wanted, match.groups(), strict=True):
        if not _near(text, found, within):
            return f"expected {text}, got {found}; in full:\n{got}"
    return None


def _tidy(text: str) -> str:
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.strip().splitlines()]
    return "\n".join(lines)


def _pattern(expected: str) -> tuple[str, list[str]]:
    parts = re.split(rf"(\.\.\.|{NUMBER})", _tidy(expected))
    pattern, numbers = "", []
    for part in parts:
        if part == "...":
            pattern += ".*?"
        elif re.fullmatch(NUMBER, part):
            pattern += f"({NUMBER})"
            numbers.append(part)
        else:
            pattern += re.escape(part)
    return pattern, numbers


def _near(expected: str, got: str, within: float) -> bool:
    a, b = (float(text.replace(",", "").rstrip(".")) for text in (expected, got))
    digits = len(expected.partition(".")[2]) if "e" not in expected.lower() else 0
    last = 10.0**-digits if digits else 0.0
    return abs(a - b) <= max(within * abs(a), last * 1.001)
