"""Next-token loss and entropy at every position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..model import Model
from ..results import Result, described
from .bootstrap import mean_with_interval
from .texts import Texts

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class NextToken(Result):
    """How well the model foretells the next token."""

    kind: ClassVar[str] = "next_token"
    loss: float = described("mean next-token loss", unit="nats")
    loss_low: float = described("lower bound of its 95 % interval over documents", unit="nats")
    loss_high: float = described("upper bound", unit="nats")
    entropy: float = described("mean entropy of the model's prediction", unit="nats")
    top1: float = described("share of tokens that were the model's first choice")
    position: np.ndarray = described("position the prediction is made at", axes=("positions",))
    loss_by_position: np.ndarray = described("mean loss", axes=("positions",), unit="nats")
    entropy_by_position: np.ndarray = described("mean entropy", axes=("positions",), unit="nats")
    n_by_position: np.ndarray = described("tokens averaged", axes=("positions",))
    n_tokens: int = described("predictions in all")
    n_documents: int = described("documents read")


def token_scores(
    logits: Float[Tensor, "rows d_vocab"], targets: Int64[Tensor, " rows"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (nats), entropy (nats) and rank of the target (0 = first choice) of each row."""
    log_probs = logits.float().log_softmax(-1)
    chosen = log_probs.gather(-1, targets[:, None])
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    rank = (log_probs > chosen).sum(-1)
    return -chosen[:, 0], entropy, rank


@torch.no_grad()
def next_token(model: Model, texts: Texts, *, progress: Progress | None = None) -> NextToken:
    """Loss and entropy of a model over texts."""
    longest = max(len(ids) for ids in texts.ids) - 1
    per_text = np.zeros((len(texts), 3))
    by_position = np.zeros((longest, 3))
    counts = np.zeros(len(texts), dtype=np.int64)
    done = 0
    for numbers, ids in texts.batches():
        logits = model(ids, use_cache=False).logits[:, :-1]
        for number, row, document in zip(numbers, logits, ids, strict=True):
            loss, entropy, rank = token_scores(row, document[1:].to(row.device))
            scores = torch.stack([loss, entropy, (rank == 0).float()], dim=1).double().cpu().numpy()
            per_text[number] = scores.sum(0)
            counts[number] = len(scores)
            by_position[: len(scores), :2] += scores[:, :2]
            by_position[: len(scores), 2] += 1
        done += ids.numel()
        if progress is not None:
            progress(done, texts.n_tokens, "loss and entropy")
    mean, low, high = mean_with_interval(per_text, counts, texts.documents)
    return NextToken(
        loss=float(mean[0]),
        loss_low=float(low[0]),
        loss_high=float(high[0]),
        entropy=float(mean[1]),
        top1=float(mean[2]),
        position=np.arange(longest),
        loss_by_position=by_position[:, 0] / by_position[:, 2],
        entropy_by_position=by_position[:, 1] / by_position[:, 2],
        n_by_position=by_position[:, 2].astype(np.int64),
        n_tokens=int(counts.sum()),
        n_documents=texts.n_documents,
    )
