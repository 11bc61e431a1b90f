"""Carving a dense model with gated MLPs into a mixture of experts of a standard architecture.

The neurons of every MLP are grouped into experts of equal size; a router is fitted from data. The
result is a `transformers` model that `from_pretrained` loads anywhere:

    dense model                       becomes       its attention there
    Llama, Mistral, Qwen2             Qwen2-MoE     same, biases on q, k, v or none
    Qwen3                             Qwen3-MoE     same, with norms of q and k

Both weigh experts by a softmax over *all* experts without renormalising the chosen ones. With tiny
logits every gate weight is 1 / n_experts, and down projections are multiplied by n_experts (a power of
two loses no bit), so the block adds up exactly the chosen neurons: with all experts active it is the
dense MLP. Two exactnesses are kept apart:

- with `gate_spread=0` the router is zero and only sums are taken in another order;
- with a fitted router, gate weights differ from 1 / n_experts by at most the factor
  exp(+-2 * gate_spread) on the calibration texts. `active_experts(model, n_experts)` runs all experts
  with a zero router, which is the first case.

Qwen2-MoE insists on a shared expert: it gets one neuron of zeros. Un-weighted expert outputs, and with
them the maxima that profiling reports, are n_experts times the dense model's contributions.

The router predicts each expert's share of the output norm from the MLP's input, by ridge regression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers as hf
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..probes.errors import OptionError, UnsupportedArchitectureError
from ..probes.model import Model
from ..probes.open import wrap_model
from ..probes.readings import Texts
from .grouping import Grouping, group_neurons
from .layers import moe_layers

Progress = Callable[[int, int, str], None]

DENSE = {
    "llama": "qwen2_moe",
    "mistral": "qwen2_moe",
    "qwen2": "qwen2_moe",
    "qwen3": "qwen3_moe",
}
COPIED = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_parameters",
    "tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "head_dim",
    "attention_dropout", "sliding_window",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CarveOptions:
    """How a dense model is carved."""

    n_experts: int = 8
    """Experts per layer; must divide the number of neurons. A power of two keeps weights exact."""
    n_active: int | None = None
    """Experts a token is sent to; None for all."""
    grouping: Grouping = "coactivation"
    """What makes neurons alike."""
    gate_spread: float = 2.0**-10
    """Largest |router logit| on the calibration texts; 0 leaves the router zero."""
    ridge: float = 1e-2
    """Ridge of the router's regression, relative to the mean variance of its inputs."""
    n_rows: int = 1024
    """Tokens kept for grouping and fitting; the first of them."""
    seed: int = 0
    """Seed of the grouping."""

    def __post_init__(self) -> None:
        if self.n_experts < 2:
            raise OptionError(f"n_experts must be at least 2, got {self.n_experts}.")
        if self.n_active is not None and not 1 <= self.n_active <= self.n_experts:
            raise OptionError(
                f"n_active must be from 1 to n_experts={self.n_experts}, got {self.n_active}."
            )
        if not 0 <= self.gate_spread <= 0.1:
            raise OptionError(f"gate_spread must be from 0 to 0.1, got {self.gate_spread}.")
        if self.n_rows < 1 or self.ridge <= 0:
            raise OptionError("n_rows must be at least 1 and ridge above 0.")


@dataclass(frozen=True)
class Carved:
    """A carved model, and which neurons of the dense one each expert holds."""

    model: Model
    groups: Int64[Tensor, "layers experts size"]

    def expert_of(self, layer: int, neuron: int) -> int:
        """The expert that holds a neuron of the dense model."""
        return int((self.groups[layer] == neuron).any(1).nonzero()[0])


@torch.no_grad()
def carve(
    model: Model,
    texts: Texts,
    options: CarveOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Carved:
    """Carve a dense model into a mixture of experts.

    Args:
        model: A dense model of a family listed above; it is left as it is.
        texts: Texts for grouping and for fitting the router.
        options: How.
        progress: Called after every layer.

    Raises:
        UnsupportedArchitectureError: The model is of another family, or its MLPs have biases.
        OptionError: n_experts does not divide the number of neurons.
    """
    options = options or CarveOptions()
    config = model.config
    target = DENSE.get(config.model_type)
    if target is None or getattr(config, "mlp_bias", False) or _odd_attention(config):
        raise UnsupportedArchitectureError(
            f"{model.name} must be a dense gated-MLP model of {', '.join(DENSE)} without MLP biases "
            f"to be carved; it is {config.model_type}. No standard mixture has its blocks."
        )
    seen = _observe(model, texts, options.n_rows)
    width = config.intermediate_size // options.n_experts
    carved = _blank(model, target, options, width)
    state = dict(model.module.state_dict())
    mixed = {k: v for k, v in state.items() if ".mlp." not in k}
    missing, unexpected = carved.load_state_dict(mixed, strict=False)
    if unexpected or any(".mlp." not in key and "lm_head" not in key for key in missing):
        raise UnsupportedArchitectureError(
            f"{model.name}: {target} must have the same attention; {unexpected or missing} differ."
        )
    groups = []
    for number, layer in enumerate(model.module.get_submodule("model.layers").children()):
        inputs, hidden = seen[number]
        mlp: Any = layer.mlp
        chosen = group_neurons(
            hidden, mlp.gate_proj.weight, options.n_experts, by=options.grouping, seed=options.seed
        )
        block = carved.get_submodule(f"model.layers.{number}.mlp")
        _fill(block, mlp, chosen)
        if options.gate_spread:
            router = fit_router(inputs, hidden, mlp.down_proj.weight, chosen, options)
            block.gate.weight.copy_(router)  # type: ignore[union-attr,operator]
        groups.append(chosen)
        if progress is not None:
            progress(number + 1, model.n_layers, "layers")
    carved.generation_config = model.module.generation_config
    tokenizer = model.tokenizer if model.has_tokenizer else None
    name = f"{model.name}, {options.n_experts} experts by {options.grouping}"
    return Carved(wrap_model(carved.eval(), tokenizer, name=name), torch.stack(groups))


def fit_router(
    inputs: Float[Tensor, "rows d_model"],
    hidden: Float[Tensor, "rows neurons"],
    down: Float[Tensor, "d_model neurons"],
    groups: Int64[Tensor, "experts size"],
    options: CarveOptions,
) -> Float[Tensor, "experts d_model"]:
    """Router weights that rank experts by their predicted share of the output norm.

    Shares are centred over experts (a constant changes no ranking) and regressed on the inputs; the
    weights are then scaled so that no logit on these rows exceeds gate_spread.
    """
    norms = torch.stack(
        [(hidden[:, g] @ down[:, g].to(hidden).T).norm(dim=1) for g in groups], dim=1
    ).double()
    shares = norms / norms.sum(1, keepdim=True).clamp(min=1e-30)
    shares = shares - shares.mean(1, keepdim=True)
    x = inputs.double()
    gram = x.T @ x / len(x)
    gram.diagonal().add_(options.ridge * gram.diagonal().mean())
    weights = torch.linalg.solve(gram, x.T @ shares / len(x)).T
    largest = (x @ weights.T).abs().max().clamp(min=1e-30)
    return (weights * (options.gate_spread / largest)).to(inputs.dtype)


@contextmanager
def active_experts(model: Model, n_active: int) -> Iterator[None]:
    """Send every token to this many experts while the block lasts.

    With all experts active there is nothing to choose, and the router is set to zero: every gate
    weight is exactly 1 / n_experts. Meant for carved models.

    Raises:
        NoExpertsError: The model is dense.
        OptionError: More experts than there are, or none.
    """
    layers = moe_layers(model)
    most = min(layer.n_experts for layer in layers)
    if not 1 <= n_active <= most:
        raise OptionError(f"n_active must be from 1 to {most}, got {n_active}.")
    kept = [(layer.router, layer.n_active, layer.router.weight) for layer in layers]
    try:
        for layer in layers:
            router: Any = layer.router
            router.top_k = n_active
            if n_active == layer.n_experts:
                zero = torch.zeros_like(router.weight)
                router.weight = nn.Parameter(zero, requires_grad=False)
        yield
    finally:
        for router, before, weight in kept:
            router.top_k, router.weight = before, weight  # type: ignore[assignment]


def _odd_attention(config: Any) -> bool:
    """Whether attention has what the target lacks: a bias on the output, a partial window."""
    return config.model_type == "llama" and bool(getattr(config, "attention_bias", False))


def _observe(model: Model, texts: Texts, n_rows: int) -> list[tuple[Tensor, Tensor]]:
    """Inputs of every MLP and of its down projection, on the first rows of the texts."""
    layers = list(model.module.get_submodule("model.layers").children())
    kept: list[tuple[list[Tensor], list[Tensor]]] = [([], []) for _ in layers]
    handles = []

    def see(into: list[Tensor], module: nn.Module, args: Any) -> None:
        into.append(args[0].detach().flatten(0, -2).float())

    for layer, (inputs, hidden) in zip(layers, kept, strict=True):
        mlp: Any = layer.mlp
        handles.append(mlp.register_forward_pre_hook(partial(see, inputs)))
        handles.append(mlp.down_proj.register_forward_pre_hook(partial(see, hidden)))
    try:
        done = 0
        for _, ids in texts.batches():
            if done >= n_rows:
                break
            model(ids, use_cache=False)
            done += ids.numel()
    finally:
        for handle in handles:
            handle.remove()
    return [(torch.cat(a)[:n_rows], torch.cat(b)[:n_rows]) for a, b in kept]


def _blank(model: Model, target: str, options: CarveOptions, width: int) -> Any:
    """A model of the target architecture with the dense model's sizes, weights still to come."""
    dense = model.config
    shared: dict[str, Any] = {
        name: getattr(dense, name) for name in COPIED if getattr(dense, name, None) is not None
    }
    shared |= {
        "num_experts": options.n_experts,
        "num_experts_per_tok": options.n_active or options.n_experts,
        "moe_intermediate_size": width,
        "intermediate_size": dense.intermediate_size,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "use_sliding_window": bool(getattr(dense, "use_sliding_window", False)),
        "dtype": model.dtype,
    }
    if target == "qwen2_moe":
        shared |= {"shared_expert_intermediate_size": 1, "qkv_bias": dense.model_type == "qwen2"}
    if dense.model_type == "mistral" and shared.get("sliding_window"):
        shared |= {
            "use_sliding_window": True,
            "layer_types": ["sliding_attention"] * dense.num_hidden_layers,
        }
    elif getattr(dense, "layer_types", None) is not None:
        shared["layer_types"] = list(dense.layer_types)
    config = hf.AutoConfig.for_model(target, **shared)
    with torch.random.fork_rng():
        carved = hf.AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    carved.to(model.device)
    for part in carved.modules():
        if hasattr(part, "shared_expert"):
            for parameter in part.shared_expert.parameters():
                parameter.zero_()
            part.shared_expert_gate.weight.zero_()
    return carved


def _fill(block: Any, mlp: Any, groups: Tensor) -> None:
    n_experts = len(groups)
    block.gate.weight.zero_()
    for expert, neurons in enumerate(groups):
        chosen = neurons.to(mlp.gate_proj.weight.device)
        up = torch.cat([mlp.gate_proj.weight[chosen], mlp.up_proj.weight[chosen]])
        block.experts.gate_up_proj[expert].copy_(up)
        block.experts.down_proj[expert].copy_(mlp.down_proj.weight[:, chosen] * n_experts)
