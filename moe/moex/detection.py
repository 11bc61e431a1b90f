"""A detection score without a judge: can what a feature fires on be told from the tokens?

Detection (arXiv 2410.13928) asks a language model whether texts fit an explanation of a feature.
Without one, a simple rule takes both parts: from some contexts in which a feature fires and as many in
which it does not, a Bernoulli naive Bayes learns which tokens, at which of the last few places, go with
it; on held-out contexts of other texts its balanced accuracy is the score. It is ours: it rewards
features that depend on few nearby tokens and cannot credit meaning, so it compares models read on the
same texts with the same tokenizer, and nothing else.

As there, activating contexts are drawn evenly over deciles of activation, and each feature's contexts
come half from texts that teach and half from texts that test.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.naive_bayes import BernoulliNB

from ...probes.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionOptions:
    """How features are scored."""

    n_features: int = 200
    """Features scored, drawn at random from those that fire often enough."""
    n_contexts: int = 50
    """Activating contexts of each side (teaching, testing), and as many others."""
    n_back: int = 4
    """Tokens of a context: the one the feature fires on and those before it."""
    seed: int = 0
    """Seed of all draws."""

    def __post_init__(self) -> None:
        if min(self.n_features, self.n_back) < 1 or self.n_contexts < 2:
            raise OptionError(
                "n_features and n_back must be at least 1 and n_contexts at least 2, got "
                f"{self.n_features}, {self.n_back} and {self.n_contexts}."
            )


def detection_scores(
    codes: Float[np.ndarray, "rows features"],
    contexts: Int[np.ndarray, "rows back"],
    teaches: Bool[np.ndarray, " rows"],
    options: DetectionOptions | None = None,
) -> Float[np.ndarray, " scored"]:
    """Balanced accuracy of each feature drawn, chance is 0.5.

    Args:
        codes: Activations.
        contexts: Token ids of each row: the row's own token first, then those before it.
        teaches: Whether a row's text teaches; the others test.
        options: How.

    Returns:
        One score per feature that fires at least `n_contexts` times on either side, or empty.
    """
    options = options or DetectionOptions()
    generator = np.random.default_rng(options.seed)
    fires = codes > 0
    counts = np.stack([fires[teaches].sum(0), fires[~teaches].sum(0)])
    quiet = np.stack([(~fires[teaches]).sum(0), (~fires[~teaches]).sum(0)])
    able = np.flatnonzero(
        (counts.min(0) >= options.n_contexts) & (quiet.min(0) >= options.n_contexts)
    )
    chosen = generator.permutation(able)[: options.n_features]
    scores = []
    for feature in chosen:
        parts = [
            _draw(codes[:, feature], side, options.n_contexts, generator)
            for side in (teaches, ~teaches)
        ]
        scores.append(_score(contexts, *parts))
    return np.array(scores, dtype=float)


Drawn = tuple[np.ndarray, np.ndarray]
"""Rows, and whether the feature fires there."""


def _draw(
    activations: np.ndarray, side: np.ndarray, n: int, generator: np.random.Generator
) -> Drawn:
    """As many rows where a feature fires, evenly over its deciles, as rows where it does not."""
    there = np.flatnonzero(side & (activations > 0))
    ranked = there[np.argsort(activations[there], kind="stable")]
    at = (np.arange(n) + generator.random(n)) / n * len(ranked)
    firing = ranked[np.minimum(at.astype(int), len(ranked) - 1)]
    silent = generator.choice(np.flatnonzero(side & ~(activations > 0)), n, replace=False)
    return np.concatenate([firing, silent]), np.repeat([True, False], n)


def _score(contexts: np.ndarray, teaching: Drawn, testing: Drawn) -> float:
    rows, labels = teaching
    known = [np.unique(column) for column in contexts[rows].T]

    def seen(rows: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [column[:, None] == k for column, k in zip(contexts[rows].T, known, strict=True)],
            axis=1,
        )

    told = BernoulliNB(alpha=0.5).fit(seen(rows), labels).predict(seen(testing[0]))
    right = told == testing[1]
    return float((right[testing[1]].mean() + right[~testing[1]].mean()) / 2)
