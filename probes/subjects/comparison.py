"""One decoder for many subjects against a decoder each: reading, joining, synthesis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from torch import Tensor

from ..errors import OptionError
from ..results import Result, described
from .baselines import canonical, generalised, relative_ridge, ridge, shared_linear
from .bridge import Bridge, BridgeOptions
from .data import FEWEST, Subject
from .metrics import METRICS, item_scores, score, with_bounds
from .patching import ORIGINS, PATCHED, Host, patch_built
from .synthesis import BUILDING, Built, build_signals, built_share
from .training import BridgeTraining, reset_tune, train_bridge

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class SubjectsComparison(Result):
    """How well meanings are read off each subject, and how a new one joins."""

    kind: ClassVar[str] = "subjects"
    what: str = described("what the subjects are")
    subjects: np.ndarray = described("names", axes=("subjects",))
    widths: np.ndarray = described("numbers in a signal", axes=("subjects",))
    n_train: np.ndarray = described("training items", axes=("subjects",))
    n_test: int = described("test items, the same for all")
    metrics: np.ndarray = described("names of the metrics", axes=("metrics",))
    methods: np.ndarray = described("ways of reading", axes=("methods",))
    read: np.ndarray = described(
        "score of each way; mean, lower and upper 95 % bound over documents of the items",
        axes=("methods", "subjects", "metrics", "bounds"),
    )
    newcomer: str = described("who joins with few items")
    n_few: np.ndarray = described("items the newcomer has", axes=("few",), unit="items")
    joining: np.ndarray = described("ways of joining", axes=("joining",))
    joined: np.ndarray = described(
        "score of the newcomer; mean and bounds over documents of the items",
        axes=("joining", "few", "metrics", "bounds"),
    )
    building: np.ndarray = described("ways of building signals", axes=("building",))
    synthesis: np.ndarray = described(
        "share of the target's variance explained by signals built from the source's, on the second "
        "half of the test items",
        axes=("building", "source", "target"),
    )
    subject_told: float = described("accuracy of telling the subject from the shared embedding")
    subject_chance: float = described("that of guessing")
    options: dict[str, Any] = described("architecture and training")
    control: np.ndarray | None = described(
        "whether nothing was learnt by what gives the signals", axes=("subjects",), default=None
    )
    floor: np.ndarray | None = described(
        "number of the control that is a subject's floor, the same architecture untrained if there "
        "is one; -1 for none", axes=("subjects",), default=None,
    )  # fmt: skip
    above_floor: np.ndarray | None = described(
        "score above that of the floor, item by item; mean and bounds over documents",
        axes=("methods", "subjects", "metrics", "bounds"), default=None,
    )  # fmt: skip
    patched: np.ndarray | None = described(
        "ways of building whose states were put into models", axes=("patched",), default=None
    )
    recovered: np.ndarray | None = described(
        "share of the mean state's loss that a built state does not lose, 1 for the own state; value "
        "and bounds over documents", axes=("patched", "source", "target", "bounds"), default=None,
    )  # fmt: skip
    patch_loss: np.ndarray | None = described(
        "what a built state costs the target's predictions at the item's positions",
        axes=("patched", "source", "target", "bounds"), unit="nats", default=None,
    )  # fmt: skip
    patch_floor: np.ndarray | None = described(
        "what the mean state costs", axes=("target", "bounds"), unit="nats", default=None
    )
    patch_clipped: np.ndarray | None = described(
        "what standardising and clipping the own state costs",
        axes=("target", "bounds"), unit="nats", default=None,
    )  # fmt: skip
    origins: np.ndarray | None = described(
        "what states are built from", axes=("origins",), default=None
    )
    patch_summary: np.ndarray | None = described(
        "share recovered, mean over pairs", axes=("patched", "origins", "bounds"), default=None
    )
    n_patched: int = described("items that states were put in for", default=0)

    @property
    def proper(self) -> np.ndarray:
        """Which subjects are no controls."""
        if self.control is None:
            return np.ones(len(self.subjects), dtype=bool)
        return ~np.asarray(self.control, dtype=bool)


WAYS = ("bridge", "alone", "ridge", "shared linear", "CCA", "GCCA", "relative", "shuffled")
"""Ways of reading: the bridge; the same network for one subject; linear maps, of which "GCCA" and
"relative" have one decoder behind a common space; a control."""
JOINING = ("reset-tuned", "from scratch", "ridge", "relative, zero-shot")
"""Ways of joining. The last uses none of the newcomer's meanings, however many items it has."""


def compare_subjects(
    subjects: Sequence[Subject],
    architecture: BridgeOptions | None = None,
    recipe: BridgeTraining | None = None,
    *,
    what: str,
    n_few: Sequence[int] = (32, 128, 512),
    hosts: Mapping[str, Host] | None = None,
    n_patched: int = 40,
    progress: Progress | None = None,
) -> SubjectsComparison:
    """Train a bridge and everything it is to be compared with.

    The last subject is also left out of a second bridge, which it then joins with few items.
    Controls take part like subjects; what is said on average leaves them out.

    Args:
        subjects: At least three.
        architecture: The bridge's options.
        recipe: Its training; a network for one subject, or for few items, is trained alike.
        what: What the subjects are, for the report.
        n_few: Items the newcomer joins with; those it does not have are left out.
        hosts: By subject's name, the model that built states are put into; needs `linear` signals.
        n_patched: Items that is done for.
        progress: Called after every optimiser step, then after every item that is put in.

    Raises:
        OptionError: Fewer than three subjects or two that are no controls, a last one that is a
            control, no feasible number of items to join with, or hosts for signals that are pooled.
    """
    if len(subjects) < 3:
        raise OptionError(f"a comparison needs at least three subjects, got {len(subjects)}.")
    architecture, recipe = architecture or BridgeOptions(), recipe or BridgeTraining()
    n_proper = sum(not subject.is_control for subject in subjects)
    if n_proper < 2:
        raise OptionError(f"at least two subjects must be no controls, got {n_proper}.")
    newcomer = subjects[-1]
    if newcomer.is_control:
        raise OptionError(f"the last subject joins and must be no control, got {newcomer.name!r}.")
    if hosts and architecture.aggregate != "linear":
        raise OptionError(
            "hosts need built states as wide as the model's: aggregate must be 'linear', got "
            f"{architecture.aggregate!r}."
        )
    few = [n for n in n_few if FEWEST <= n <= len(newcomer.train)]
    if not few:
        raise OptionError(
            f"n_few must hold numbers from {FEWEST} to {len(newcomer.train)}, got {list(n_few)}."
        )
    counter = _Counter(recipe.n_steps, 3 + len(subjects) + 2 * len(few), progress)
    bridge = train_bridge(subjects, architecture, recipe, progress=counter.next("bridge"))
    columns = _read(subjects, bridge, architecture, recipe, counter)
    uncycled = train_bridge(
        subjects, architecture, replace(recipe, cycle_weight=0.0), progress=counter.next("no cycle")
    )
    joined = _join(subjects, few, architecture, recipe, counter)
    told, chance = _telling_subjects(bridge, subjects)
    built = build_signals(bridge, uncycled, subjects)
    floor = np.array([_floor(subject, subjects) for subject in subjects])
    return SubjectsComparison(
        what=what,
        subjects=np.array([subject.name for subject in subjects]),
        widths=np.array([subject.width for subject in subjects]),
        n_train=np.array([len(subject.train) for subject in subjects]),
        n_test=len(newcomer.test),
        metrics=np.array(METRICS),
        methods=np.array(list(columns)),
        read=_bounded(columns, subjects),
        newcomer=newcomer.name,
        n_few=np.array(few),
        joining=np.array(list(joined)),
        joined=np.stack(list(joined.values())),
        building=np.array(BUILDING),
        synthesis=built_share(built, bridge, subjects),
        subject_told=told,
        subject_chance=chance,
        options={"architecture": asdict(architecture), "training": asdict(recipe)},
        control=np.array([subject.is_control for subject in subjects]),
        floor=floor,
        above_floor=_above_floor(columns, floor, subjects),
        **(_put_back(subjects, hosts, built, n_patched, progress) if hosts else {}),
    )


Scores = dict[str, np.ndarray]
"""Scores by way; axes as in the result."""
Columns = dict[str, list[np.ndarray]]
"""Scores of every test item, by way and subject."""


def _read(
    subjects: Sequence[Subject],
    bridge: Bridge,
    architecture: BridgeOptions,
    recipe: BridgeTraining,
    counter: _Counter,
) -> Columns:
    width = max(subject.width for subject in subjects)
    together = {"shared linear": shared_linear(subjects, width), "GCCA": generalised(subjects)}
    if _have_anchors(subjects):
        together["relative"] = relative_ridge(subjects, subjects)
    scores = {way: [] for way in WAYS}
    for subject in subjects:
        alone = train_bridge([subject], architecture, recipe, progress=counter.next(subject.name))
        by_bridge = _meaning(bridge, subject)
        predicted = {
            "bridge": by_bridge,
            "alone": _meaning(alone, subject),
            "ridge": ridge(subject.train, subject.train_targets, subject.test),
            "CCA": canonical(subject.train, subject.train_targets, subject.test),
            "shuffled": by_bridge.roll(1, 0),
        } | {way: found[subject.name] for way, found in together.items()}
        for way, found in predicted.items():
            scores[way].append(item_scores(found, subject.test_targets))
    return {way: found for way, found in scores.items() if found}


def _bounded(columns: Columns, subjects: Sequence[Subject]) -> np.ndarray:
    """Means and bounds; axes as in `read`."""
    return np.stack([
        [
            with_bounds(own, subject.test_documents)
            for own, subject in zip(one, subjects, strict=True)
        ]
        for one in columns.values()
    ])


def _floor(subject: Subject, subjects: Sequence[Subject]) -> int:
    """Number of the control that is a subject's floor, its own before that of all; -1 for none."""
    if subject.is_control:
        return -1
    controls = {one.floor_of: number for number, one in enumerate(subjects) if one.is_control}
    return controls.get(subject.name, controls.get("", -1))


def _above_floor(columns: Columns, floor: np.ndarray, subjects: Sequence[Subject]) -> np.ndarray:
    """What subjects have over their floors, pair by pair of the same items."""
    found = np.full((len(columns), len(subjects), len(METRICS), 3), np.nan)
    for way, one in enumerate(columns.values()):
        for j, below in enumerate(floor.tolist()):
            if below >= 0:
                found[way, j] = with_bounds(one[j] - one[below], subjects[j].test_documents)
    return found


def _put_back(
    subjects: Sequence[Subject],
    hosts: Mapping[str, Host],
    built: Built,
    n_patched: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """Fields of the result on states put into models."""
    found = patch_built(subjects, hosts, built, n_items=n_patched, progress=progress)
    return {
        "patched": np.array(PATCHED),
        "recovered": found.recovered,
        "patch_loss": found.loss,
        "patch_floor": found.floor,
        "patch_clipped": found.clipped,
        "origins": np.array(ORIGINS),
        "patch_summary": found.summary,
        "n_patched": found.n_items,
    }


def _have_anchors(subjects: Sequence[Subject]) -> bool:
    return all(subject.anchors is not None for subject in subjects)


def _join(
    subjects: Sequence[Subject],
    few: Sequence[int],
    architecture: BridgeOptions,
    recipe: BridgeTraining,
    counter: _Counter,
) -> Scores:
    *others, newcomer = subjects
    base = train_bridge(others, architecture, recipe, progress=counter.next("bridge of the others"))
    scores = {way: [] for way in JOINING}
    unseen = {}
    if _have_anchors(subjects):
        unseen = {"relative, zero-shot": relative_ridge(others, [newcomer])[newcomer.name]}
    for n in few:
        small = newcomer.few(n, seed=recipe.seed)
        joining = Bridge(others, architecture)
        joining.load_state_dict(base.state_dict())
        reset_tune(joining, small, others, recipe, progress=counter.next(f"joining with {n}"))
        scratch = train_bridge(
            [small], architecture, recipe, progress=counter.next(f"scratch with {n}")
        )
        predicted = {
            "reset-tuned": _meaning(joining, newcomer),
            "from scratch": _meaning(scratch, newcomer),
            "ridge": ridge(small.train, small.train_targets, newcomer.test),
        } | unseen
        for way, found in predicted.items():
            scores[way].append(score(found, newcomer.test_targets, newcomer.test_documents))
    return {way: np.stack(found) for way, found in scores.items() if found}


@torch.no_grad()
def _meaning(bridge: Bridge, subject: Subject) -> Tensor:
    return bridge.read(subject.name, subject.test)


@torch.no_grad()
def _telling_subjects(bridge: Bridge, subjects: Sequence[Subject]) -> tuple[float, float]:
    """Cross-validated accuracy of naming the subject from an embedding; low means they mix."""
    rows = [bridge.embed(subject.name, subject.test) for subject in subjects]
    labels = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    probe = LogisticRegression(max_iter=500)
    accuracy = cross_val_score(probe, torch.cat(rows).numpy(), labels, cv=3)
    return float(accuracy.mean()), 1 / len(rows)


class _Counter:
    """One progress bar over several trainings of equal length."""

    def __init__(self, n_steps: int, n_runs: int, progress: Progress | None) -> None:
        self._steps, self._runs, self._progress, self._done = n_steps, n_runs, progress, 0

    def next(self, name: str) -> Progress:
        begun = self._done * self._steps
        self._done += 1

        def told(step: int, _: int, note: str) -> None:
            if self._progress is not None:
                self._progress(begun + step, self._steps * self._runs, f"{name}: {note}")

        return told
