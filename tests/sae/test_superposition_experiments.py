"""Experiments end to end at the smallest size: journals, claims, tables, resuming."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fluoroscope.probes.errors import OptionError
from fluoroscope.sae.superposition.claims import Claim, correlation_interval, seed_interval
from fluoroscope.sae.superposition.experiment import Experiment
from fluoroscope.sae.superposition.experiments.adversarial import AdversarialOptions, adversarial
from fluoroscope.sae.superposition.experiments.capacity import CapacityOptions, capacity
from fluoroscope.sae.superposition.experiments.dropout import DropoutOptions, dropout
from fluoroscope.sae.superposition.experiments.grokking import GrokkingOptions, grokking
from fluoroscope.sae.superposition.experiments.parity import ParityOptions, parity
from fluoroscope.sae.superposition.experiments.sort import SortOptions, sort
from fluoroscope.sae.superposition.experiments.toy import ToyExperimentOptions, toy
from fluoroscope.sae.superposition.journal import Journal, run_units

SMALL: list[tuple[Any, Any, int]] = [
    (toy, ToyExperimentOptions(n_models=5, n_steps=10, n_rows=200, epochs=2), 2 * 5),
    (
        parity,
        ParityOptions(
            width=8, expansions=(1, 2), penalties=(0.01, 0.1, 10.0), n_seeds=2, n_epochs=1,
            sae_epochs=1, n_rows=64,
        ),
        2 * 3 * 2,
    ),
    (
        dropout,
        DropoutOptions(widths=(4, 8), rates=(0.5, 0.0), n_seeds=2, n_epochs=1, sae_epochs=1, n_rows=64),
        2 * 2 * 2,
    ),
    (
        capacity,
        CapacityOptions(
            widths=(4, 8), n_tasks=(1, 2), n_seeds=2, n_steps=4, n_latents=16, sae_epochs=1, n_rows=64
        ),
        2 * 2 * 2,
    ),
    (
        sort,
        SortOptions(
            programs=("sort",), widths=(31, 45), n_seeds=2, n_steps=2, n_latents=16, sae_epochs=1,
            n_sequences=20,
        ),
        2,
    ),
    (
        grokking,
        GrokkingOptions(
            modulus=5, width=8, n_seeds=2, n_epochs=4, n_checkpoints=3, n_latents=16, sae_epochs=1,
            sgld_steps=4,
        ),
        2 * 3,
    ),
    (
        adversarial,
        AdversarialOptions(
            classes=(2, 3), widths=(4,), budgets=(0.0, 0.2), n_seeds=2, n_epochs=1, attack_steps=2,
            sae_epochs=1,
        ),
        2 * 2 * 2 * 2 * 2,
    ),
]  # fmt: skip
NAMES = [measure.name for measure, _, _ in SMALL]


@pytest.mark.parametrize(("measure", "options", "n_rows"), SMALL, ids=NAMES)
def test_every_experiment_has_its_rows_resumes_and_is_stored_whole(
    measure: Any, options: Any, n_rows: int, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    journal = Journal(tmp_path, measure.name, options)
    found = measure(options, journal=journal, progress=lambda d, t, n: seen.append((d, t)))
    assert len(found.x) == n_rows
    assert seen[-1][0] == seen[-1][1]
    assert [d for d, _ in seen] == sorted(d for d, _ in seen), "progress never goes back"
    assert "not calibrated" in found.notes[0]
    assert set(found.claim_verdict.tolist()) <= {"confirmed", "not confirmed", "undecided"}
    assert json.loads(found.options) == json.loads(json.dumps(dataclasses.asdict(options)))

    kept = Journal(tmp_path, measure.name, options)
    assert kept.n_done == journal.n_done > 0
    # Nothing is measured again: every unit is done at once, without steps in between.
    calls: list[int] = []
    again = measure(options, journal=kept, progress=lambda d, t, n: calls.append(d))
    assert calls == [1000 * (i + 1) for i in range(kept.n_done)]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        found.save(file.create_group("a"))
        again.save(file.create_group("b"))
        first, second = Experiment.load(file["a"]), Experiment.load(file["b"])
    for field in dataclasses.fields(Experiment):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, np.ndarray) and one.dtype.kind == "f":
            np.testing.assert_array_equal(one, other)
        else:
            assert np.array_equal(one, other), field.name


@pytest.mark.parametrize(("measure", "options"), [case[:2] for case in SMALL[:2]], ids=NAMES[:2])
def test_the_same_seed_gives_the_same_numbers(measure: Any, options: Any) -> None:
    np.testing.assert_array_equal(measure(options).features, measure(options).features)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ToyExperimentOptions(n_models=3), "at least 4 models"),
        (lambda: ParityOptions(reduction="median"), "sum or mean"),
        (lambda: DropoutOptions(rates=(0.2,)), "hold 0"),
        (lambda: CapacityOptions(widths=(8,)), "two widths"),
        (lambda: SortOptions(widths=()), "not be empty"),
        (lambda: GrokkingOptions(train_share=1.0), "between 0 and 1"),
        (lambda: AdversarialOptions(budgets=(0.1, 0.2)), "must hold 0"),
        (lambda: AdversarialOptions(classes=(11,)), "2 to 10"),
    ],
)
def test_impossible_sizes_are_refused(make: Any, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        make()


# -- journal -----------------------------------------------------------------------------------


def test_an_interrupted_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    options = ToyExperimentOptions()
    calls: list[str] = []

    def measure(unit: str, progress: object) -> list[dict[str, Any]]:
        calls.append(unit)
        if unit == "c" and len(calls) == 3:
            raise KeyboardInterrupt
        return [{"unit": unit, "value": float("nan")}]

    with pytest.raises(KeyboardInterrupt):
        run_units(["a", "b", "c"], measure, Journal(tmp_path, "x", options))
    rows = run_units(["a", "b", "c"], measure, Journal(tmp_path, "x", options))
    assert calls == ["a", "b", "c", "c"]
    assert [row["unit"] for row in rows] == ["a", "b", "c"]
    assert math.isnan(rows[0]["value"])


def test_a_line_cut_short_is_done_again_and_what_follows_is_whole(tmp_path: Path) -> None:
    options = ToyExperimentOptions()
    journal = Journal(tmp_path, "x", options)
    journal.add("a", [{"v": 1}])
    assert journal.path is not None
    with journal.path.open("a") as file:
        file.write('{"unit": "b", "ro')
    torn = Journal(tmp_path, "x", options)
    assert (torn.get("a"), torn.get("b")) == ([{"v": 1}], None)
    torn.add("b", [{"v": 2}])
    assert Journal(tmp_path, "x", options).get("b") == [{"v": 2}]


def test_other_options_are_another_journal_and_removal_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "j"
    journal = Journal(folder, "x", ToyExperimentOptions())
    journal.add("a", [])
    assert Journal(folder, "x", ToyExperimentOptions(seed=1)).n_done == 0
    journal.clear()
    assert journal.n_done == 0
    assert not folder.exists()


# -- claims ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "side", "verdict"),
    [
        (0.1, 0.3, "above", "confirmed"),
        (-0.3, -0.1, "above", "not confirmed"),
        (-0.1, 0.1, "above", "undecided"),
        (-0.3, -0.1, "below", "confirmed"),
        (0.1, 0.3, "below", "not confirmed"),
        (math.nan, math.nan, "below", "undecided"),
        (-math.inf, math.inf, "above", "undecided"),
    ],
)
def test_an_interval_decides_or_does_not(low: float, high: float, side: Any, verdict: str) -> None:
    claim = Claim(text="", paper="", estimate=0, low=low, high=high, side=side)
    assert claim.verdict == verdict


def test_seed_intervals_are_students() -> None:
    """For 1, 2, 3: mean 2, t(0.975, 2) / sqrt(3) = 2.484 either side."""
    assert seed_interval([1, 2, 3, math.nan]) == pytest.approx(
        (2, 2 - 2.4841, 2 + 2.4841), abs=1e-4
    )
    assert seed_interval([5.0]) == (5, -math.inf, math.inf)
    assert all(math.isnan(v) for v in seed_interval([math.nan]))


def test_a_correlation_interval_holds_the_planted_correlation() -> None:
    """One interval at 95 %; the seed is fixed, so it holds or does not, always."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=400)
    y = 0.8 * x + 0.6 * generator.normal(size=400)
    r, low, high = correlation_interval(x, y)
    assert r == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert low < 0.8 < high
    assert high - low < 0.12
