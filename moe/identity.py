"""The check at first use: gate-weighted expert outputs sum to what the model's own block returns.

Everything the room reports rests on un-weighted expert outputs being what we think they are. On the
user's own model, on one short pass, every block's output must equal

    sum over slots of gate weight * expert output  (+ sigmoid gate *) shared expert output

with experts computed by `layers.run_expert` and the block by the model's own implementation.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn

from ..probes.errors import SiteCheckError
from ..probes.model import Model
from .layers import MoeLayer, moe_layers, run_expert

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 4e-2, torch.float16: 1e-2}
"""Largest difference allowed, relative to the block's largest output."""

N_IDS = 12
_CHECKED: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()


def require_identity(model: Model) -> float:
    """`check_identity`, once per opened module."""
    if model.module not in _CHECKED:
        _CHECKED[model.module] = check_identity(model)
    return _CHECKED[model.module]


@torch.no_grad()
def check_identity(model: Model) -> float:
    """Check the identity in every mixture-of-experts layer.

    Returns:
        The largest difference found, relative to the block's largest output.

    Raises:
        NoExpertsError: The model is dense.
        SiteCheckError: A block's output is not the sum; names the layer.
    """
    layers = moe_layers(model)
    seen: dict[int, dict[str, Any]] = {layer.index: {} for layer in layers}
    handles = []
    for layer in layers:
        held = seen[layer.index]

        def at_experts(m: nn.Module, args: Any, kwargs: Any, out: Any, held: Any = held) -> None:
            held["inputs"] = [*args, *kwargs.values()][:3]

        def at_block(m: nn.Module, args: Any, out: Any, held: Any = held) -> None:
            held["out"] = (out[0] if isinstance(out, tuple) else out).flatten(0, -2)

        handles += [
            layer.experts.register_forward_hook(at_experts, with_kwargs=True),
            layer.block.register_forward_hook(at_block),
        ]
    try:
        ids = torch.arange(1, 1 + min(N_IDS, model.d_vocab - 1))[None]
        model(ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    worst = 0.0
    for layer in layers:
        held = seen[layer.index]
        error = _relative(held["out"], _summed(layer, *held["inputs"]))
        if not error <= TOLERANCE.get(model.dtype, 1e-2):
            raise SiteCheckError(
                f"Layer {layer.index} of {model.name}: gate-weighted expert outputs must sum to the "
                f"block's output; they differ by {error:.2g} of its largest value. Experts of "
                f"{type(layer.experts).__name__} are laid out otherwise than known; please report."
            )
        worst = max(worst, error)
    return worst


def _summed(layer: MoeLayer, hidden: Tensor, expert_ids: Tensor, gate_weights: Tensor) -> Tensor:
    total = torch.zeros_like(hidden)
    for expert in expert_ids.unique().tolist():
        rows, slots = torch.where(expert_ids == expert)
        _, out = run_expert(layer.experts, expert, hidden[rows])
        total.index_add_(0, rows, (out * gate_weights[rows, slots, None]).to(total.dtype))
    if layer.shared is not None:
        added = layer.shared(hidden)
        if layer.shared_gate is not None:
            added = layer.shared_gate(hidden).sigmoid() * added
        total = total + added
    return total


def _relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / a.abs().max().clamp(min=1e-30))
