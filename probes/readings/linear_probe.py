"""Linear probes: what can be read off a layer by a linear classifier, and what that proves.

Logistic regression on standardised rows, split by document (never by token), its penalty chosen on a
third split. Beside the accuracy stand: the majority class; the same probe on token identity alone
(most frequent class of each token id); and the control task of Hewitt & Liang (1909.03368), a fixed
random label per token id with the same distribution. Selectivity is accuracy minus control accuracy:
a probe that learns random labels as well says little about the representation.

Two more comparisons: the description length of the labels by online coding (`mdl.py`), and the same
probe on the states of a model of the same architecture with random weights, where one is captured: what
can be read there needs no training.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ..errors import OptionError
from ..model import Model
from ..results import Result, described
from ..runfile import Run
from .bootstrap import mean_with_interval
from .labels import labels_of
from .mdl import compression, online_code_bits
from .random_baseline import random_states
from .texts import source_name

Progress = Callable[[int, int, str], None]

PENALTIES = (0.001, 0.01, 0.1)
"""Inverse regularisation strengths tried; small ones are the more selective."""
MIN_DOCUMENTS = 6


@dataclass(frozen=True, kw_only=True)
class LinearProbe(Result):
    """Accuracy of a linear probe at each site, beside what it must be compared with."""

    kind: ClassVar[str] = "linear_probe"
    label: str = described("what is probed for")
    classes: np.ndarray = described("names of the classes", axes=("classes",))
    sites: np.ndarray = described("where the rows are from", axes=("sites",))
    accuracy: np.ndarray = described("share of held-out tokens right", axes=("sites",))
    accuracy_low: np.ndarray = described("lower 95 % bound over documents", axes=("sites",))
    accuracy_high: np.ndarray = described("upper bound", axes=("sites",))
    control: np.ndarray = described("the same with random labels per token", axes=("sites",))
    selectivity: np.ndarray = described("accuracy minus control accuracy", axes=("sites",))
    penalty: np.ndarray = described("inverse regularisation chosen", axes=("sites",))
    majority: float = described("share of the most frequent class")
    token_identity: float = described("accuracy of guessing from the token id alone")
    n_train: int = described("tokens trained on")
    n_test: int = described("tokens tested on")
    n_test_documents: int = described("documents tested on")
    codelength: np.ndarray | None = described(
        "online code of the training labels given the rows",
        axes=("sites",),
        unit="bits",
        default=None,
    )
    compression: np.ndarray | None = described(
        "uniform code over online code; 1 where nothing is learned", axes=("sites",), default=None
    )
    random_model: np.ndarray | None = described(
        "accuracy on the states of the same architecture with random weights",
        axes=("sites",),
        default=None,
    )


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, no document in two of them."""

    train: Int[np.ndarray, " train"]
    choose: Int[np.ndarray, " choose"]
    test: Int[np.ndarray, " test"]


def split_by_document(documents: Int[np.ndarray, " rows"], *, seed: int = 0) -> Split:
    """60 % of the documents to train on, 20 % to choose the penalty, 20 % to test.

    Raises:
        OptionError: There are too few documents.
    """
    n_documents = len(np.unique(documents))
    if n_documents < MIN_DOCUMENTS:
        raise OptionError(
            f"A probe needs at least {MIN_DOCUMENTS} documents to be split by document, got "
            f"{n_documents}. Capture more (--tokens), or shorter ones (--context)."
        )
    rows = np.arange(len(documents))
    first = GroupShuffleSplit(1, test_size=0.4, random_state=seed)
    train, rest = next(first.split(rows, groups=documents))
    second = GroupShuffleSplit(1, test_size=0.5, random_state=seed)
    choose, test = next(second.split(rest, groups=documents[rest]))
    return Split(train, rest[choose], rest[test])


def control_labels(
    tokens: Int[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"], *, seed: int = 0
) -> Int[np.ndarray, " rows"]:
    """A fixed random label per token id, drawn from the labels' own distribution."""
    generator = np.random.default_rng(seed)
    kinds, inverse = np.unique(tokens, return_inverse=True)
    return generator.choice(labels, size=len(kinds))[inverse]


def fit_probe(
    rows: Float[np.ndarray, "rows d_model"], labels: Int[np.ndarray, " rows"], split: Split
) -> tuple[np.ndarray, float]:
    """Predictions on the test rows, and the penalty chosen."""
    if len(np.unique(labels[split.train])) == 1:  # rare labels, or a control task's draw
        return np.full(len(split.test), labels[split.train[0]]), PENALTIES[0]
    best, chosen, penalty = -1.0, None, PENALTIES[0]
    for candidate in PENALTIES:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=candidate, max_iter=200))
        with warnings.catch_warnings():
            # An early stop at 200 steps is regularisation too; the third split judges it.
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(rows[split.train], labels[split.train])
        score = probe.score(rows[split.choose], labels[split.choose])
        if score > best:
            best, chosen, penalty = score, probe, candidate
    assert chosen is not None
    return chosen.predict(rows[split.test]), penalty


def linear_probe(
    run: Run,
    label: str,
    sites: Sequence[str] | None = None,
    *,
    random_weights_of: Model | None = None,
    max_tokens: int = 6000,
    seed: int = 0,
    progress: Progress | None = None,
) -> LinearProbe:
    """Probe sites of a run file for a label.

    Args:
        run: An open run file with a vocabulary.
        label: Name of ready-made labels (see `labels.LABELS`).
        sites: Which sites; None for all in the file.
        random_weights_of: The model the run came from: its architecture with random weights reads the
            same tokens, and the same probe is fitted there. None leaves that comparison out.
        max_tokens: Use the first documents up to this many tokens.
        seed: Fixes the split and the control labels.
        progress: Called after every site.

    Raises:
        OptionError: Unknown label, or too few documents.
        UnknownSiteError: The run holds no rows of a site.
    """
    labels, classes = labels_of(run, label)
    n_rows = int(run.tokens.offsets[np.searchsorted(run.tokens.offsets, max_tokens, "right") - 1])
    n_rows = n_rows or min(max_tokens, len(labels))
    labels, tokens = labels[:n_rows], run.tokens.ids[:n_rows]
    documents = source_documents(run, n_rows)
    split = split_by_document(documents, seed=seed)
    control = control_labels(tokens, labels, seed=seed)
    chosen = list(run.sites if sites is None else sites)
    untrained = {}
    if random_weights_of is not None:
        untrained = random_states(
            random_weights_of, run, chosen, n_rows=n_rows, seed=seed, progress=progress
        )
    order = _by_document(split.train, documents, seed=seed)
    found = []
    for number, site in enumerate(chosen):
        rows = run.activations[site].read(slice(0, n_rows)).float().numpy()
        predicted, penalty = fit_probe(rows, labels, split)
        right = predicted == labels[split.test]
        controlled, _ = fit_probe(rows, control, split)
        bits = online_code_bits(rows[order], labels[order], n_classes=len(classes))
        without_training = np.nan
        if untrained:
            guessed, _ = fit_probe(untrained[site], labels, split)
            without_training = (guessed == labels[split.test]).mean()
        found.append(
            (*_accuracy(right, documents[split.test]), (controlled == control[split.test]).mean(),
             penalty, bits, without_training)
        )  # fmt: skip
        if progress is not None:
            progress(number + 1, len(chosen), site)
    accuracy, low, high, controls, penalties, bits, baseline = map(
        np.array, zip(*found, strict=True)
    )
    return LinearProbe(
        label=label,
        classes=np.array(classes, dtype=str),
        sites=np.array(chosen, dtype=str),
        accuracy=accuracy,
        accuracy_low=low,
        accuracy_high=high,
        control=controls,
        selectivity=accuracy - controls,
        penalty=penalties,
        majority=float((labels[split.test] == _most(labels[split.train])).mean()),
        token_identity=_from_identity(tokens, labels, split),
        n_train=len(split.train),
        n_test=len(split.test),
        n_test_documents=len(np.unique(documents[split.test])),
        codelength=bits,
        compression=np.array([compression(b, len(order), len(classes)) for b in bits]),
        random_model=baseline if untrained else None,
    )


def _by_document(
    rows: Int[np.ndarray, " rows"], documents: Int[np.ndarray, " all"], *, seed: int
) -> Int[np.ndarray, " rows"]:
    """The rows with their documents shuffled, each document in one piece."""
    kinds, number = np.unique(documents[rows], return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(kinds))
    return rows[np.argsort(place[number], kind="stable")]


def source_documents(run: Run, n_rows: int) -> Int[np.ndarray, " rows"]:
    """Number of each row's source document; windows of one document count as one."""
    sources = [source_name(name) for name in run.tokens.names]
    _, number = np.unique(sources, return_inverse=True)
    window = np.searchsorted(run.tokens.offsets, np.arange(n_rows), side="right") - 1
    return number[window]


def _accuracy(right: np.ndarray, documents: Int[np.ndarray, " rows"]) -> tuple[float, float, float]:
    _, inverse = np.unique(documents, return_inverse=True)
    sums = np.bincount(inverse, weights=right)
    mean, low, high = mean_with_interval(sums[:, None], np.bincount(inverse))
    return float(mean[0]), float(low[0]), float(high[0])


def _most(labels: Int[np.ndarray, " rows"]) -> int:
    return int(np.bincount(labels).argmax())


def _from_identity(
    tokens: Int[np.ndarray, " rows"], labels: Int[np.ndarray, " rows"], split: Split
) -> float:
    table = {token: _most(labels[split.train][tokens[split.train] == token])
             for token in np.unique(tokens[split.train])}  # fmt: skip
    default = _most(labels[split.train])
    guessed = np.array([table.get(token, default) for token in tokens[split.test]])
    return float((guessed == labels[split.test]).mean())
