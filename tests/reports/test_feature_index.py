"""The index of features: what is shown is what is stored, and it sorts and filters in a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import Markup

from fluoroscope.probes import Provenance, create_run, open_run
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports import build_report
from fluoroscope.reports.section import Context, Stored
from fluoroscope.reports.sections.feature_index import frequencies, index
from fluoroscope.reports.sections.features import spark
from fluoroscope.sae.features.cards import FeatureCards
from tests.reports.examples import N_WORDS, example

WORDS = Vocabulary(tuple(f" w{n}".encode() for n in range(N_WORDS)), frozenset())
N = 6
LISTED = {
    "listed": np.arange(N) * 3, "listed_density": np.array([0.5, 0.0, 0.02, 0.003, 0.2, 0.0004]),
    "listed_max": np.array([1.0, 0.0, 7.0, 9.0, 2.0, 30.0]), "listed_mean": np.arange(N) / 10,
    "listed_top_ids": np.array([0, -1, 2, 3, 4, 5]), "listed_logit_ids": np.arange(N),
    "listed_logit": np.array([0.1, np.nan, 0.3, 0.2, 0.6, 0.5]), "listed_cosine": np.arange(N) / 10,
    "listed_neighbour": np.arange(N)[::-1].copy(),
}  # fmt: skip


def cards() -> FeatureCards:
    return example(
        FeatureCards, 0, d_sae=64, before=4, features=np.array([6, 9]), n_rows=1000,
        context_group=np.array([[-1, 0], [-1, 0]]), edges=np.tile(np.linspace(0, 3, 13), (2, 1)),
        context_values=np.random.default_rng(0).random((2, 2, 9)).astype(np.float32), **LISTED,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("index") / "run.h5"
    with create_run(path, provenance=Provenance(model={"name": "m"})) as writer:
        writer.set_vocabulary(WORDS)
        writer.close()
    open_run(path).add_result("f", cards())
    return path


class Macro:
    """Keeps what a template was given."""

    def __call__(self, template: str, name: str, arguments: dict[str, Any]) -> Markup:
        self.given = arguments
        return Markup("<p></p>")


def stored(**changes: Any) -> Stored:
    return Stored("f", "sae_features", {**vars(cards()), **changes})


def test_rows_hold_what_is_stored_and_lead_to_cards(run_file: Path) -> None:
    macro = Macro()
    context = Context(open_run(run_file), WORDS, macro)
    figure = index(stored(), context)
    cells = macro.given["rows"]
    assert [float(row[1]["value"]) for row in cells] == LISTED["listed_density"].tolist()
    assert [row[0]["href"] for row in cells] == ["", "", "f-6-contexts", "f-9-contexts", "", ""]
    assert figure.data["is"] == ["dense", "dead", "", "", "dense", ""]
    assert figure.data["fires on"] == LISTED["listed_density"].tolist()
    assert (
        "Of 6 listed, 2 fire on more than a tenth of the rows; feature 0 fires most"
        in figure.reading
    )
    without = index(stored(listed_logit_ids=np.full(N, -1)), context)
    assert "raises most" not in without.data


def test_frequency_against_strength_is_a_rank_correlation_of_what_fires() -> None:
    (figure,) = frequencies(stored())
    assert figure.reading == (
        "5 listed features fire, on 0.0004 to 0.5 of the rows; how often and how strongly: rank "
        "correlation -1.00."
    )
    assert frequencies(stored(listed_density=np.zeros(N))) == []
    (few,) = frequencies(stored(listed_density=np.array([0.1, 0.2, 0, 0, 0, 0])))
    assert "too few for a rank correlation" in few.reading


def test_a_spark_line_is_as_high_as_its_numbers() -> None:
    assert spark(np.array([0.0, 1.0, 0.5])) == "▁█▅"
    assert spark(np.array([7.0])) == "█"
    assert spark(np.zeros(8)) == "–"


# In a browser ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def opened(browser: Any, run_file: Path) -> Iterator[Any]:
    tab = browser.new_page()
    tab.goto(build_report(run_file).as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=20_000)
    yield tab
    tab.close()


def column(tab: Any, number: int) -> list[str]:
    return tab.evaluate(
        "n => [...document.querySelectorAll('.sortable tbody tr:not([hidden])')]"
        ".map(row => row.cells[n].textContent)",
        number,
    )


@pytest.mark.browser
def test_headers_sort_by_stored_values(opened: Any) -> None:
    opened.locator(".sortable th[data-key='density'] button").click()
    assert column(opened, 0) == ["0", "12", "6", "9", "15", "3"], "densest first, by number"
    opened.keyboard.press("Enter")
    assert column(opened, 0) == ["3", "15", "9", "6", "12", "0"], "again: the other way"
    assert opened.locator(".sortable th[aria-sort]").count() == 1
    opened.locator(".sortable th[data-key='logit'] button").click()
    assert column(opened, 0)[0] == "12"
    assert column(opened, 0)[-1] == "3", "an unknown effect is last"


@pytest.mark.browser
def test_the_filter_takes_words_and_comparisons(opened: Any) -> None:
    box = opened.locator(".sortable input")
    box.fill("density>0.01 max<5")
    assert sorted(column(opened, 0)) == ["0", "12"]
    assert opened.locator(".sortable output").text_content() == "2 of 6"
    box.fill("w5")
    assert column(opened, 0) == ["15"]
    box.fill("<script>")
    assert column(opened, 0) == []
    box.fill("")
    assert len(column(opened, 0)) == 6
