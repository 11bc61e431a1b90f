"""Speed and time left: right where they can be known, absent where not."""

from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fluoroscope.pace import MEASURE_S, Pace
from fluoroscope.progress import Tracker


def after(*reports: tuple[float, int, int | None]) -> Pace:
    pace = Pace()
    for report in reports:
        pace.report(*report)
    return pace


def test_a_steady_part() -> None:
    pace = after((0.0, 0, 100), (10.0, 20, 100))
    assert pace.per_second(10.0) == 2.0
    assert pace.left_s(10.0) == 40.0
    assert pace.left_s(20.0) == 80.0, "nothing came for ten seconds: it takes longer than thought"


def test_a_resumed_part_is_as_fast_as_what_is_done_now() -> None:
    """Of 1,000 units 900 were there; 10 take 10 s, so the other 90 take 90, not one."""
    pace = after((0.1, 900, 1000), (10.1, 910, 1000))
    assert pace.left_s(10.1) == pytest.approx(90.0)


def test_waiting_before_the_first_unit_is_no_part_of_the_speed() -> None:
    """Texts are read for a minute, and reported as nothing done, before the first step."""
    pace = after(*((float(s), 0, 100) for s in range(61)), (70.0, 10, 100))
    assert pace.left_s(70.0) == pytest.approx(90.0)


@pytest.mark.parametrize(
    "second",
    [((40.0, 1, 4), (44.0, 2, 4)), ((40.0, 50, 200), (44.0, 51, 200))],
    ids=["counts from its beginning", "another total after the first was done"],
)
def test_a_second_part_has_its_own_speed(second: tuple[tuple[float, int, int], ...]) -> None:
    pace = after((0.0, 0, 10), (39.0, 10, 10), *second)
    assert pace.n_parts == 2
    (begun, first, total), (now, done, _) = second
    assert pace.left_s(now) == pytest.approx((total - done) * (now - begun) / (done - first))


def test_a_second_part_of_the_same_size_counts_from_its_beginning() -> None:
    """The first may have stopped early, as training does when it has converged."""
    pace = after((0.0, 0, 10), (30.0, 6, 10), (40.0, 1, 10), (44.0, 2, 10))
    assert pace.n_parts == 2
    assert pace.left_s(44.0) == pytest.approx(32.0)


def test_a_total_that_grows_is_the_same_part() -> None:
    pace = after((0.0, 0, 10), (10.0, 5, 10), (12.0, 6, 20))
    assert pace.n_parts == 1
    assert pace.left_s(12.0) == pytest.approx(28.0)


def test_what_is_not_known_is_not_told() -> None:
    assert Pace().left_s(100.0) is None
    assert after((0.0, 3, 10)).left_s(100.0) is None, "one report has no speed"
    assert after((0.0, 0, 10), (MEASURE_S / 2, 1, 10)).left_s(MEASURE_S / 2) is None
    unknown = after((0.0, 0, None), (10.0, 5, None))
    assert unknown.per_second(10.0) == 0.5
    assert unknown.left_s(10.0) is None


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 50), st.integers(0, 50) | st.none())))
def test_no_report_gives_a_negative_time(reports: list[tuple[float, int, int | None]]) -> None:
    now = 0.0
    pace = Pace()
    for seconds, done, total in reports:
        now += seconds
        pace.report(now, done, total)
        left = pace.left_s(now)
        assert left is None or left >= 0


def test_what_is_left_of_a_part_is_not_told_as_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 11.0, 22.0, 33.0, 44.0])
    monkeypatch.setattr("fluoroscope.progress.time.monotonic", lambda: next(clock))
    out = StringIO()
    tracker = Tracker("Judging", "units", Console(file=out, force_terminal=False))
    for done, total in ((0, 4), (2, 4), (4, 4), (1, 9), (2, 9)):
        tracker(done, total, "[/note]")
    lines = out.getvalue().splitlines()
    assert lines == [
        "Judging: 2 of 4 units, 0.18 units/s, 11 s left ([/note])",
        "Judging: 4 of 4 units, 0.18 units/s, 0 s left ([/note])",
        "Judging: 1 of 9 units ([/note])",
        "Judging: 2 of 9 units, 0.091 units/s, 77 s left of this part ([/note])",
    ]


def test_a_call_known_to_have_parts_says_so_from_the_first_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 0.0, 11.0])
    monkeypatch.setattr("fluoroscope.progress.time.monotonic", lambda: next(clock))
    out = StringIO()
    tracker = Tracker("Judging", "units", Console(file=out), in_parts=True)
    tracker(0, 4)
    tracker(2, 4)
    assert out.getvalue() == "Judging: 2 of 4 units, 0.18 units/s, 11 s left of this part\n"


def test_the_bar_says_the_same_and_takes_no_note_for_markup(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("fluoroscope.progress.time.monotonic", lambda: now[0])
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=160, no_color=True)
    tracker = Tracker("[b]Judging", "units", console, in_parts=True)
    tracker(0, 4)
    now[0] = 10.0
    tracker(2, 4, "[/note]")
    tracker.close()
    for told in ("[b]Judging", "2/4", "0.2 units/s, 10 s left of this part", "[/note]"):
        assert told in out.getvalue()
