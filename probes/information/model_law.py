"""Information in the model's own world: its predictions taken for the law of the tokens (E2a, E3a).

E2a: I(H; W_0) = H(mean q) - mean H(q) over the listed states, exact for their empirical law; as an
estimate for the stream it is too low by about sum_w Var(q_w) / (2 N mean q_w), and never above log
N. E3a: the surplus I(H; W_1 | W_0), by letting the model read every likely W_0 once more. It bounds
every readout of the same states from above where the model's law is the data's. Tokens may be
merged into classes, both W_0 and W_1, and then it is the classes' surplus.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from ..model import Model
from .futures import Classes
from .resampling import Estimate, statistic_estimate

N_BLOCKS = 64
"""Blocks of documents whose sums of predictions are kept for the interval."""


class MixtureSums:
    """Sums of predictions over blocks of documents, one pass, vocabulary-sized rows in float64.

    Args:
        d_vocab: Size of the vocabulary.
        n_blocks: Blocks; documents are dealt to them by number.
    """

    def __init__(self, d_vocab: int, *, n_blocks: int = N_BLOCKS) -> None:
        self.probs = np.zeros((n_blocks, d_vocab))
        self.squares = np.zeros(d_vocab)
        self.entropy, self.count = np.zeros(n_blocks), np.zeros(n_blocks)

    def add(
        self,
        probs: Float[Tensor, "rows vocab"],
        entropies: Float[Tensor, " rows"],
        documents: Int64[np.ndarray, " rows"],
    ) -> None:
        """Take in rows."""
        kinds, places = np.unique(documents % len(self.probs), return_inverse=True)
        # Products instead of masks: rows of a block are neighbours, and few blocks meet in a batch.
        member = torch.from_numpy(places == np.arange(len(kinds))[:, None]).to(probs)
        sums, entropy = member @ probs, member.double() @ entropies.double()
        self.probs[kinds] += sums.double().cpu().numpy()
        self.entropy[kinds] += entropy.cpu().numpy()
        self.count[kinds] += np.bincount(places)
        self.squares += torch.linalg.vecdot(probs, probs, dim=0).double().cpu().numpy()

    @property
    def n_rows(self) -> int:
        """Rows taken in."""
        return int(self.count.sum())

    def bias(self) -> float:
        """How much too low the estimate is expected to be for the stream, first order, nats."""
        n = max(self.n_rows, 1)
        mean = self.probs.sum(0) / n
        variance = np.maximum(self.squares / n - mean**2, 0)
        held = mean > 0
        return float((variance[held] / mean[held]).sum() / (2 * n))

    def information(self) -> Estimate:
        """E2a in nats, with its interval over blocks of documents.

        Raises:
            TooFewTokensError: Too few blocks hold a document.
        """
        held = self.count > 0
        columns = np.column_stack([self.probs, self.entropy, self.count])[held]

        def information(sums: np.ndarray) -> np.ndarray:
            count = sums[:, -1]
            mean = sums[:, :-2] / count[:, None]
            logs = np.log(mean, out=np.zeros_like(mean), where=mean > 0)
            return -(mean * logs).sum(1) - sums[:, -2] / count

        name = "E2a, the mixture of predictions,"
        return statistic_estimate(name, columns, information, n_resamples=200)


@dataclass(frozen=True)
class ModelSurplus:
    """E3a with what qualifies it."""

    surplus: Estimate
    """I(H; W_1 | W_0) under the model's law, nats."""
    covered: float
    """Mean probability of the W_0 that were read."""
    n_states: int
    """States in the mixture; the surplus cannot exceed the log of it."""
    missing: float
    """Bound on what the unread W_0 could change, nats."""


@torch.no_grad()
def continuations(
    model: Model, context: Int64[Tensor, " positions"], delta: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The likely next tokens of a context and what follows each.

    Args:
        model: An opened model.
        context: Token ids.
        delta: Probability that may be left out.
        most: At most so many candidates.

    Returns:
        Candidates (ids), their probabilities, and the law after each (candidates, vocabulary), in
        float64.
    """
    cache = DynamicCache(config=model.module.config)
    logits = model(context[None], past_key_values=cache, use_cache=True).logits[0, -1]
    probs = logits.double().softmax(-1)
    order = probs.argsort(descending=True)
    enough = int((probs[order].cumsum(0) < 1 - delta).sum()) + 1
    candidates = order[: min(enough, most)]
    cache.batch_repeat_interleave(len(candidates))
    after = model(candidates[:, None], past_key_values=cache, use_cache=True).logits[:, -1]
    return candidates, probs[candidates], after.double().softmax(-1)


def model_surplus(
    model: Model,
    contexts: Sequence[Int64[Tensor, " _"]],
    documents: Int64[np.ndarray, " contexts"],
    classes: Classes,
    *,
    delta: float = 0.01,
    most: int = 512,
    progress: Callable[[int, int, str], None] | None = None,
) -> ModelSurplus:
    """E3a over some contexts.

    Args:
        model: An opened model.
        contexts: Token ids up to and including the state's position.
        documents: Document of each context.
        classes: How W_0 and W_1 are merged.
        delta: Probability of W_0 that may be left unread.
        most: Most W_0 read per context.
        progress: Called after every context.

    Raises:
        TooFewTokensError: Too few documents.
    """
    n, of_token = classes.n, torch.from_numpy(classes.of_token)
    kinds, place = np.unique(documents, return_inverse=True)
    # Per document: the joint of (W_0, W_1), the sum of H(W_1 | W_0) of its contexts, their number.
    columns = np.zeros((len(kinds), n * n + 2))
    covered = 0.0
    for number, context in enumerate(contexts):
        first, probs, after = continuations(model, context, delta, most)
        merged = torch.zeros(len(first), n, dtype=torch.float64)
        merged.index_add_(1, of_token, after.cpu())
        joint = torch.zeros(n, n, dtype=torch.float64)
        joint.index_add_(0, of_token[first.cpu()], merged * (probs / probs.sum()).cpu()[:, None])
        table = joint.numpy()
        columns[place[number], :-2] += table.ravel()
        columns[place[number], -2] += _conditional(table.reshape(1, n, n))[0]
        columns[place[number], -1] += 1
        covered += float(probs.sum())
        if progress is not None:
            progress(number + 1, len(contexts), "likely next tokens read")
    covered /= max(len(contexts), 1)

    def surplus(sums: np.ndarray) -> np.ndarray:
        count = sums[:, -1]
        mixed = (sums[:, :-2] / count[:, None]).reshape(-1, n, n)
        return _conditional(mixed) - sums[:, -2] / count

    name = "E3a, the surplus in the model's world,"
    estimate = statistic_estimate(name, columns, surplus, n_resamples=200)
    return ModelSurplus(estimate, covered, len(contexts), (1 - covered) * math.log(n))


def _conditional(joints: Float[np.ndarray, "laws first second"]) -> Float[np.ndarray, " laws"]:
    """H(second | first) of each joint law, nats."""
    return _entropies(joints.reshape(len(joints), -1)) - _entropies(joints.sum(2))


def _entropies(laws: Float[np.ndarray, "laws outcomes"]) -> Float[np.ndarray, " laws"]:
    logs = np.log(laws, out=np.zeros_like(laws), where=laws > 0)
    return -(laws * logs).sum(1)
