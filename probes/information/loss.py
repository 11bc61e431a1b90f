"""The loss taken apart: entropy of the predictions, calibration, information, distance to the source.

CE = mean entropy of the predictions + gap; the gap is zero in expectation for a calibrated model
(E1). Where the source's own entropy is known, CE = that entropy + E KL(source || model), the excess
(the NLL identity of arXiv 2507.19247). Against the unigram law of other documents it is what the
state says of W_0: E2b, a lower bound (Barber and Agakov), beside E2a in the model's own world.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np
import torch

from ..readings.linear_probe import split_by_document
from ..results import Result, described
from ..runfile import Run
from .entropy import CategoricalEntropies
from .futures import futures_of_run
from .model_law import MixtureSums
from .predictions import Predictions
from .resampling import Estimate, mean_estimate
from .softmax_probe import class_law

EXAMPLE = 64
"""Tokens of the example text."""
N_BINS = 10
"""Bins of confidence, of equal width."""
POSITIONS = 16
"""Bins of positions, of equal numbers of positions."""


@dataclass(frozen=True, kw_only=True)
class LossDecomposition(Result):
    """Loss, entropies, calibration and information of a model's predictions."""

    kind: ClassVar[str] = "information_loss"
    divergences: np.ndarray = described("divergence of each categorical entropy",
                                        axes=("divergences",))  # fmt: skip
    entropy: np.ndarray = described("mean categorical entropy", axes=("divergences",))
    entropy_low: np.ndarray = described("lower 95 % bound over documents", axes=("divergences",))
    entropy_high: np.ndarray = described("upper bound", axes=("divergences",))
    loss: float = described("mean loss of the next token", unit="nats")
    loss_low: float = described("lower bound", unit="nats")
    loss_high: float = described("upper bound", unit="nats")
    gap: float = described("loss less Shannon entropy: miscalibration", unit="nats")
    gap_low: float = described("lower bound", unit="nats")
    gap_high: float = described("upper bound", unit="nats")
    unigram: float = described("cross-entropy of other documents' unigram law", unit="nats")
    data_information: float = described("E2b: unigram less loss, on test documents", unit="nats")
    data_information_low: float = described("lower bound", unit="nats")
    data_information_high: float = described("upper bound", unit="nats")
    model_information: float = described("E2a: H(mean prediction) - mean H", unit="nats")
    model_information_low: float = described("lower bound", unit="nats")
    model_information_high: float = described("upper bound", unit="nats")
    model_information_bias: float = described("how much too low E2a is, first order", unit="nats")
    source_entropy: float | None = described("entropy of the source, if known", unit="nats")
    excess: float | None = described("loss less the source's entropy", unit="nats")
    excess_low: float | None = described("lower bound", unit="nats")
    excess_high: float | None = described("upper bound", unit="nats")
    position: np.ndarray = described("middle of the bin", axes=("bins",))
    loss_by_position: np.ndarray = described("mean loss", axes=("bins",), unit="nats")
    entropy_by_position: np.ndarray = described(
        "mean categorical entropy", axes=("bins", "divergences")
    )
    confidence: np.ndarray = described("mean probability of the first choice", axes=("levels",))
    accuracy: np.ndarray = described("share of first choices that came", axes=("levels",))
    share: np.ndarray = described("share of the rows", axes=("levels",))
    calibration_error: float = described("mean |accuracy - confidence| over rows")
    example_name: str = described("document of the example")
    example_ids: np.ndarray = described("tokens read", axes=("positions",))
    example_entropy: np.ndarray = described(
        "categorical entropies after each", axes=("positions", "divergences")
    )
    example_loss: np.ndarray = described("loss of the next token", axes=("positions",), unit="nats")
    n_tokens: int = described("predictions")
    n_documents: int = described("source documents")

    def against(self, source_entropy: float) -> LossDecomposition:
        """The same with the excess over a source's entropy (nats per token)."""
        return replace(
            self,
            source_entropy=source_entropy,
            excess=self.loss - source_entropy,
            excess_low=self.loss_low - source_entropy,
            excess_high=self.loss_high - source_entropy,
        )


def decompose_loss(
    run: Run,
    predictions: Predictions,
    mixture: MixtureSums,
    *,
    source_entropy: float | None = None,
) -> LossDecomposition:
    """Take the loss apart.

    Args:
        run: The run the predictions were read from.
        predictions: See `read_predictions`.
        mixture: Its sums of predictions.
        source_entropy: Entropy per token of what the documents were drawn from, in nats, where known.

    Raises:
        TooFewTokensError: Too few documents for intervals.
        OptionError: Too few to be split.
    """
    n_rows = len(predictions.loss)
    futures = futures_of_run(run, n_futures=1, max_tokens=n_rows)
    rows, documents = futures.rows, futures.documents
    loss = predictions.loss[rows].astype(np.float64)
    entropies = predictions.entropies[rows].astype(np.float64)
    means = [mean_estimate("E1", column, documents) for column in entropies.T]
    own = mean_estimate("The loss", loss, documents)
    gap = mean_estimate("E1", loss - entropies[:, 0], documents)
    split = split_by_document(documents)
    d_vocab = mixture.probs.shape[1]
    law = class_law(torch.from_numpy(futures.tokens[split.train, 0]), d_vocab).log().numpy()
    unigram = -law[futures.tokens[split.test, 0]]
    data = mean_estimate("E2b", unigram - loss[split.test], documents[split.test])
    model = mixture.information()
    positions = run.tokens.positions()[rows]
    edges = np.linspace(0, positions.max() + 1, POSITIONS + 1)
    bins = np.clip(np.searchsorted(edges, positions, side="right") - 1, 0, POSITIONS - 1)
    calibration = _calibration(predictions, rows, futures.tokens[:, 0])
    shown = int(np.argmax(np.diff(run.tokens.offsets[run.tokens.offsets <= n_rows])))
    first = int(run.tokens.offsets[shown])
    example = slice(first, min(first + EXAMPLE, int(run.tokens.offsets[shown + 1])))
    found = LossDecomposition(
        divergences=np.array(CategoricalEntropies._fields),
        entropy=np.array([one.value for one in means]),
        entropy_low=np.array([one.low for one in means]),
        entropy_high=np.array([one.high for one in means]),
        **_bounded("loss", own), **_bounded("gap", gap), unigram=float(unigram.mean()),
        **_bounded("data_information", data), **_bounded("model_information", model),
        model_information_bias=mixture.bias(),
        source_entropy=None, excess=None, excess_low=None, excess_high=None,
        position=(edges[:-1] + edges[1:]) / 2,
        loss_by_position=_binned(loss, bins),
        entropy_by_position=np.stack([_binned(column, bins) for column in entropies.T], axis=1),
        confidence=calibration.confidence, accuracy=calibration.accuracy, share=calibration.share,
        calibration_error=calibration.error,
        example_name=run.tokens.names[shown],
        example_ids=run.tokens.ids[example],
        example_entropy=predictions.entropies[example],
        example_loss=predictions.loss[example],
        n_tokens=len(rows),
        n_documents=futures.n_documents,
    )  # fmt: skip
    return found if source_entropy is None else found.against(source_entropy)


def _bounded(name: str, found: Estimate) -> dict[str, float]:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _binned(values: np.ndarray, bins: np.ndarray, n_bins: int = POSITIONS) -> np.ndarray:
    """Mean per bin, NaN where nothing fell."""
    counts = np.bincount(bins, minlength=n_bins)
    sums = np.bincount(bins, weights=values, minlength=n_bins)
    return np.divide(sums, counts, out=np.full(n_bins, np.nan), where=counts > 0)


class _Calibration(NamedTuple):
    """By level of confidence: its mean, how often it was right, and of how many rows."""

    confidence: np.ndarray
    accuracy: np.ndarray
    share: np.ndarray
    error: float


def _calibration(predictions: Predictions, rows: np.ndarray, targets: np.ndarray) -> _Calibration:
    confidence = predictions.confidence[rows].astype(np.float64)
    right = (predictions.greedy_ids[rows] == targets).astype(np.float64)
    level = np.clip((confidence * N_BINS).astype(int), 0, N_BINS - 1)
    mean, accuracy = _binned(confidence, level, N_BINS), _binned(right, level, N_BINS)
    share = np.bincount(level, minlength=N_BINS) / len(rows)
    error = float(np.nansum(share * np.abs(accuracy - mean)))
    return _Calibration(mean, accuracy, share, error)
