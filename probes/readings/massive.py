"""Massive activations (arXiv 2402.17762) and the neurons that write them.

A massive activation is a scalar of the residual stream larger than 100 and at least 1000 times the
median size of its layer's values in the same text. Where one first appears, the layer's attention and
MLP outputs at that channel say who wrote it, and the down projection splits the MLP's part over
neurons: neuron j contributes hidden[j] * W_down[channel, j].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..capture import capture
from ..model import Model
from ..results import Result, described
from .texts import Texts

Progress = Callable[[int, int, str], None]

ABSOLUTE = 100.0
RATIO = 1000.0
MAP_POSITIONS, MAP_CHANNELS = 32, 24
MAX_EVENTS = 40
N_WRITERS = 8


@dataclass(frozen=True, kw_only=True)
class MassiveActivations(Result):
    """Where massive activations stand, and who writes the largest."""

    kind: ClassVar[str] = "massive_activations"
    layers: np.ndarray = described("layer whose output is read", axes=("layers",))
    top: np.ndarray = described(
        "three largest sizes, mean over documents", axes=("layers", "ranks")
    )
    median: np.ndarray = described("median size, mean over documents", axes=("layers",))
    absolute: float = described("size a massive activation exceeds; 0 for no such test")
    ratio: float = described("how many medians it must reach")
    event_document: np.ndarray = described("document", axes=("events",))
    event_position: np.ndarray = described("position in the document", axes=("events",))
    event_token: np.ndarray = described("token id there", axes=("events",))
    event_channel: np.ndarray = described("dimension of the residual stream", axes=("events",))
    event_value: np.ndarray = described("largest value over layers", axes=("events",))
    event_first_layer: np.ndarray = described("layer that writes it", axes=("events",))
    event_last_layer: np.ndarray = described("last layer it stands after", axes=("events",))
    n_events: int = described("massive activations found; the largest are listed")
    writer_layer: int = described("layer that writes the largest; -1 if there is none")
    writer_channel: int = described("its dimension; -1 if there is none")
    writer_attention: float = described("what attention adds to it there")
    writer_mlp: float = described("what the MLP adds to it there")
    writer_neurons: np.ndarray = described("neurons that add most", axes=("neurons",))
    writer_contributions: np.ndarray = described("what each adds", axes=("neurons",))
    map_channels: np.ndarray = described("largest channels", axes=("channels",))
    map_values: np.ndarray = described(
        "sizes after the writing layer, largest over documents", axes=("positions", "channels")
    )
    n_documents: int = described("documents read")
    n_tokens: int = described("tokens read")


def massive_activations(
    resid: Float[Tensor, "positions d_model"],
    *,
    absolute: float | None = ABSOLUTE,
    ratio: float = RATIO,
) -> list[tuple[int, int, float]]:
    """Massive activations of one layer in one text.

    Args:
        resid: Residual stream after a layer.
        absolute: Size they exceed; None for no such test (small models' can be below 100).
        ratio: How many times the median size they must reach.

    Returns:
        (position, channel, value), largest size first.
    """
    sizes = resid.abs().float()
    bound = max(ratio * sizes.median().item(), absolute or 0.0)
    found = ((sizes >= bound) & (sizes > (absolute or 0.0))).nonzero().tolist()
    events = [(p, c, resid[p, c].item()) for p, c in found]
    return sorted(events, key=lambda event: -abs(event[2]))


@torch.no_grad()
def find_massive(
    model: Model,
    texts: Texts,
    *,
    absolute: float | None = ABSOLUTE,
    ratio: float = RATIO,
    progress: Progress | None = None,
) -> MassiveActivations:
    """Look for massive activations in every layer, and for the writers of the largest."""
    n_layers = model.n_layers
    top, median = np.zeros((n_layers, 3)), np.zeros(n_layers)
    events: dict[tuple[int, int, int], list[tuple[int, float]]] = {}
    done = 0
    for numbers, ids in texts.batches():
        with capture(model, "layers.*.resid_post", stop_early=True) as acts:
            model(ids, use_cache=False)
        for layer in range(n_layers):
            for number, resid in zip(numbers, acts[f"layers.{layer}.resid_post"], strict=True):
                sizes = resid.abs().float().flatten()
                top[layer] += sizes.topk(3).values.cpu().numpy()
                median[layer] += sizes.median().item()
                for position, channel, value in massive_activations(
                    resid, absolute=absolute, ratio=ratio
                ):
                    events.setdefault((number, position, channel), []).append((layer, value))
        done += ids.numel()
        if progress is not None:
            progress(done, texts.n_tokens, "massive activations")
    listed = sorted(events.items(), key=lambda item: -max(abs(v) for _, v in item[1]))[:MAX_EVENTS]
    return MassiveActivations(
        layers=np.arange(n_layers),
        top=top / len(texts),
        median=median / len(texts),
        absolute=absolute or 0.0,
        ratio=ratio,
        event_document=np.array([texts.names[d] for (d, _, _), _ in listed], dtype=str),
        event_position=np.array([p for (_, p, _), _ in listed], dtype=np.int64),
        event_token=np.array([texts.ids[d][p] for (d, p, _), _ in listed], dtype=np.int64),
        event_channel=np.array([c for (_, _, c), _ in listed], dtype=np.int64),
        event_value=np.array([max((v for _, v in seen), key=abs) for _, seen in listed]),
        event_first_layer=np.array([seen[0][0] for _, seen in listed], dtype=np.int64),
        event_last_layer=np.array([seen[-1][0] for _, seen in listed], dtype=np.int64),
        n_events=len(events),
        n_documents=len(texts),
        n_tokens=texts.n_tokens,
        **_writer(model, texts, listed),
        **_map(model, texts, listed),
    )


Listed = list[tuple[tuple[int, int, int], list[tuple[int, float]]]]


def neuron_contributions(
    hidden: Float[Tensor, " d_mlp"], down: Float[Tensor, "d_model d_mlp"], channel: int
) -> Float[Tensor, " d_mlp"]:
    """What each MLP neuron adds to one dimension of the residual stream."""
    return hidden * down[channel]


def down_projection(model: Model, layer: int) -> Float[Tensor, "d_model d_mlp"]:
    """Weight of a layer's down projection, outputs first."""
    module = model.sites[f"layers.{layer}.mlp.hidden"].port.module  # type: ignore[attr-defined]
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


def _writer(model: Model, texts: Texts, listed: Listed) -> dict[str, Any]:
    nobody: dict[str, Any] = {
        "writer_layer": -1,
        "writer_channel": -1,
        "writer_attention": 0.0,
        "writer_mlp": 0.0,
        "writer_neurons": np.zeros(0, dtype=np.int64),
        "writer_contributions": np.zeros(0),
    }
    if not listed:
        return nobody
    (document, position, channel), seen = listed[0]
    layer = seen[0][0]
    names = [f"layers.{layer}.{kind}" for kind in ("attn.out", "mlp.out", "mlp.hidden")]
    held = [name for name in names if name in model.sites]
    with capture(model, *held, stop_early=True) as acts:
        model(torch.from_numpy(texts.ids[document])[None], use_cache=False)
    values = {name.partition(".")[2].partition(".")[2]: acts[name][0, position] for name in held}
    found = nobody | {"writer_layer": layer, "writer_channel": channel}
    for kind, key in (("attn.out", "writer_attention"), ("mlp.out", "writer_mlp")):
        if kind in values:
            found[key] = values[kind][channel].item()
    if "mlp.hidden" in values:
        added = neuron_contributions(values["mlp.hidden"], down_projection(model, layer), channel)
        order = added.abs().argsort(descending=True)[:N_WRITERS]
        found["writer_neurons"] = order.cpu().numpy()
        found["writer_contributions"] = added[order].float().cpu().numpy()
    return found


def _map(model: Model, texts: Texts, listed: Listed) -> dict[str, Any]:
    """Sizes by position and channel after the layer that writes the largest (else the middle)."""
    layer = listed[0][1][0][0] if listed else model.n_layers // 2
    largest = torch.zeros(MAP_POSITIONS, model.d_model)
    for _, ids in texts.batches():
        with capture(model, f"layers.{layer}.resid_post", stop_early=True) as acts:
            model(ids[:, :MAP_POSITIONS], use_cache=False)
        sizes = acts[f"layers.{layer}.resid_post"].abs().float().amax(0).cpu()
        largest[: len(sizes)] = torch.maximum(largest[: len(sizes)], sizes)
        if ids.shape[1] >= MAP_POSITIONS:
            break
    channels = largest.amax(0).argsort(descending=True)[:MAP_CHANNELS]
    return {"map_channels": channels.numpy(), "map_values": largest[:, channels].numpy()}
