"""Lenses: what the model would predict were a layer its last.

The logit lens puts every layer's residual stream through the final norm and the unembedding
(nostalgebraist 2020); the tuned lens (arXiv 2303.08112) first through a learned affine translator.
The stream entering the final norm is read by a hook, so the last layer is never normed twice and its
lens equals the model's own logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..capture import capture
from ..model import Model
from ..results import Result, described
from .bootstrap import mean_with_interval
from .texts import Texts

Progress = Callable[[int, int, str], None]

SCORES = ("kl", "loss", "entropy", "agreement", "rank")
TOP = 3
EXAMPLE_TOKENS = 48


Translator = Callable[[int, Tensor], Tensor]
"""From (layer, its residual stream) to what the unembedding should see of it."""


@dataclass(frozen=True, kw_only=True)
class Lens(Result):
    """What each layer would predict, against what the model predicts."""

    kind: ClassVar[str] = "logit_lens"
    layers: np.ndarray = described("layer whose output is read", axes=("layers",))
    kl: np.ndarray = described("KL(final || lens)", axes=("layers",), unit="nats")
    kl_low: np.ndarray = described("lower 95 % bound over documents", axes=("layers",), unit="nats")
    kl_high: np.ndarray = described("upper bound", axes=("layers",), unit="nats")
    loss: np.ndarray = described("next-token loss", axes=("layers",), unit="nats")
    loss_low: np.ndarray = described("lower bound", axes=("layers",), unit="nats")
    loss_high: np.ndarray = described("upper bound", axes=("layers",), unit="nats")
    entropy: np.ndarray = described("entropy", axes=("layers",), unit="nats")
    agreement: np.ndarray = described("share of positions with the final choice", axes=("layers",))
    agreement_low: np.ndarray = described("lower bound", axes=("layers",))
    agreement_high: np.ndarray = described("upper bound", axes=("layers",))
    rank: np.ndarray = described("mean rank of the token that came (0 = first)", axes=("layers",))
    n_tokens: int = described("predictions read")
    n_documents: int = described("documents read")
    example_name: str = described("document of the example")
    example_ids: np.ndarray = described("tokens of the example", axes=("positions",))
    example_top_ids: np.ndarray = described(
        "leading tokens", axes=("layers", "positions", "candidates")
    )
    example_top_probs: np.ndarray = described(
        "their probabilities", axes=("layers", "positions", "candidates")
    )
    example_entropy: np.ndarray = described("entropy", axes=("layers", "positions"), unit="nats")
    example_kl: np.ndarray = described(
        "KL(final || lens)", axes=("layers", "positions"), unit="nats"
    )
    example_rank: np.ndarray = described(
        "rank of the token that came; -1 where none did", axes=("layers", "positions")
    )


@dataclass(frozen=True, kw_only=True)
class TunedLensReading(Lens):
    """The same through a trained translator."""

    kind: ClassVar[str] = "tuned_lens"


L = TypeVar("L", bound=Lens)


def identity(layer: int, resid: Tensor) -> Tensor:
    """The logit lens' translator: none."""
    return resid


@torch.no_grad()
def logit_lens(model: Model, texts: Texts, *, progress: Progress | None = None) -> Lens:
    """Read a model through the logit lens."""
    return _read(model, texts, identity, Lens, progress)


@torch.no_grad()
def translated_lens(
    model: Model, texts: Texts, translator: Translator, *, progress: Progress | None = None
) -> TunedLensReading:
    """Read a model through a tuned lens."""
    return _read(model, texts, translator, TunedLensReading, progress)


def lens_scores(
    logits: Float[Tensor, "rows d_vocab"], final: Float[Tensor, "rows d_vocab"]
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(final || lens) in nats, entropy in nats, and whether the first choices agree, per row.

    Args:
        logits: The lens' logits.
        final: The model's own log-probabilities.
    """
    log_probs = logits.float().log_softmax(-1)
    kl = (final.exp() * (final - log_probs)).sum(-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return kl, entropy, log_probs.argmax(-1) == final.argmax(-1)


def _read(
    model: Model,
    texts: Texts,
    translator: Translator,
    kind: type[L],
    progress: Progress | None,
) -> L:
    sums = np.zeros((len(texts), model.n_layers, len(SCORES)))
    counts = np.array([len(ids) - 1 for ids in texts.ids])
    example: dict[str, np.ndarray] = {}
    shown = int(np.argmax([len(ids) for ids in texts.ids]))
    for number, ids in enumerate(texts.ids):
        tokens = torch.from_numpy(ids).to(model.device)
        with capture(model, "layers.*.resid_post") as acts:
            final = model(tokens[None], use_cache=False).logits[0].float().log_softmax(-1)
        rows = []
        for layer in range(model.n_layers):
            resid = acts[f"layers.{layer}.resid_post"][0]
            logits = model.unembed(translator(layer, resid)).float()
            sums[number, layer] = _summed(logits, final, tokens)
            if number == shown:
                rows.append(_example_row(logits, final, tokens))
        if rows:
            example = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        if progress is not None:
            done = int(counts[: number + 1].sum()) + number + 1
            progress(done, texts.n_tokens, "lens")
    mean, low, high = mean_with_interval(sums, counts, texts.documents)
    columns = {name: column for column, name in enumerate(SCORES)}
    bounded = {
        f"{name}{suffix}": values[:, columns[name]]
        for name in ("kl", "loss", "agreement")
        for suffix, values in (("", mean), ("_low", low), ("_high", high))
    }
    return kind(
        layers=np.arange(model.n_layers),
        **bounded,
        entropy=mean[:, columns["entropy"]],
        rank=mean[:, columns["rank"]],
        n_tokens=int(counts.sum()),
        n_documents=texts.n_documents,
        example_name=texts.names[shown],
        example_ids=texts.ids[shown][:EXAMPLE_TOKENS],
        **{f"example_{key}": value for key, value in example.items()},
    )


def _summed(logits: Tensor, final: Tensor, tokens: Tensor) -> np.ndarray:
    kl, entropy, agrees = lens_scores(logits[:-1], final[:-1])
    loss, rank = _of_realised(logits[:-1], tokens[1:])
    columns = [kl, loss, entropy, agrees.double(), rank.double()]
    return torch.stack([column.double().sum() for column in columns]).cpu().numpy()


def _of_realised(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    chosen = logits.gather(-1, targets[:, None])
    return logits.logsumexp(-1) - chosen[:, 0], (logits > chosen).sum(-1)


def _example_row(logits: Tensor, final: Tensor, tokens: Tensor) -> dict[str, np.ndarray]:
    logits, final, after = logits[:EXAMPLE_TOKENS], final[:EXAMPLE_TOKENS], tokens[1:]
    kl, entropy, _ = lens_scores(logits, final)
    top = logits.softmax(-1).topk(TOP, dim=-1)
    rank = torch.full((len(logits),), -1, device=logits.device)
    known = min(len(logits), len(after))
    rank[:known] = _of_realised(logits[:known], after[:known])[1]
    return {
        "top_ids": top.indices.cpu().numpy().astype(np.int32),
        "top_probs": top.values.cpu().numpy(),
        "entropy": entropy.cpu().numpy(),
        "kl": kl.cpu().numpy(),
        "rank": rank.cpu().numpy().astype(np.int32),
    }
