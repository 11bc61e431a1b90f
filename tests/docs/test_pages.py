"""The pages as texts: links resolve, all are in a table of contents, nothing shown is out of date."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.docs.blocks import DOCS, ROOT, RUNS, SHOWN, Block, blocks, links, pages
from tests.docs.reference_code import from_code

PAGES = pages()
OWN = [page for page in PAGES if page.is_relative_to(DOCS)]
PICTURE_BYTES = 2_500_000
KNOWN_MARKS = re.compile(
    r"(output( within=[\d.]+)?|no-run: .{8,}|exit=\d+|raises=\w+|file=[\w.-]+|)"
)
OPTION = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")

MACHINE_PATH = re.compile(r"(?<![\w./-])/(?:home|root|work|mnt|tmp|opt|Users)/\w")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def made() -> dict[str, str]:
    return from_code.pages()


@cache
def commands() -> dict[str, Any]:
    return from_code.commands()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    for target in links(page):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        found = (page.parent / path).resolve() if path else page
        if from_code.MADE in str(found):
            name_there = str(found.relative_to(DOCS / from_code.MADE).with_suffix(""))
            assert name_there in made(), f"{target}: nothing writes it"
            continue
        assert found.exists(), f"{target} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{target}: no such heading"


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = {DOCS / "index.md"}
    for page in OWN:
        for block in blocks(page):
            if block.language == "{toctree}":
                listed |= set(_listed(page, block))
    assert not [name(page) for page in OWN if page not in listed]


def _listed(page: Path, block: Block) -> Iterator[Path]:
    for line in block.text.splitlines():
        if not line.strip() or line.startswith(":"):
            continue
        entry = line.partition("<")[2].rstrip(">") or line
        found = list(page.parent.glob(f"{entry}.md")) if "*" in entry else None
        yield from found or [(page.parent / f"{entry}.md").resolve()]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        if block.language.startswith("{") or not block.language:
            continue
        assert block.language in (*RUNS, *SHOWN), f"{block.where}: {block.language}"
        assert KNOWN_MARKS.fullmatch(block.marks), f"{block.where}: {block.marks}"
        assert "FILL" not in block.text, f"{block.where}: an output is missing"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_fences_are_fences(page: Path) -> None:
    """A backtick in its first line makes a fence a piece of prose, and its end the beginning of one."""
    broken = re.findall(r"^```.*`.*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert not broken


def test_what_does_not_run_is_known() -> None:
    """Blocks that are only shown; a new one must be added here on purpose."""
    found = [(name(page), b.reason) for page in PAGES for b in blocks(page) if b.reason]
    reasons = {reason.split(" ")[0] for _, reason in found}
    assert all(reason for _, reason in found)
    assert reasons <= {"it"}, found
    allowed = {
        "README.md", "docs/cluster.md", "docs/explanation/sinks.md", "docs/gallery/index.md",
        "docs/how-to/bring-an-saelens-sae.md", "docs/how-to/choose-device-and-precision.md",
        "docs/tutorials/01-first-xray.md", "docs/tutorials/02-your-own-model.md",
        "docs/tutorials/04-super-experts.md", "docs/tutorials/05-which-engine.md",
    }  # fmt: skip
    assert {page for page, _ in found} <= allowed


def command_lines() -> list[tuple[str, list[str]]]:
    """Every call of the program in a block or in backticks: where, and its words."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        calls = [(name(page), call) for call in re.findall(r"`(fluoroscope [^`\n]*)`", text)]
        for block in blocks(page):
            if block.language in ("bash", "console"):
                joined = re.sub(r"\$\([^)]*\)", "X", block.text.replace("\\\n", " "))
                lines = re.findall(r"(?:^|[;|&$] *)(fluoroscope [^\n;|&]*)", joined, re.MULTILINE)
                calls += [(block.where, line) for line in lines]
        found += [(where, _words(call)) for where, call in calls]
    return found


def _words(call: str) -> list[str]:
    try:
        return shlex.split(call)[1:]
    except ValueError:  # a quotation that goes on in the next line
        return call.split()[1:]


def test_commands_exist_with_these_options() -> None:
    checked = 0
    for where, words in command_lines():
        names = [word for word in words[:2] if re.fullmatch(r"[a-z]+", word)]
        if not words or words[0] in ("--help", "--version", "COMMAND"):
            continue
        full = next(
            (n for n in (" ".join(names[:2]), names[0] if names else "") if n in commands()), None
        )
        groups = {command.split(" ")[0] for command in commands() if " " in command}
        if full is None and names and names[0] in groups:
            continue  # a group named as such
        assert full is not None, f"{where}: no command {' '.join(words[:2])}"
        options = {
            word.partition("=")[0] for word in words if OPTION.fullmatch(word.partition("=")[0])
        }
        unknown = options - commands()[full].options
        assert not unknown, f"{where}: {full} has no {unknown}"
        checked += 1
    assert checked > 50


def test_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:`|^\$? ?)make ([a-z-]+)", page.read_text(), re.MULTILINE):
            assert target in targets | {"docs"}, f"{name(page)}: make {target}"


def test_pictures_stay_small() -> None:
    held = [path for path in DOCS.rglob("*") if path.suffix in (".png", ".svg", ".jpg", ".webp")]
    shown = [path for path in held if "_build" not in path.parts]
    assert sum(path.stat().st_size for path in shown) < PICTURE_BYTES
    used = {(page.parent / link).resolve() for page in PAGES for link in links(page)}
    assert not [name(path) for path in shown if path not in used]


def test_no_page_names_a_machine_or_fetches_anything() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for own in (ROOT, Path.home()):
            assert f"{own}/" not in text, name(page)
        assert not MACHINE_PATH.search(text), name(page)
        for target in links(page):
            assert not target.startswith("http") or "{" not in target


def test_pages_from_code_name_everything() -> None:
    from fluoroscope.decoding import engines

    for about in engines():
        assert f"## {about.name}\n" in made()["engines"]
    for command in commands():
        assert f"## fluoroscope {command}\n" in made()["commands"]
    from fluoroscope.reports.sections import RENDERERS

    kinds = set(from_code.results())
    assert set(RENDERERS) <= kinds | {"logit_lens", "tuned_lens"}, set(RENDERERS) - kinds
