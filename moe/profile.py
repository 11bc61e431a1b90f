"""Super-expert profiling (arXiv 2507.23279): one pass over some texts, then the criterion.

Because the signal sits on first tokens, a few dozen short texts are enough, as long as each begins at
position 0; packed documents would hide it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..probes.errors import CorpusError
from ..probes.model import Model
from ..probes.readings import Texts
from .criterion import CriterionOptions, formation_layers, select_super
from .identity import require_identity
from .layers import Expert, MoeLayer, layer_of, moe_layers
from .result import ExpertProfile
from .statistics import ExpertStatistics, Rows, expert_statistics

Progress = Callable[[int, int, str], None]

N_RANKED = 20


@torch.no_grad()
def profile_experts(
    model: Model,
    texts: Texts,
    options: CriterionOptions | None = None,
    *,
    rows: Rows = "all",
    batch_tokens: int = 1024,
    progress: Progress | None = None,
) -> ExpertProfile:
    """Find the experts whose output dwarfs all others'.

    Args:
        model: A mixture-of-experts model; on its first use the identity of `identity.py` is checked.
        texts: What to read; batches hold texts of one length, so nothing is padded.
        options: Thresholds and variant.
        rows: Which rows count for maxima.
        batch_tokens: Tokens per forward pass; does not change what is found.
        progress: Called after every batch.

    Raises:
        NoExpertsError: The model is dense, or no mixture-of-experts layer is in range.
        SiteCheckError: Expert outputs do not sum to the block's.
        OptionError: Impossible thresholds.
    """
    options = options or CriterionOptions()
    error = require_identity(model)
    largest, medians = np.zeros(model.n_layers), np.zeros(model.n_layers)
    done = 0
    with (
        expert_statistics(model, rows=rows) as found,
        _residual_sizes(model, largest, medians),
    ):
        for _, ids in texts.batches(batch_tokens):
            model(ids, use_cache=False)
            done += ids.numel()
            if progress is not None:
                progress(done, texts.n_tokens, "experts")
    return summarise(
        model, found, largest, medians / max(len(texts), 1), options, rows=rows, error=error
    )


@torch.no_grad()
def profile_padded(
    model: Model,
    ids: Int64[Tensor, "batch positions"],
    attention_mask: Int64[Tensor, "batch positions"],
    options: CriterionOptions | None = None,
) -> ExpertProfile:
    """Profile one padded batch; padding counts nowhere.

    Raises:
        CorpusError: Every token is padding.
    """
    if not bool(attention_mask.any()):
        raise CorpusError("The batch holds padding only; give at least one real token.")
    error = require_identity(model)
    largest, medians = np.zeros(model.n_layers), np.zeros(model.n_layers)
    with (
        expert_statistics(model) as found,
        _residual_sizes(model, largest, medians, attention_mask.bool()),
    ):
        model(ids, attention_mask=attention_mask, use_cache=False)
    options = options or CriterionOptions()
    return summarise(model, found, largest, medians / len(ids), options, rows="all", error=error)


@contextmanager
def _residual_sizes(
    model: Model, largest: np.ndarray, medians: np.ndarray, real: Tensor | None = None
) -> Iterator[None]:
    """Largest size after each layer, and the sum over texts of medians."""
    closers: list[Callable[[], None]] = []
    for index in range(model.n_layers):

        def visit(value: Tensor, index: int = index) -> None:
            texts = value if real is None else [v[r] for v, r in zip(value, real, strict=True)]
            for text in texts:
                if not len(text):
                    continue
                sizes = text.detach().abs().float()
                largest[index] = max(largest[index], float(sizes.amax()))
                medians[index] += float(sizes.flatten().median())

        closers.append(model.sites[f"layers.{index}.resid_post"].attach(visit))
    try:
        yield
    finally:
        for close in closers:
            close()


def summarise(
    model: Model,
    found: ExpertStatistics,
    largest: np.ndarray,
    medians: np.ndarray,
    options: CriterionOptions,
    *,
    rows: Rows,
    error: float,
) -> ExpertProfile:
    """Apply the criterion to statistics and describe the experts on top."""
    layers = moe_layers(model)
    formation = formation_layers(largest, medians)
    maxima = found.maxima.numpy()
    present = np.ones(maxima.shape, dtype=bool)
    present[:, -1] = found.has_shared
    chosen = select_super(
        maxima, present, found.layers, model.n_layers, options, formation=formation
    )
    order = np.argsort(-np.where(present, maxima, -1.0), axis=None, kind="stable")[
        : max(N_RANKED, len(chosen.experts))
    ]
    at = [divmod(int(i), maxima.shape[1]) for i in order]
    at = [place for place in at if maxima[place] > 0]
    # Super experts first would hide outliers of the last layers; the rank is by size alone.
    at += [place for place in chosen.experts if place not in at]
    r, c = np.array([p[0] for p in at], dtype=int), np.array([p[1] for p in at], dtype=int)
    neurons = found.neurons[r, c].numpy()
    load = found.load.numpy()
    return ExpertProfile(
        variant=options.variant,
        quantile=options.quantile,
        ratio=options.ratio,
        rows=rows,
        layers=np.array(found.layers),
        n_layers=model.n_layers,
        n_experts=found.n_experts,
        n_active=layers[0].n_active,
        has_shared=np.array(found.has_shared),
        maxima=maxima,
        n_routed=load,
        n_routed_first=found.first_load.numpy(),
        gate_mean=found.gate_sums.numpy() / np.maximum(load, 1),
        coactive=found.coactive.numpy(),
        percentile=chosen.percentile,
        fraction_of_max=chosen.fraction_of_max,
        n_population=chosen.n_population,
        n_selectable=chosen.n_selectable,
        formation=np.array(formation, dtype=np.int64),
        resid_largest=largest,
        resid_median=medians,
        ranked_layer=np.array([found.layers[i] for i in r], dtype=np.int64),
        ranked_expert=np.where(c == found.n_experts, -1, c),
        ranked_value=found.values[r, c].numpy(),
        ranked_super=np.array([p in set(chosen.experts) for p in at], dtype=bool),
        ranked_token=found.tokens[r, c].numpy(),
        ranked_position=found.positions[r, c].numpy(),
        ranked_channel=found.channels[r, c].numpy(),
        ranked_gate=found.gate_weights[r, c].numpy(),
        ranked_neurons=neurons,
        ranked_contributions=found.contributions[r, c].numpy(),
        ranked_weights=_weights(layers, found, at, neurons),
        identity_error=error,
        n_texts=found.n_texts,
        n_tokens=found.n_tokens,
    )


def _weights(
    layers: Sequence[MoeLayer],
    found: ExpertStatistics,
    at: Sequence[tuple[int, int]],
    neurons: np.ndarray,
) -> np.ndarray:
    """down[channel, neuron] of each ranked expert's neurons."""
    values = np.zeros(neurons.shape)
    for number, (row, column) in enumerate(at):
        expert: Expert = (found.layers[row], -1 if column == found.n_experts else column)
        down = layer_of(layers, expert).down_of(expert[1])[int(found.channels[row, column])]
        for slot, neuron in enumerate(neurons[number]):
            values[number, slot] = float(down[neuron]) if neuron >= 0 else 0.0
    return values
