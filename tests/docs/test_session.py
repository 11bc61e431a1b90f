"""The runner of the pages' blocks: it must notice what is wrong."""

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, Block, blocks, difference, pages
from tests.docs.session import Session


def block(language: str, text: str, marks: str = "") -> Block:
    return Block(ROOT / "README.md", 1, language, marks, text)


@pytest.fixture
def session(tmp_path: Path):
    with Session(tmp_path) as one:
        yield one


def test_python_blocks_share_a_session(session: Session) -> None:
    assert session.take(block("python", "x = 20")) is None
    assert session.take(block("python", "print(x + 1)")) is None
    assert session.take(block("text", "21", "output")) is None
    assert "expected 22.5" in (session.take(block("text", "22.5", "output")) or "")


def test_a_failing_block_is_told(session: Session) -> None:
    assert "ended with 3" in (session.take(block("bash", "exit 3")) or "")
    assert session.take(block("bash", "exit 3", "exit=3")) is None
    assert "ZeroDivisionError" in (session.take(block("python", "1 / 0")) or "")
    assert session.take(block("python", "1 / 0", "raises=ZeroDivisionError")) is None
    assert session.take(block("text", "ZeroDivisionError: division by ...", "output")) is None
    assert "not raised" in (session.take(block("python", "1", "raises=KeyError")) or "")
    assert "expected" in (session.take(block("python", "1 / 0", "raises=KeyError")) or "")


def test_bash_stops_at_the_first_failure(session: Session) -> None:
    assert session.take(block("bash", "false\ntrue")) is not None
    assert session.take(block("bash", "false | true")) is not None


def test_files_are_written_and_blocks_that_do_not_run_are_left_alone(
    session: Session, tmp_path: Path
) -> None:
    assert session.take(block("python", "answer = 42\n", "file=given.py")) is None
    assert session.take(block("python", "import given; print(given.answer)")) is None
    assert session.take(block("text", "42", "output")) is None
    assert session.take(block("bash", "exit 1", "no-run: it would fail")) is None
    assert (tmp_path / "given.py").is_file()


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        ("loss 2.31 nats", "loss 2.32 nats", True),  # one in the last digit
        ("loss 2.31 nats", "loss 2.40 nats", False),
        ("loss 2.31 nats", "loss 2.31 bits", False),
        ("23,147 at 0", "23,150 at 0", True),
        ("23,147 at 0", "26,147 at 0", False),
        ("12 layers", "13 layers", False),
        ("a   b", "a\tb  ", True),
        ("first\n...\nlast 3", "first\nmiddle 1\nmiddle 2\nlast 3", True),
        ("took ... s", "took 0.83 s", True),
        ("took ... s", "took 0.83 min", False),
        ("-0.5", "0.5", False),
    ],
)
def test_outputs_are_compared_up_to_rounding(expected: str, got: str, same: bool) -> None:
    assert (difference(expected, got) is None) == same


def test_numbers_that_hang_on_the_machine_have_more_room() -> None:
    assert difference("0.10", "0.12", within=0.3) is None
    assert difference("0.10", "0.14", within=0.3) is not None


def test_every_page_is_found_and_parsed() -> None:
    found = {str(page.relative_to(ROOT)) for page in pages()}
    assert {"README.md", "docs/run-file.md"} <= found
    assert not any("_build" in name or "reference/made" in name for name in found)
    assert any(one.runs for one in blocks(ROOT / "README.md"))
