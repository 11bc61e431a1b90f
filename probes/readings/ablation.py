"""What the writers of a massive activation hold up: ablate them and look.

Each condition zeroes some MLP neurons of the writing layer and measures the largest activation, the
attention that later layers give to the first token, and the loss. Random neurons of the same layer are
the control: if zeroing hundreds of those changes nothing, the effect is the writers' own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..capture import capture
from ..intervene import Edit, intervene, set_dims
from ..model import Model
from ..results import Result, described
from .bootstrap import mean_with_interval
from .loss import token_scores
from .massive import MassiveActivations
from .texts import Texts

Progress = Callable[[int, int, str], None]

N_RANDOM = 192
SEED = 0
TEXT_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class AblationStory(Result):
    """A model with and without the neurons that write its massive activation."""

    kind: ClassVar[str] = "ablation_story"
    layer: int = described("layer whose neurons are zeroed")
    conditions: np.ndarray = described("what is zeroed", axes=("conditions",))
    n_neurons: np.ndarray = described("neurons zeroed", axes=("conditions",))
    largest: np.ndarray = described(
        "largest activation after that layer, mean over texts", axes=("conditions",)
    )
    sink_mass: np.ndarray = described(
        "attention to the first token in later layers, mean", axes=("conditions",)
    )
    sink_mass_low: np.ndarray = described("lower 95 % bound over documents", axes=("conditions",))
    sink_mass_high: np.ndarray = described("upper bound", axes=("conditions",))
    loss: np.ndarray = described("next-token loss", axes=("conditions",), unit="nats")
    loss_low: np.ndarray = described("lower bound", axes=("conditions",), unit="nats")
    loss_high: np.ndarray = described("upper bound", axes=("conditions",), unit="nats")
    n_tokens: int = described("predictions per condition")
    n_documents: int = described("documents read")


def ablation_conditions(
    massive: MassiveActivations, d_mlp: int, *, n_writers: int = 2
) -> dict[str, list[int]]:
    """Nothing, the first writer, the first few, and random others, by name."""
    writers = [int(neuron) for neuron in massive.writer_neurons[:n_writers]]
    others = np.setdiff1d(np.arange(d_mlp), massive.writer_neurons)
    drawn = np.random.default_rng(SEED).permutation(others)[: min(N_RANDOM, len(others))]
    conditions = {"nothing": [], f"neuron {writers[0]}": writers[:1]}
    if len(writers) > 1:
        conditions["neurons " + " and ".join(map(str, writers))] = writers
    conditions[f"{len(drawn)} random others"] = drawn.tolist()
    return conditions


@torch.no_grad()
def ablation_story(
    model: Model,
    texts: Texts,
    massive: MassiveActivations,
    *,
    progress: Progress | None = None,
) -> AblationStory | None:
    """Zero the writers of the largest massive activation and measure what changes.

    Returns:
        The story; None where there is no massive activation or nobody to zero.
    """
    layer = massive.writer_layer
    site = f"layers.{layer}.mlp.hidden"
    width = model.sites[site].width if site in model.sites else None
    if not len(massive.writer_neurons) or width is None:
        return None
    conditions = ablation_conditions(massive, width)
    rows = []
    for number, neurons in enumerate(conditions.values()):
        rows.append(_measure(model, texts, layer, neurons))
        if progress is not None:
            progress(number + 1, len(conditions), "ablation")
    largest, sinks, losses = zip(*rows, strict=True)
    return AblationStory(
        layer=layer,
        conditions=np.array(list(conditions), dtype=str),
        n_neurons=np.array([len(neurons) for neurons in conditions.values()]),
        largest=np.array(largest),
        sink_mass=np.array([s[0] for s in sinks]),
        sink_mass_low=np.array([s[1] for s in sinks]),
        sink_mass_high=np.array([s[2] for s in sinks]),
        loss=np.array([s[0] for s in losses]),
        loss_low=np.array([s[1] for s in losses]),
        loss_high=np.array([s[2] for s in losses]),
        n_tokens=sum(min(len(ids), TEXT_TOKENS) - 1 for ids in texts.ids),
        n_documents=texts.n_documents,
    )


Triple = tuple[float, float, float]


def _measure(
    model: Model, texts: Texts, layer: int, neurons: Sequence[int]
) -> tuple[float, Triple, Triple]:
    """Largest activation, sink mass and loss of one condition."""
    later = [
        site.name
        for site in model.sites.resolve("layers.*.attn.pattern")
        if site.layer is not None and site.layer > layer
    ]
    edits: dict[str, Edit] = {f"layers.{layer}.mlp.hidden": set_dims(neurons)} if neurons else {}
    sizes, masses, losses, counts = [], [], [], []
    for document in texts.ids:
        ids = torch.from_numpy(document[:TEXT_TOKENS])[None]
        sites = [f"layers.{layer}.resid_post", *later]
        with intervene(model, edits), capture(model, *sites) as acts:
            logits = model(ids, use_cache=False).logits[0, :-1]
        sizes.append(acts[sites[0]].abs().max().item())
        if later:
            masses.append(np.mean([acts[name][0, :, 1:, 0].mean().item() for name in later]))
        losses.append(token_scores(logits, ids[0, 1:].to(logits.device))[0].sum().item())
        counts.append(ids.shape[1] - 1)
    ones = np.ones(len(masses), dtype=np.int64)
    sink = mean_with_interval(np.array(masses), ones, texts.documents) if masses else (np.nan,) * 3
    loss = mean_with_interval(np.array(losses), np.array(counts), texts.documents)
    return float(np.mean(sizes)), _floats(sink), _floats(loss)


def _floats(values: tuple[object, ...]) -> Triple:
    first, low, high = (float(value) for value in values)  # type: ignore[arg-type]
    return first, low, high
