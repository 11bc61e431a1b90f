"""Do super experts bear fewer bits? An experiment of our own; the paper has none on quantisation.

arXiv 2507.23279 argues for compression from pruning alone and gives no bit widths. Here the matrices of
the super experts are rounded to nearest, symmetric, one scale per output channel, and the model is
measured as after pruning; as many random others of the same layers, rounded alike, are the control.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import OptionError
from ..probes.model import Model
from ..probes.readings import Texts
from ..probes.readings.bootstrap import mean_with_interval
from ..probes.results import Result, described
from .effects import decay_of_masses, matched_draws, measure_condition
from .layers import Expert, layer_of, moe_layers

Progress = Callable[[int, int, str], None]

BITS = (8, 6, 4, 3, 2)


@dataclass(frozen=True, kw_only=True)
class QuantisationEffects(Result):
    """A model with some experts at fewer bits."""

    kind: ClassVar[str] = "expert_quantisation"
    experts: np.ndarray = described("super experts, as layer and expert", axes=("experts", "pair"))
    bits: np.ndarray = described("bits per weight", axes=("bits",))
    baseline: float = described("loss of the whole model", unit="nats")
    loss: np.ndarray = described("loss with them rounded", axes=("bits",), unit="nats")
    loss_low: np.ndarray = described("lower 95 % bound over texts", axes=("bits",), unit="nats")
    loss_high: np.ndarray = described("upper bound", axes=("bits",), unit="nats")
    random_loss: np.ndarray = described(
        "loss with random others of the same layers rounded", axes=("bits", "draws"), unit="nats"
    )
    decay: np.ndarray = described(
        "sink decay rate with them rounded; NaN where no head had a sink",
        axes=("bits", "attention layers"),
    )
    random_decay: np.ndarray = described(
        "the same for random others, mean over draws", axes=("bits", "attention layers")
    )
    largest: np.ndarray = described("largest |residual| with them rounded", axes=("bits",))
    baseline_largest: float = described("largest |residual| of the whole model")
    weight_error: np.ndarray = described(
        "size of what rounding takes away over the size of the weights", axes=("bits",)
    )
    attention_layers: np.ndarray = described("layers with attention", axes=("attention layers",))
    method: str = described("how weights are rounded")
    n_texts: int = described("texts read")
    n_tokens: int = described("predictions per measurement")


def round_to_nearest(
    weight: Float[Tensor, "outputs inputs"], bits: int
) -> Float[Tensor, "outputs inputs"]:
    """Weights rounded to 2^bits - 1 levels, symmetric about zero, one scale per output.

    Raises:
        OptionError: Fewer than two bits leave no level beside zero.
    """
    if bits < 2:
        raise OptionError(f"bits must be at least 2, got {bits}.")
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).float() / most
    scale = scale.clamp(min=torch.finfo(torch.float32).tiny)
    return ((weight.float() / scale).round().clamp(-most, most) * scale).to(weight.dtype)


@contextmanager
@torch.no_grad()
def quantised_experts(model: Model, experts: Sequence[Expert], bits: int) -> Iterator[float]:
    """Round some experts' weights while the block lasts; gives the relative error of the weights.

    Raises:
        NoExpertsError: The model is dense.
        UnknownExpertError: There is no such expert.
        OptionError: Fewer than two bits.
    """
    if bits < 2:
        raise OptionError(f"bits must be at least 2, got {bits}.")
    layers = moe_layers(model)
    found = [m for e in experts for m in layer_of(layers, e).matrices_of(e[1])]
    kept = [matrix.detach().clone() for matrix in found]
    error = size = 0.0
    try:
        for matrix, before in zip(found, kept, strict=True):
            matrix.copy_(round_to_nearest(before, bits))
            error += float((matrix - before).double().square().sum())
            size += float(before.double().square().sum())
        yield (error / size) ** 0.5 if size else 0.0
    finally:
        for matrix, before in zip(found, kept, strict=True):
            matrix.copy_(before)


@torch.no_grad()
def quantisation_effects(
    model: Model,
    texts: Texts,
    experts: Sequence[Expert],
    *,
    bits: Sequence[int] = BITS,
    n_random: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> QuantisationEffects:
    """Measure a model with super experts rounded, and with random others of their layers rounded.

    Args:
        model: A mixture-of-experts model.
        texts: Texts to read; attention is read on their first 64 tokens.
        experts: The experts in question.
        bits: Bit widths.
        n_random: Draws of random others, the same for every width.
        seed: Seed of the draws.
        progress: Called after every measurement.

    Raises:
        OptionError: No experts, no widths, or a width below two.
        UnknownExpertError: There is no such expert.
    """
    if not experts or not bits or min(bits) < 2 or n_random < 0:
        raise OptionError(
            f"Give at least one expert, and bit widths of at least 2; got {len(experts)} experts and "
            f"widths {list(bits)}."
        )
    layers = moe_layers(model)
    generator = np.random.default_rng(seed)
    draws = matched_draws(layers, experts, n_random, generator)
    total, done = 1 + len(bits) * (1 + n_random), 0

    def measured(chosen: Sequence[Expert], width: int | None) -> tuple[dict[str, Any], float]:
        nonlocal done
        if width is None:
            found, error = measure_condition(model, texts), 0.0
        else:
            with quantised_experts(model, chosen, width) as error:
                found = measure_condition(model, texts)
        done += 1
        if progress is not None:
            progress(done, total, "measurements")
        return found, error

    base, _ = measured([], None)
    supers = [measured(experts, width) for width in bits]
    randoms = [[measured(draw, width)[0] for draw in draws] for width in bits]

    def decays(row: dict[str, Any]) -> list[float]:
        pairs = zip(base["sinks"], row["sinks"], strict=True)
        return [decay_of_masses(before, after)[0] for before, after in pairs]

    intervals = [
        mean_with_interval(row["losses"], row["counts"], texts.documents) for row, _ in supers
    ]
    n_layers = len(base["attention_layers"])
    return QuantisationEffects(
        experts=np.array(experts, dtype=np.int64),
        bits=np.array(bits, dtype=np.int64),
        baseline=float(base["losses"].sum() / base["counts"].sum()),
        loss=np.array([float(i[0]) for i in intervals]),
        loss_low=np.array([float(i[1]) for i in intervals]),
        loss_high=np.array([float(i[2]) for i in intervals]),
        random_loss=np.array([
            [row["losses"].sum() / row["counts"].sum() for row in rows] for rows in randoms
        ]).reshape(len(bits), n_random),
        decay=np.array([decays(row) for row, _ in supers]).reshape(len(bits), n_layers),
        random_decay=np.array([
            np.mean([decays(row) for row in rows], axis=0) if rows else np.full(n_layers, np.nan)
            for rows in randoms
        ]).reshape(len(bits), n_layers),
        largest=np.array([row["largest"].max() for row, _ in supers]),
        baseline_largest=float(base["largest"].max()),
        weight_error=np.array([error for _, error in supers]),
        attention_layers=np.array(base["attention_layers"], dtype=np.int64),
        method="round to nearest, symmetric, one scale per output channel; our own experiment",
        n_texts=len(texts),
        n_tokens=int(base["counts"].sum()),
    )
