"""Two runs side by side."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from fluoroscope.commands.compare import compare
from fluoroscope.probes import Provenance, Run, create_run, open_run
from fluoroscope.probes.errors import OptionError, RunExistsError
from fluoroscope.probes.results import Result, described
from fluoroscope.reports.comparing import compare_runs, difference_with_bounds
from fluoroscope.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Measured(Result):
    kind: ClassVar[str] = "measured"
    window: int = described("length of texts")
    loss: float = described("mean loss", unit="nats")
    layers: np.ndarray = described("layer numbers", axes=("layers",))
    norm: np.ndarray = described("norm", axes=("layers",))
    norm_low: np.ndarray = described("lower bound", axes=("layers",))
    norm_high: np.ndarray = described("upper bound", axes=("layers",))
    heads: np.ndarray = described("mass", axes=("layers", "heads"))
    name: str = described("a name")


def measured(shift: float = 0.0, *, window: int = 8, first_layer: int = 0) -> Measured:
    layers = np.arange(first_layer, first_layer + 3)
    norm = np.array([1.0, 2.0, 3.0]) + shift * np.array([0, 0, 1])
    return Measured(
        window=window, loss=2.0 + shift, layers=layers, norm=norm, norm_low=norm - 0.3,
        norm_high=norm + 0.4, heads=np.arange(6.0).reshape(3, 2) + shift, name="x",
    )  # fmt: skip


def run_with(path: Path, result: Result, name: str = "measured") -> Run:
    with create_run(path, provenance=Provenance(model={"name": path.stem})) as writer:
        writer.close()
    run = open_run(path)
    run.add_result(name, result)
    return open_run(path)


def test_bounds_of_a_difference_join_both_intervals() -> None:
    a, b = np.array([[1.0, 0.7, 1.4]]), np.array([[3.0, 2.6, 3.3]])
    np.testing.assert_allclose(
        difference_with_bounds(a, b), [[2, 2 - np.hypot(0.4, 0.4), 2 + np.hypot(0.3, 0.3)]]
    )


def test_bounds_cover_the_true_difference_as_often_as_promised() -> None:
    """4,000 pairs of normal means: 95 % +- 1.4 % is four standard errors (p < 1e-4)."""
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 0.2])
    means = rng.normal(size=(4000, 2)) * spread + [0, 5]
    a, b = (
        np.stack([means[:, k], means[:, k] - 1.96 * spread[k], means[:, k] + 1.96 * spread[k]], 1)
        for k in range(2)
    )
    found = difference_with_bounds(a, b)
    covered = ((found[:, 1] < 5) & (found[:, 2] > 5)).mean()
    assert covered == pytest.approx(0.95, abs=0.014)


def test_equal_runs_do_not_differ(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / f"{n}.h5", measured()) for n in "ab"]
    (found,) = compare_runs(*runs).values()
    assert set(found.quantities) == {"heads", "norm", "loss"}
    assert (found.difference[:, 0] == 0).all()
    assert found.refused.size == 0
    assert found.origins.tolist() == ["model.name: 'a' against 'b'"]


def test_a_shift_is_found_where_it_is(tmp_path: Path) -> None:
    runs = [run_with(tmp_path / f"{n}.h5", measured(s)) for n, s in (("a", 0.0), ("b", 1.0))]
    (found,) = compare_runs(*runs).values()
    rows = {
        name: slice(*found.offsets[k : k + 2]) for k, name in enumerate(found.quantities.tolist())
    }
    np.testing.assert_allclose(found.difference[rows["norm"], 0], [0, 0, 1])
    clear = found.difference[rows["norm"]][:, 1] > 0
    assert clear.tolist() == [False, False, True]
    np.testing.assert_allclose(found.a[rows["heads"], 0], [0.5, 2.5, 4.5])
    assert np.isnan(found.difference[rows["loss"], 1]).all(), "no interval, no bounds"


def test_other_settings_and_other_coordinates_are_refused_with_the_reason(tmp_path: Path) -> None:
    base = run_with(tmp_path / "a.h5", measured())
    other = run_with(tmp_path / "b.h5", measured(window=9))
    (found,) = compare_runs(base, other).values()
    assert found.refused.tolist() == ["window is 8 in the first and 9 in the second"]
    assert len(found.quantities) == 0
    moved = run_with(tmp_path / "c.h5", measured(first_layer=5))
    (found,) = compare_runs(base, moved).values()
    assert "norm stands over other layers in the second" in found.refused
    assert found.quantities.tolist() == ["loss"]


def test_nothing_in_common_says_what_each_holds(tmp_path: Path) -> None:
    one = run_with(tmp_path / "a.h5", measured(), "here")
    other = run_with(tmp_path / "b.h5", measured(), "there")
    with pytest.raises(OptionError, match=r"a\.h5 holds here; b\.h5 holds there"):
        compare_runs(one, other)


def test_the_command_writes_a_page_that_names_both(tmp_path: Path) -> None:
    for name, shift in (("before", 0.0), ("after", 1.0)):
        run_with(tmp_path / f"{name}.h5", measured(shift))
    terminal, out = Terminal(json=True), tmp_path / "two.h5"
    paths = {"first": tmp_path / "before.h5", "second": tmp_path / "after.h5"}
    said = compare(terminal, **paths, output=out)
    assert said["compared"][0]["n_clear"] == 1
    page = (tmp_path / "two.html").read_text(encoding="utf-8")
    assert "measured: before and after" in page
    assert "They differ most at layers 2: 3 and 4." in page
    with pytest.raises(RunExistsError, match="--overwrite"):
        compare(terminal, **paths, output=out)
    with pytest.raises(OptionError, match="a file of its own"):
        compare(terminal, **paths, output=paths["first"], overwrite=True)
    assert open_run(paths["first"]).results
