"""One pass over a run's last states: the model's predictions, condensed to a few numbers per row.

The last layer's residual stream, or the stream after the final norm, comes from the run file; the
model lends its norm and unembedding, with its own scale and soft cap, in float32. Of each row's
distribution only its categorical entropies, first choice, and the loss of the token that came are
kept, and sums over blocks of documents for the mixture (E2a).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import MissingResultError
from ..model import Model
from ..readings.linear_probe import source_documents
from ..results import Result, described
from ..runfile import Run
from .entropy import BLOCK, CategoricalEntropies, Sweep
from .futures import SKIPPED
from .model_law import MixtureSums

Progress = Callable[[int, int, str], None]

CHUNK = 512
"""Rows whose logits are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Predictions(Result):
    """What is kept of the predictions; rows as in the run file."""

    kind: ClassVar[str] = "information_predictions"
    divergences: np.ndarray = described("divergence of each categorical entropy",
                                        axes=("divergences",))  # fmt: skip
    entropies: np.ndarray = described("categorical entropies", axes=("rows", "divergences"))
    loss: np.ndarray = described("loss of the token that came; NaN at a window's end",
                                 axes=("rows",), unit="nats")  # fmt: skip
    greedy_ids: np.ndarray = described("the model's first choice", axes=("rows",))
    confidence: np.ndarray = described("its probability", axes=("rows",))
    state_dtype: str = described("type the states were stored in", default="float32")
    rank: np.ndarray = described("rank of the token that came (0 = first choice); -1 at an end",
                                 axes=("rows",))  # fmt: skip


def last_site(run: Run, model: Model) -> str:
    """The site predictions are made from.

    Raises:
        MissingResultError: The run holds neither the last layer nor the final norm.
    """
    last = f"layers.{model.n_layers - 1}.resid_post"
    for site in ("final_norm", last):
        if site in run.sites:
            return site
    raise MissingResultError(
        f"Predictions need the rows of {last} or final_norm; {run.path.name} holds neither. "
        f"Capture again with --sites {last} (among others)."
    )


def predicted_logits(
    model: Model, site: str, rows: Float[Tensor, "rows d_model"]
) -> Float[Tensor, "rows vocab"]:
    """The model's logits from rows of `site`."""
    rows = rows.to(model.device, model.dtype)
    return model.logits_of(rows) if site == "final_norm" else model.unembed(rows)


@torch.no_grad()
def read_predictions(
    model: Model, run: Run, *, n_rows: int, progress: Progress | None = None
) -> tuple[Predictions, MixtureSums]:
    """Condense the predictions at the first `n_rows` rows of a run.

    Returns:
        Numbers per row, and sums over the rows that count (not the first positions of a window, nor
        its end).

    Raises:
        MissingResultError: The run lacks the last states.
    """
    site = last_site(run, model)
    held = run.activations[site]
    documents = source_documents(run, n_rows)
    positions = run.tokens.positions()[:n_rows]
    targets = np.append(run.tokens.ids[1:n_rows], 0).astype(np.int64)
    is_end = np.zeros(n_rows, dtype=bool)
    ends = run.tokens.offsets[1:] - 1
    is_end[ends[ends < n_rows]] = True
    is_end[-1] = True
    counts = ~is_end & (positions >= SKIPPED)
    entropies = np.empty((n_rows, len(CategoricalEntropies._fields)), dtype=np.float32)
    loss, confidence = np.empty((2, n_rows), dtype=np.float32)
    greedy, rank = np.empty((2, n_rows), dtype=np.int32)
    mixture, sweep = MixtureSums(model.d_vocab), None
    for start in range(0, n_rows, CHUNK):
        part = slice(start, min(start + CHUNK, n_rows))
        logits = predicted_logits(model, site, held.read(part)).float()
        sweep = sweep or Sweep(logits)
        for first in range(start, part.stop, BLOCK):
            rows = slice(first, min(first + BLOCK, part.stop))
            block = logits[first - start : rows.stop - start]
            found = sweep.condense(block)
            wanted = torch.from_numpy(targets[rows]).to(block.device)
            chosen = block.gather(1, wanted[:, None])[:, 0]
            entropies[rows] = torch.stack(found.entropies, dim=1).cpu().numpy()
            loss[rows] = (found.log_z - chosen).cpu().numpy()
            greedy[rows] = found.greedy.cpu().numpy()
            confidence[rows] = found.confidence.cpu().numpy()
            rank[rows] = sweep.n_above(block, chosen).cpu().numpy()
            keep = torch.from_numpy(np.flatnonzero(counts[rows]))
            own = documents[rows][counts[rows]]
            if len(own) == len(block):
                mixture.add(sweep.probs, found.entropies.kl, own)
            elif len(own):
                mixture.add(sweep.probs[keep], found.entropies.kl[keep], own)
        if progress is not None:
            progress(part.stop, n_rows, "predictions")
    loss[is_end], rank[is_end] = np.nan, -1
    kept = Predictions(
        divergences=np.array(CategoricalEntropies._fields), entropies=entropies, loss=loss,
        greedy_ids=greedy, confidence=confidence, rank=rank,
        state_dtype=held.dtype_name,
    )  # fmt: skip
    return kept, mixture
