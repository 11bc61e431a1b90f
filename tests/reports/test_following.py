"""Following a run that is still being written: whole pages only, and a page that rests in the end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from fluoroscope.probes import create_run, open_run
from fluoroscope.probes.errors import NotARunFileError
from fluoroscope.probes.results import Result, described
from fluoroscope.probes.runfile import Provenance
from fluoroscope.reports import build_report, follow_run
from fluoroscope.reports.following import Drawn, settle


@dataclass(frozen=True, kw_only=True)
class Curve(Result):
    kind: ClassVar[str] = "some_curve"
    curve: np.ndarray = described("a curve", axes=("steps",))


class Sleeper:
    """In place of `time.sleep`: each wait runs the next thing that happens to the run file."""

    def __init__(self, *happens: Any) -> None:
        self.happens, self.n_waits = list(happens), 0

    def __call__(self, seconds: float) -> None:
        self.n_waits += 1
        if not self.happens:
            raise KeyboardInterrupt
        self.happens.pop(0)()


def start(path: Path) -> Path:
    with create_run(path, provenance=Provenance()) as writer:
        writer.close(complete=False)
    return path


def add(path: Path, name: str) -> None:
    open_run(path).add_result(name, Curve(curve=np.arange(4.0)))


def follow(run: Path, page: Path, sleeper: Sleeper) -> Iterator[Drawn]:
    found = follow_run(run, page, every_s=3.0, sleep=sleeper)
    while True:
        try:
            yield next(found)
        except KeyboardInterrupt:
            return


def test_a_page_per_change_and_none_without(tmp_path: Path) -> None:
    run, page = start(tmp_path / "run.h5"), tmp_path / "page.html"
    sleeper = Sleeper(lambda: None, lambda: add(run, "one"), lambda: None, lambda: add(run, "two"))
    texts = []
    for drawn in follow(run, page, sleeper):
        assert not drawn.problem
        assert drawn.n_bytes == page.stat().st_size
        assert not drawn.complete
        texts.append(page.read_text())
    assert len(texts) == 3
    assert [text.count(">one</h2>") + text.count(">two</h2>") for text in texts] == [0, 1, 2]
    assert all(
        "is still being written" in text and 'http-equiv="refresh"' in text for text in texts
    )
    resting = page.read_text()
    assert 'http-equiv="refresh"' not in resting, "after Ctrl-C the page rests"
    assert "follow--" not in resting
    assert resting == build_report(run, tmp_path / "plain.html").read_text()


def test_what_cannot_be_read_is_waited_for_and_the_last_page_stays(tmp_path: Path) -> None:
    run, page = tmp_path / "run.h5", tmp_path / "page.html"
    whole = start(tmp_path / "whole.h5").read_bytes()
    other = start(tmp_path / "other.h5")
    add(other, "late")
    sleeper = Sleeper(
        lambda: run.write_bytes(whole[: len(whole) // 2]),  # a copy under way
        lambda: run.write_bytes(whole),
        run.unlink,
        lambda: None,
        lambda: run.write_bytes(other.read_bytes()),
    )
    seen = []
    for drawn in follow(run, page, sleeper):
        seen.append(drawn.problem)
        assert page.is_file() == (len(seen) > 2), "no page before a whole file, no loss after"
    assert [bool(problem) for problem in seen] == [True, True, False, True, False]
    assert "no run.h5" in seen[0]
    assert "cannot be read" in seen[1]
    assert ">late</h2>" in page.read_text()


def test_a_file_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: Any) -> None:
    run, page = start(tmp_path / "run.h5"), tmp_path / "page.html"
    add(run, "one")
    from fluoroscope.reports import following

    tries = []

    def disturbed(opened: Any, out: Path, **options: Any) -> Path:
        tries.append(options)
        if len(tries) == 1:
            add(run, "two")
            raise KeyError("results/gone")
        return build_report(opened, out, **options)

    monkeypatch.setattr(following, "build_report", disturbed)
    assert [drawn.problem for drawn in follow(run, page, Sleeper())] == [""]
    assert len(tries) == 2
    assert ">two</h2>" in page.read_text()
    tries.clear()

    def broken(opened: Any, out: Path, **options: Any) -> Path:
        raise KeyError("a bug")

    monkeypatch.setattr(following, "build_report", broken)
    with pytest.raises(KeyError, match="a bug"):
        next(follow_run(run, page))


def test_another_kind_of_file_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "run.h5").write_text("no HDF5")
    with pytest.raises(NotARunFileError):
        next(follow_run(tmp_path / "run.h5", tmp_path / "page.html"))
    assert not (tmp_path / "page.html").exists()
    settle(tmp_path / "page.html")


@pytest.mark.slow
def test_control_c_ends_the_command_well(tmp_path: Path) -> None:
    run, page = start(tmp_path / "run.h5"), tmp_path / "page.html"
    command = [sys.executable, "-m", "fluoroscope", "report", str(run), "-o", str(page)]
    process = subprocess.Popen(
        [*command, "--watch", "--every", "0.5"], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 240
        while not page.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert page.exists(), "no page in four minutes"
        assert 'http-equiv="refresh"' in page.read_text()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, told
    assert "still being written" in told
    assert 'http-equiv="refresh"' not in page.read_text()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.browser
def test_the_page_reads_itself_again_and_can_be_paused(tmp_path: Path, browser: Any) -> None:
    run, page = start(tmp_path / "run.h5"), tmp_path / "page.html"
    for name in ("one", "two", "three"):
        add(run, name)
    build_report(run, page, refresh_s=1.0)
    tab = browser.new_page(viewport={"width": 1000, "height": 500})
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.goto(f"{page.as_uri()}#two")
    tab.wait_for_selector("body[data-ready]")
    tab.click("#theme")
    tab.evaluate("document.querySelector('#one-curve details').open = true")
    tab.evaluate("scrollTo({top: document.getElementById('two').offsetTop, behavior: 'instant'})")
    before = tab.evaluate("document.getElementById('two').getBoundingClientRect().top")
    add(run, "four")
    build_report(run, tmp_path / "next.html", refresh_s=1.0)
    shutil.move(tmp_path / "next.html", page)
    tab.wait_for_selector("#four", timeout=20_000, state="attached")
    tab.wait_for_selector("body[data-ready]")
    tab.wait_for_timeout(200)
    assert tab.url.endswith("#two"), "the address stays"
    assert tab.locator("html").get_attribute("data-theme") == "light"
    assert tab.evaluate("document.querySelector('#one-curve details').open")
    assert tab.locator("#one-curve tbody tr").count() > 0, "its rows were made again"
    after = tab.evaluate("document.getElementById('two').getBoundingClientRect().top")
    assert abs(after - before) < 40, "and the place"
    tab.click("#pause")
    tab.evaluate("document.body.dataset.same = 'yes'")
    tab.wait_for_timeout(2500)
    assert tab.locator("body[data-same]").count() == 1, "paused"
    assert complaints == []
    tab.close()
    os.utime(page)
