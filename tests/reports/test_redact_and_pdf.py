"""Pages without their texts, and pages on paper."""

import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.probes import capture_corpus, open_run, wrap_model
from fluoroscope.probes.readings import find_massive, logit_lens, next_token, texts_of
from fluoroscope.probes.results import Result, described
from fluoroscope.probes.runfile.invocations import Invocation, add_invocation
from fluoroscope.reports import BrowserError, RedactedRun, build_report, print_pdf
from fluoroscope.reports.packed import blocks as blocks_of
from fluoroscope.reports.pdf import find_browser
from fluoroscope.reports.redact import BLOCK, IDS, LONGEST, blocks
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

PROMPT, TEXT, NAME, NOTE = "zanzibar zanzibar", "qwertz uvula qwertz", "ledger.txt", "plainly told"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose prompt, text, document names and stored remarks must not be told."""
    from dataclasses import dataclass
    from typing import ClassVar

    @dataclass(frozen=True, kw_only=True)
    class Remarks(Result):
        kind: ClassVar[str] = "remarks"
        said: np.ndarray = described("what was said", axes=("n",))
        best_token: np.ndarray = described("token", axes=("n",))
        expert_ids: np.ndarray = described("experts", axes=("n",))
        note: str = described("a note")

    folder = tmp_path_factory.mktemp("secret")
    model = wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny")
    from fluoroscope.probes import Document
    from fluoroscope.probes.corpus import Corpus

    documents = [Document(f"{n}{NAME}", f"{TEXT} {n} " * 6) for n in range(4)]
    corpus = Corpus("my diary", lambda: iter(documents))
    run = capture_corpus(model, corpus, "layers.1.resid_post", folder / "run.h5")
    texts = texts_of(run, n_tokens=200)
    run.add_result("next_token", next_token(model, texts))
    run.add_result("logit_lens", logit_lens(model, texts))
    run.add_result("massive_activations", find_massive(model, texts, absolute=None, ratio=5.0))
    run.add_result("remarks", Remarks(said=np.array([NOTE]), best_token=np.array([113]),
                                      expert_ids=np.array([113]), note=NOTE))  # fmt: skip
    engine = make_engine(model, "plain")
    made = engine.generate(PROMPT, stopping=Stopping(max_new_tokens=8, ignore_eos=True))
    save_generations(run, engine, made)
    add_invocation(run, Invocation("decode", {"prompt": [PROMPT], "seed": 3}))
    return folder / "run.h5"


def numbers(html: str) -> list[str]:
    """Numeric cells of the tables, in order."""
    return re.findall(r"<td>([^<]*)</td>", html)


def packed_tips(html: str) -> list[str]:
    """Tooltips in the page's compressed blocks."""
    spoken = [value for _, kind, value in blocks_of(html) if kind == "spoken"]
    figures = [figure for section in spoken for figure in section.values()]
    return [row[f["names"].index("tip")] for f in figures for row in f["rows"]]


def read(html: str) -> str:
    """What a reader sees of a page, letters of neighbouring elements side by side."""
    return re.sub(r"<[^>]*>", "", html)


def test_no_text_is_told_and_every_number_stays(secret: Path, tmp_path: Path) -> None:
    whole = build_report(secret, tmp_path / "whole.html").read_text()
    hidden = build_report(secret, tmp_path / "hidden.html", redact="text").read_text()
    for word in ("zanz", "wertz", "uvula", "ledger", "plainly", "my diary"):
        assert word in read(whole), f"{word} must be there to be hidden"
        assert word not in read(hidden), word
        assert word not in hidden, word
    assert BLOCK in hidden
    assert "All texts are replaced" in hidden
    assert "All texts" not in whole
    ours, theirs = numbers(hidden), numbers(whole)
    changed = [(a, b) for a, b in zip(theirs, ours, strict=True) if a != b]
    assert [a for a, _ in changed] == ["113"], "the token id of the unknown result, nothing else"
    assert int(changed[0][1].replace(",", "")) >= len(open_run(secret).vocabulary)
    settled = r"first leads at layer (\d+) \(median"
    assert re.findall(settled, hidden) == re.findall(settled, whole) != []
    assert build_report(secret, tmp_path / "again.html", redact="text").read_text() == hidden


def test_tokens_cannot_be_read_off_ids_or_candidates(secret: Path, tmp_path: Path) -> None:
    """The prompt's letters are told apart in the page, and not in the redacted one."""
    hidden = build_report(secret, tmp_path / "hidden.html", redact="text").read_text()
    tips = re.findall(r'data-tip="([^"]*)"', hidden) + packed_tips(hidden)
    assert len(tips) > 50
    shared = json.loads(hidden.partition('id="trace-shared">')[2].partition("</script>")[0])
    shown = shared["ids"]
    assert set("".join(shared["words"])) == {BLOCK}
    run = open_run(secret)
    n = len(run.vocabulary)
    assert min(int(one) for one in shown) >= n
    letters = [tip for tip in tips if re.search(r"Leading: [a-z] ", tip)]
    assert letters == []


def test_hidden_prompts_leave_the_rest(secret: Path, tmp_path: Path) -> None:
    html = build_report(secret, tmp_path / "prompts.html", redact="prompts").read_text()
    stream = html.partition('class="stream"')[2].partition("</div>")[0]
    prompt, _, made = stream.partition('class="tok')
    assert re.sub(r"<[^>]*>|[^<]*>", "", prompt).count(BLOCK) == len(PROMPT)
    assert "zanzibar" not in html
    assert made
    assert BLOCK not in made
    assert "uvula" in read(html), "the text that was read is no prompt"
    assert "Prompts are replaced" in html


def test_the_file_itself_is_not_touched(secret: Path) -> None:
    before = secret.read_bytes()
    run = RedactedRun(open_run(secret), "text")
    with run.reading() as file:
        assert set(file["trace/plain/prompts/text"].asstr()[()]) == {BLOCK * len(PROMPT)}
        assert file["results/remarks/expert_ids"][()].tolist() == [113]
        assert file["results/remarks"].attrs["note"] == BLOCK * len(NOTE)
    assert set("".join(run.tokens.names)) == {BLOCK}
    assert run.tokens.ids.min() >= len(open_run(secret).vocabulary)
    assert secret.read_bytes() == before


def test_what_counts_as_a_token_id() -> None:
    for name in ("id", "ids", "token", "top_ids", "example_top_ids", "event_token", "token_ids"):
        assert IDS.search(name), name
    for name in (
        "n_tokens",
        "expert_ids",
        "latent_ids",
        "neuron_ids",
        "width",
        "tokenized",
        "idea",
    ):
        assert not IDS.search(name), name
    assert blocks("") == ""
    assert len(blocks("x" * 1000)) == LONGEST


def test_commands_do_not_tell_what_the_page_hides(secret: Path, monkeypatch) -> None:
    from dataclasses import replace

    from fluoroscope.reports.redact import _without_texts

    held = open_run(secret).provenance
    told = replace(
        held, command=["fluoroscope", "xray", "--prompt", "abc", "--text=diary", "-n", "5"]
    )
    command = _without_texts(told, "prompts").command
    assert command == [
        "fluoroscope",
        "xray",
        "--prompt",
        BLOCK * 3,
        f"--text={BLOCK * 5}",
        "-n",
        "5",
    ]


@pytest.mark.browser
def test_the_page_prints_whole(page: Path, tmp_path: Path, browser) -> None:
    """The PDF holds the figures and the tables of up to 30 rows; `browser` says there is one."""
    out = print_pdf(page, tmp_path / "deep" / "page.pdf")
    assert out.read_bytes()[:5] == b"%PDF-"
    assert out.stat().st_size > 50_000
    assert [path.name for path in out.parent.iterdir()] == ["page.pdf"]


def test_without_a_browser_the_message_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    page = tmp_path / "page.html"
    page.write_text("<p>x</p>")
    monkeypatch.delenv("FLUOROSCOPE_CHROMIUM", raising=False)
    monkeypatch.setattr("fluoroscope.reports.pdf.shutil.which", lambda name: None)
    assert find_browser() is None
    with pytest.raises(BrowserError, match="apt-get install -y chromium"):
        print_pdf(page, tmp_path / "x.pdf")
    monkeypatch.setenv("FLUOROSCOPE_CHROMIUM", str(tmp_path / "nothing"))
    with pytest.raises(BrowserError, match="cannot be started"):
        print_pdf(page, tmp_path / "x.pdf")


@pytest.mark.parametrize(
    ("script", "message"),
    [("exit 0", "without writing a PDF"), ("echo oh >&2; exit 3", "ended with 3: oh")],
)
def test_a_browser_that_fails_leaves_no_file(
    tmp_path: Path, monkeypatch, script: str, message: str
) -> None:
    fake = tmp_path / "browser"
    fake.write_text(f"#!/bin/sh\n{script}\n")
    fake.chmod(0o755)
    page = tmp_path / "page.html"
    page.write_text("<p>x</p>")
    monkeypatch.setenv("FLUOROSCOPE_CHROMIUM", str(fake))
    with pytest.raises((BrowserError, FileNotFoundError), match=message):
        print_pdf(page, tmp_path / "x.pdf")
    assert not (tmp_path / "x.pdf").exists()
    assert subprocess.run([fake], check=False, capture_output=True).returncode in (0, 3)
