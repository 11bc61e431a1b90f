"""Every error has a page that shows it, and every page an error."""

import pytest

from tests.docs.blocks import DOCS, blocks
from tests.docs.reference_code import from_code

ERRORS = from_code.errors()
ALONE = {"FluoroscopeError", "SiteError"}
"""Bases that nothing raises as such; their examples catch what stands below them."""


@pytest.mark.parametrize("error", sorted(ERRORS))
def test_every_error_has_a_page(error: str) -> None:
    page = DOCS / "errors" / f"{error}.md"
    assert page.is_file(), f"write docs/errors/{error}.md: meaning, example that raises it, mending"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {error}\n")
    assert f"`{ERRORS[error]}.{error}`" in text
    assert "## How to mend it" in text
    raised = {block.mark("raises") for block in blocks(page)}
    assert error in raised or error in ALONE, f"no block says raises={error}"


def test_every_page_is_about_an_error() -> None:
    found = {page.stem for page in (DOCS / "errors").glob("*.md")} - {"index"}
    assert found == set(ERRORS)
