"""Codes: what a model's interpretable features are on each token, whatever kind of model it is.

model               code of a layer, one entry per feature
dense               hidden neurons of the MLP, after the activation
mixture             z = concat_j(gate_j * act(encoder_j x)), M * D entries, k * D of them at most not 0
                    (arXiv 2503.07639; MoE-X's wide-MLP view)
dense with SAE      latents of a sparse autoencoder of the layer's residual stream
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from ...probes.capture import capture
from ...probes.model import Model
from ..errors import NoExpertsError
from ..layers import MoeLayer, moe_layers, run_expert

Encode = Callable[[Tensor], Tensor]
"""From rows of the residual stream to latents."""


@torch.no_grad()
def layer_codes(
    model: Model,
    ids: Int64[Tensor, "batch positions"],
    layer: int,
    keep: Bool[Tensor, "batch positions"],
    *,
    encode: Encode | None = None,
) -> Float[Tensor, "rows features"]:
    """Codes of one layer at the tokens to keep, in reading order.

    Args:
        model: A GPT-2 or a mixture.
        ids: Token ids.
        layer: Which layer.
        keep: Which tokens.
        encode: An autoencoder's encoder; with it the code is its latents on `resid_post`.
    """
    if encode is not None:
        with capture(model, f"layers.{layer}.resid_post", stop_early=True) as acts:
            model(ids, use_cache=False)
        return encode(acts[f"layers.{layer}.resid_post"][keep])
    mixture = _mixture(model, layer)
    if mixture is None:
        with capture(model, f"layers.{layer}.mlp.hidden", stop_early=True) as acts:
            model(ids, use_cache=False)
        return acts[f"layers.{layer}.mlp.hidden"][keep]
    held: dict[str, Any] = {}

    def see(module: nn.Module, args: Any, kwargs: Any) -> None:
        held["inputs"] = [*args, *kwargs.values()][:3]

    handle = mixture.experts.register_forward_pre_hook(see, with_kwargs=True)
    try:
        model(ids, use_cache=False)
    finally:
        handle.remove()
    hidden, expert_ids, gate_weights = (value[keep.flatten()] for value in held["inputs"])
    return wide_code(mixture, hidden, expert_ids, gate_weights)


@torch.no_grad()
def wide_code(
    layer: MoeLayer,
    hidden: Float[Tensor, "rows d_model"],
    expert_ids: Int64[Tensor, "rows active"],
    gate_weights: Float[Tensor, "rows active"],
) -> Float[Tensor, "rows features"]:
    """Z of a mixture: gate-weighted hidden neurons of all experts side by side.

    With the decoders side by side as W2, W2 z plus the gate-weighted biases is the layer's output.
    """
    size = layer.down.shape[-1]
    code = hidden.new_zeros(len(hidden), layer.n_experts, size)
    for expert in expert_ids.unique().tolist():
        rows, slots = torch.where(expert_ids == expert)
        inside, _ = run_expert(layer.experts, expert, hidden[rows])
        code[rows, expert] = inside * gate_weights[rows, slots, None]
    return code.flatten(1)


def _mixture(model: Model, layer: int) -> MoeLayer | None:
    try:
        return next((found for found in moe_layers(model) if found.index == layer), None)
    except NoExpertsError:
        return None
