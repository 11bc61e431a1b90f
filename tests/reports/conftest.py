"""A run with every kind of result, its page, and a browser to look at it."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.probes import capture_corpus, check_sites, from_texts, wrap_model
from fluoroscope.probes.readings import (
    ablation_story,
    attention_sinks,
    find_massive,
    layer_stats,
    linear_probe,
    logit_lens,
    next_token,
    texts_of,
)
from fluoroscope.probes.results import Result, described
from fluoroscope.reports import build_report
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

HOSTILE = "</script><script>alert(1)</script> <img src=x onerror=alert(1)> \u202e{{ 7*7 }} \x00"


@dataclass(frozen=True, kw_only=True)
class Unknown(Result):
    kind: ClassVar[str] = "nobody_draws_this"
    curve: np.ndarray = described("some curve", axes=("steps",), unit="nats")
    words: np.ndarray = described("hostile words", axes=("words",))
    empty: np.ndarray = described("nothing", axes=("none",))
    note: str = described("a note")


@pytest.fixture(scope="session")
def run_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with every kind of result, hostile text in prompts and names."""
    folder = tmp_path_factory.mktemp("page")
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="<b>tiny</b>")
    texts = [f"def f{n}(x):\n    return x + {n}  # number {n}\n" * 3 for n in range(10)]
    run = capture_corpus(
        model,
        from_texts(texts, "<i>texts</i>"),
        "layers.*.resid_post",
        folder / "run.h5",
        context=96,
    )
    some = texts_of(run, n_tokens=400)
    massive = find_massive(model, some, absolute=None, ratio=5.0)
    for name, result in {
        "self_check": check_sites(model),
        "layer_stats": layer_stats(model, some),
        "next_token": next_token(model, some),
        "massive_activations": massive,
        "ablation_story": ablation_story(model, some, massive),
        "attention_sinks": attention_sinks(model, texts_of(run, n_tokens=256, cut=64)),
        "logit_lens": logit_lens(model, some),
        "linear_probe": linear_probe(run, "python-class", ["layers.1.resid_post"], max_tokens=900),
        "strange": Unknown(
            curve=np.array([1.0, np.nan, 3.0]),
            words=np.array([HOSTILE]),
            empty=np.zeros((0, 2)),
            note=HOSTILE,
        ),
    }.items():
        run.add_result(name, result)
    engine = make_engine(model, "plain")
    rules = Stopping(max_new_tokens=30, ignore_eos=True)
    save_generations(run, engine, engine.generate([HOSTILE, "ab"], stopping=rules))
    return folder / "run.h5"


@pytest.fixture(scope="session")
def page(run_path: Path) -> Path:
    return build_report(run_path, run_path.with_name("page.html"))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    found = os.environ.get("FLUOROSCOPE_CHROMIUM") or shutil.which("chromium")
    if not found:
        if os.environ.get("FLUOROSCOPE_REQUIRE_ALL") == "1":
            pytest.fail("Chromium must be installed here")
        pytest.skip("no Chromium: install it, or set FLUOROSCOPE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core (MPL-2.0); see test_accessibility.py."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        if os.environ.get("FLUOROSCOPE_REQUIRE_ALL") == "1":
            pytest.fail("axe-core must be installed here: make setup")
        pytest.skip("no axe-core: pip install --no-deps axe-playwright-python")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@dataclass
class Opened:
    page: Any
    complaints: list[str]
    requests: list[str]


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Opened]:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("body[data-ready]", timeout=20_000)
    yield Opened(tab, complaints, requests)
    tab.close()
