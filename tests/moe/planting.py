"""Tiny mixtures of every family with super experts planted by hand.

The first token's embedding stands alone on one reserved dimension; the planted experts' router rows and
one of their neurons read it (and the channel they write, which drowns it in later norms); that neuron
writes the channel far beyond anything else.
"""

from typing import Any

import torch

from fluoroscope.moe.layers import SHARED, MoeLayer, moe_layers
from fluoroscope.probes import Model, wrap_model
from tests.families import TINY_CONFIGS, tiny_module
from tests.tokenizers_ import byte_tokenizer

BOS, RESERVED, CHANNEL, NEURON, SIZE = 256, 5, 11, 3, 40.0
READ = [RESERVED, CHANNEL]
N_LAYERS, N_EXPERTS = 8, 16

GROWN: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": N_EXPERTS},
    "qwen2_moe": {"num_experts": N_EXPERTS},
    "qwen3_moe": {"num_experts": N_EXPERTS},
    "olmoe": {"num_experts": N_EXPERTS},
    "deepseek_v2": {"n_routed_experts": N_EXPERTS},
    "deepseek_v3": {"n_routed_experts": N_EXPERTS},
    "gpt_oss": {"num_local_experts": N_EXPERTS},
    "moex": {"num_experts": N_EXPERTS},
}
PLANTED = ((1, 4), (2, 9), (3, 0))


def grown(family: str, *, seed: int = 0, **more: Any) -> Model:
    """A tiny mixture with enough experts and layers for a percentile."""
    options = {"num_hidden_layers": N_LAYERS, **GROWN[family], **more}
    if getattr(TINY_CONFIGS[family](), "layer_types", None) is not None:
        options["layer_types"] = ["full_attention"] * options["num_hidden_layers"]
    return wrap_model(tiny_module(family, seed=seed, **options), byte_tokenizer(), name=family)


@torch.no_grad()
def plant(model: Model, experts: tuple[tuple[int, int], ...] = PLANTED) -> Model:
    """Plant super experts; a planted shared expert is (layer, -1)."""
    module = model.module
    embedding = module.get_input_embeddings().weight
    embedding[:, RESERVED] = 0
    embedding[BOS] = 0
    embedding[BOS, RESERVED] = 4.0
    layers = {layer.index: layer for layer in moe_layers(model)}
    for layer in layers.values():
        layer.down[:, RESERVED] = 0
        if getattr(layer.experts, "has_bias", False):
            layer.experts.down_proj_bias[:, RESERVED] = 0
        if layer.shared is not None:
            layer.shared.down_proj.weight[RESERVED] = 0
    _clear_reserved(module)
    for index, expert in experts:
        _plant(layers[index], expert)
    return model


def _clear_reserved(module: Any) -> None:
    """Let no attention and no dense MLP write the reserved dimension."""
    if module.config.model_type == "moex":  # GPT-2's blocks, whose projections store inputs first
        module.transformer.wpe.weight[:, RESERVED] = 0
        for block in module.transformer.h:
            block.attn.c_proj.weight[:, RESERVED] = 0
            block.attn.c_proj.bias[RESERVED] = 0
        return
    for block in module.get_submodule("model.layers").children():
        block.self_attn.o_proj.weight[RESERVED] = 0
        if block.self_attn.o_proj.bias is not None:
            block.self_attn.o_proj.bias[RESERVED] = 0
        if hasattr(block.mlp, "down_proj"):
            block.mlp.down_proj.weight[RESERVED] = 0


def _plant(layer: MoeLayer, expert: int) -> None:
    if hasattr(layer.experts, "up_proj"):
        # MoE-X routes to the expert whose neurons are least likely to fire: all but one hate the first
        # token, which alone is large there.
        weight = layer.experts.up_proj[expert]
        weight.zero_()
        weight[:, READ] = -2.0
        weight[NEURON, READ] = 2.0
    elif expert == SHARED:
        for name in ("gate_proj", "up_proj"):
            weight = getattr(layer.shared, name).weight
            weight[NEURON] = 0
            weight[NEURON, READ] = 2.0
    else:
        layer.router.weight[expert] = 0
        layer.router.weight[expert, READ] = 8.0
        weight = layer.experts.gate_up_proj[expert]
        if getattr(layer.experts, "is_transposed", False):
            places = [(slice(None), 2 * NEURON), (slice(None), 2 * NEURON + 1)]
            reads = [(READ, 2 * NEURON), (READ, 2 * NEURON + 1)]
        else:
            width = weight.shape[0] // 2
            places = [(NEURON, slice(None)), (width + NEURON, slice(None))]
            reads = [(NEURON, READ), (width + NEURON, READ)]
        for place, read in zip(places, reads, strict=True):
            weight[place] = 0
            weight[read] = 2.0
    down = layer.down_of(expert)
    down[:, NEURON] = 0
    down[CHANNEL, NEURON] = SIZE


def some_ids(n_rows: int = 4, n_positions: int = 24, *, seed: int = 0) -> torch.Tensor:
    """Random bytes after the first token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 256, (n_rows, n_positions), generator=generator)
    ids[:, 0] = BOS
    return ids
