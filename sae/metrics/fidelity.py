"""What a model loses when a site's activations are replaced by their reconstruction.

The reconstruction is spliced into the running model. Loss is compared with the clean model's and
with the site ablated (zero, and mean of its rows):

    ce_score = (CE_ablated - CE_spliced) / (CE_ablated - CE_clean)
    kl_score = 1 - KL(clean || spliced) / KL(clean || ablated)

Scores flatter: without the residual stream a model loses so much that nearly any reconstruction
scores near 1, so the absolute rise of the loss in nats always stands beside them. Only tokens that
are neither special nor first in their text are replaced, in all conditions alike. Leaving out the
first position is
ours: whatever token stands there carries the massive activation of many models (norm 24,000 against
100 in SmolLM2-135M), which dictionaries are not trained on.

References:
    SAEBench, arXiv 2503.09532 (core metrics, zero ablation); arXiv 2404.16014 (loss recovered).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...probes.capture import capture
from ...probes.intervene import Edit, intervene
from ...probes.model import Model
from ...probes.readings.bootstrap import mean_with_interval
from ...probes.readings.loss import token_scores
from ...probes.readings.texts import Texts
from .dictionary import Dictionary, device_of, rebuild

Progress = Callable[[int, int, str], None]
CodeEdit = Callable[[Tensor], Tensor]
"""From codes to codes, for interventions on latents."""


@dataclass(frozen=True, kw_only=True)
class Fidelity:
    """Loss and divergence of the model with one dictionary spliced in."""

    loss: float
    """Next-token loss with the reconstruction in place, nats."""
    delta_loss: float
    """Its rise over the clean model, nats."""
    delta_low: float
    """Lower bound of the 95 % interval over documents."""
    delta_high: float
    kl: float
    """KL divergence from the clean prediction, nats."""
    ce_score: float
    """Loss recovered against zero ablation."""
    ce_score_mean: float
    """Loss recovered against mean ablation."""
    kl_score: float
    """Against zero ablation."""
    kl_score_mean: float


@dataclass(frozen=True, kw_only=True)
class FidelityTable:
    """Fidelity of several dictionaries at one site on the same texts."""

    dictionaries: dict[str, Fidelity]
    clean_loss: float
    zero_loss: float
    mean_loss: float
    n_tokens: int
    n_documents: int
    share_replaced: float
    """Share of positions that were replaced."""


def replaced(
    ids: Int[Tensor, "batch positions"], special: frozenset[int]
) -> Bool[Tensor, "batch positions"]:
    """Where a splice replaces: tokens neither special nor first in their text."""
    mask = ~torch.isin(ids, torch.tensor(sorted(special), dtype=ids.dtype))
    mask[:, 0] = False
    return mask


def splice(
    dictionary: Dictionary,
    where: Bool[Tensor, "batch positions"] | None = None,
    *,
    edit_codes: CodeEdit | None = None,
    error_term: bool = False,
) -> Edit:
    """An edit that puts reconstructions in the place of activations.

    Args:
        dictionary: Encodes and decodes rows, on its own device.
        where: Positions to replace; None replaces all.
        edit_codes: Changes codes on the way, to knock out a latent, say.
        error_term: Add what the dictionary fails to reconstruct, so that nothing but the edit of
            codes changes the model.
    """

    def edit(value: Tensor) -> Tensor:
        rows = value.reshape(-1, value.shape[-1]).float().to(device_of(dictionary))
        codes = dictionary.encode(rows)
        made = rebuild(dictionary, codes if edit_codes is None else edit_codes(codes), rows)
        if error_term:
            made = rows + (made - rebuild(dictionary, codes, rows))
        made = made.to(value).reshape(value.shape)
        return (
            made if where is None else torch.where(where.to(value.device)[..., None], made, value)
        )

    return edit


@torch.no_grad()
def fidelity(
    model: Model,
    site: str,
    texts: Texts,
    dictionaries: Mapping[str, Dictionary],
    *,
    mean: Float[Tensor, " d_model"] | None = None,
    batch_tokens: int = 512,
    progress: Progress | None = None,
) -> FidelityTable:
    """Splice dictionaries into a model, one after the other, on the same texts.

    Args:
        model: An opened model.
        site: Where.
        texts: What it reads; not what the dictionaries were trained on.
        dictionaries: By name.
        mean: Mean of the site's rows for mean ablation; None measures it on the texts.
        batch_tokens: Tokens per forward pass.
        progress: Called with tokens done, tokens in all.
    """
    special = model.vocabulary.special if model.has_tokenizer else frozenset[int]()
    mean = _mean(model, site, texts, special, batch_tokens) if mean is None else mean
    names = ["zero", "mean", *(f"sae:{name}" for name in dictionaries)]
    sums = np.zeros((len(texts), 1 + 2 * len(names)))
    counts = np.zeros(len(texts), dtype=np.int64)
    n_replaced = done = 0
    for numbers, ids in texts.batches(batch_tokens):
        where = replaced(ids, special)
        edits = [_put(torch.zeros_like(mean), where), _put(mean, where)]
        edits += [splice(dictionary, where) for dictionary in dictionaries.values()]
        clean = model(ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
        columns = [_losses(clean, ids)]
        for edit in edits:
            with intervene(model, {site: edit}):
                logits = model(ids, use_cache=False).logits[:, :-1].float().log_softmax(-1)
            columns += [_losses(logits, ids), _divergence(clean, logits)]
        sums[numbers] = torch.stack(columns, dim=1).double().cpu().numpy()
        counts[numbers] = ids.shape[1] - 1
        n_replaced += int(where.sum())
        done += ids.numel()
        if progress is not None:
            progress(done, texts.n_tokens, "splicing")
    share = n_replaced / max(texts.n_tokens, 1)
    return _table(list(dictionaries), sums, counts, texts.documents, share)


def _table(
    names: list[str], sums: np.ndarray, counts: np.ndarray, documents: np.ndarray, share: float
) -> FidelityTable:
    means = sums.sum(0) / counts.sum()
    clean, zero, zero_kl, by_mean, mean_kl = means[:5]
    found = {}
    for number, name in enumerate(names):
        column = 5 + 2 * number
        loss, kl = means[column : column + 2]
        delta, low, high = mean_with_interval(sums[:, column] - sums[:, 0], counts, documents)
        found[name] = Fidelity(
            loss=float(loss),
            delta_loss=float(delta),
            delta_low=float(low),
            delta_high=float(high),
            kl=float(kl),
            ce_score=float((zero - loss) / (zero - clean)),
            ce_score_mean=float((by_mean - loss) / (by_mean - clean)),
            kl_score=float(1 - kl / zero_kl),
            kl_score_mean=float(1 - kl / mean_kl),
        )
    return FidelityTable(
        dictionaries=found,
        clean_loss=float(clean),
        zero_loss=float(zero),
        mean_loss=float(by_mean),
        n_tokens=int(counts.sum()),
        n_documents=len(counts),
        share_replaced=share,
    )


def _put(row: Tensor, where: Tensor) -> Edit:
    return lambda value: torch.where(
        where.to(value.device)[..., None], row.to(value).expand_as(value), value
    )


def _losses(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Sum of next-token losses per text."""
    rows = log_probs.reshape(-1, log_probs.shape[-1])
    targets = ids[:, 1:].reshape(-1).to(rows.device)
    return token_scores(rows, targets)[0].reshape(len(ids), -1).sum(1)


def _divergence(clean: Tensor, other: Tensor) -> Tensor:
    """Sum of KL(clean || other) per text."""
    return (clean.exp() * (clean - other)).sum(-1).sum(1)


def _mean(
    model: Model, site: str, texts: Texts, special: frozenset[int], batch_tokens: int
) -> Tensor:
    total, n = torch.zeros(()), 0
    for _, ids in texts.batches(batch_tokens):
        where = replaced(ids, special)
        with capture(model, site) as held:
            model(ids, use_cache=False)
        rows = held[site].float().cpu()[where]
        total, n = total + rows.double().sum(0), n + len(rows)
    return (total / max(n, 1)).float()
