"""Every block of every page runs, in order, in a folder of its own."""

from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks, pages
from tests.docs.session import Session

RUNNING = [page for page in pages() if any(block.runs for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.embedded
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", RUNNING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_works_word_for_word(page: Path, tmp_path: Path) -> None:
    with Session(tmp_path) as session:
        for block in blocks(page):
            fault = session.take(block)
            assert fault is None, f"{block.where}: {fault}"
