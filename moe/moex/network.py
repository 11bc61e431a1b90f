"""MoE-X as a transformers model (arXiv 2503.07639). Needs torch and transformers alone.

Each MLP of a GPT-2 becomes M experts of two matrices, decoder_j act(encoder_j x); a token gets the
gate-weighted sum of k of them. With ReLU the gate-weighted hidden neurons of all experts are one wide,
sparse code z of M * D entries, of which at most k * D are not zero: the interpretable features.

Sparsity-aware routing has no weights of its own. The rows of an expert's encoder are read as draws
from a Gaussian: with mean mu_j and variance v_j over its D neurons, per input dimension, a neuron's
pre-activation on x has mean m_j = mu_j . x and variance s_j^2 = v_j . x^2, so a share
Phi(m_j / s_j) of the neurons is expected to fire, and the score

    score_j = -erf(m_j / (sqrt(2) s_j))

is high where few do. Biases join as one more input of value 1. Gradients flow through mu and v into
the encoders unless `detach_gate`.

Deviations: there is no official code. Balancing is Switch's loss, M * sum_j f_j P_j (arXiv 2101.03961,
Eq. 4-6), which the paper does not specify; the square root over the variance is kept, which one
summary of the paper lacks. Axes: t token, e expert, a active slot, f hidden neuron, d model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GPT2LMHeadModel,
    GPT2Model,
    GPT2PreTrainedModel,
)
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.integrations import moe as hf_moe
from transformers.modeling_outputs import CausalLMOutputWithCrossAttentions

from .config import MoexConfig

IGNORED = -100
"""Label of positions that are not predicted, for all losses of transformers."""
LEAST_DEVIATION = 1e-6
"""Smallest standard deviation a score divides by."""

Routed = tuple[Tensor, Tensor, Tensor]
"""Scores (t, e), gate weights (t, a) and expert ids (t, a)."""

_Experts = TypeVar("_Experts", bound=type[nn.Module])


def use_experts_implementation(*, has_bias: bool, has_gate: bool) -> Callable[[_Experts], _Experts]:
    """Decorate with transformers' own, which gives back the class it gets but does not say so.

    The name stays: transformers searches this file for it to see that implementations can be chosen.
    """
    decorate = hf_moe.use_experts_implementation(has_bias=has_bias, has_gate=has_gate)
    return cast("Callable[[_Experts], _Experts]", decorate)


@dataclass
class MoexOutput(CausalLMOutputWithCrossAttentions):
    """What GPT-2 returns, and the parts of the loss."""

    lm_loss: Tensor | None = None
    """Next-token loss, nats."""
    balance_loss: Tensor | None = None
    """Load-balancing loss, mean over layers; 1 at balance."""
    router_logits: tuple[Tensor, ...] | None = None
    """Scores of each layer, (tokens, experts)."""


@use_experts_implementation(has_bias=True, has_gate=False)
class MoexExperts(nn.Module):
    """The fused experts of a layer; transformers' implementations run them."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__()
        n, d, f = config.num_experts, config.hidden_size, config.expert_size
        self.num_experts = n
        self.up_proj = nn.Parameter(torch.empty(n, f, d))
        self.up_proj_bias = nn.Parameter(torch.zeros(n, f))
        self.down_proj = nn.Parameter(torch.empty(n, d, f))
        self.down_proj_bias = nn.Parameter(torch.zeros(n, d))
        self.act_fn = ACT2FN[config.expert_activation]

    def forward(self, hidden_states: Tensor, expert_ids: Tensor, gate_weights: Tensor) -> Tensor:
        """Gate-weighted sum over slots, expert by expert."""
        n_active = expert_ids.shape[1]
        order = expert_ids.flatten().argsort(stable=True)
        loads = torch.bincount(expert_ids.flatten(), minlength=self.num_experts).tolist()
        outputs = []
        for expert, rows in enumerate((order // n_active).split(loads)):
            hidden = nn.functional.linear(
                hidden_states[rows], self.up_proj[expert], self.up_proj_bias[expert]
            )
            outputs.append(
                nn.functional.linear(
                    self.act_fn(hidden), self.down_proj[expert], self.down_proj_bias[expert]
                )
            )
        weighted = torch.cat(outputs) * gate_weights.flatten()[order, None]
        return torch.zeros_like(hidden_states).index_add(0, order // n_active, weighted)


class MoexRouter(nn.Module):
    """What both routers share: the decision, once experts have scores."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__()
        self.top_k, self.gate, self.temperature = (
            config.num_experts_per_tok, config.gate, config.gate_temperature,
        )  # fmt: skip

    def decide(self, scores: Tensor) -> Routed:
        """Gate weights and ids of the experts that score highest."""
        scaled = scores / self.temperature
        chosen = scaled.topk(self.top_k, dim=-1)
        if self.gate == "chosen":
            weights = chosen.values.softmax(-1)
        else:
            weights = scaled.softmax(-1).gather(-1, chosen.indices)
        return scores, weights, chosen.indices


class SparsityRouter(MoexRouter):
    """Scores experts by how few of their neurons are expected to fire; has no weights."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__(config)
        self.detach = config.detach_gate
        self._held: tuple[Any, tuple[Tensor, ...]] | None = None

    def forward(self, hidden_states: Tensor, experts: MoexExperts) -> Routed:
        """Route tokens, (t, d)."""
        mean, variance, bias_mean, bias_variance = self._moments(experts)
        deviation = hidden_states.square() @ variance.T + bias_variance
        # Clamped inside the root: its gradient is unbounded at 0.
        deviation = deviation.clamp(min=LEAST_DEVIATION**2).sqrt()
        return self.decide(-torch.erf((hidden_states @ mean.T + bias_mean) / deviation / 2**0.5))

    def expected_active(self, scores: Tensor, expert_size: int) -> Tensor:
        """Neurons expected to fire, from scores: D * Phi(m / s) = D * (1 - score) / 2."""
        return expert_size * (1 - scores) / 2

    def _moments(self, experts: MoexExperts) -> tuple[Tensor, ...]:
        """Mean and variance over each expert's neurons; kept while weights stay, without gradients."""
        encoder, bias = experts.up_proj, experts.up_proj_bias
        if self.detach or not torch.is_grad_enabled():
            key = tuple((w.data_ptr(), w._version, w.dtype) for w in (encoder, bias))
            if self._held is None or self._held[0] != key:
                self._held = (key, _moments_of(encoder.detach(), bias.detach()))
            return self._held[1]
        return _moments_of(encoder, bias)


def _moments_of(encoder: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    return (
        encoder.mean(1),
        encoder.var(1, correction=0),
        bias.mean(1),
        bias.var(1, correction=0),
    )


class LearnedRouter(MoexRouter):
    """Scores experts by a linear map of the token, as Switch and most mixtures do."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, hidden_states: Tensor, experts: MoexExperts | None = None) -> Routed:
        """Route tokens, (t, d)."""
        return self.decide(nn.functional.linear(hidden_states, self.weight))


class MoexBlock(nn.Module):
    """Router and experts in place of an MLP."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__()
        self.experts = MoexExperts(config)
        self.router = (
            SparsityRouter(config) if config.routing == "sparsity" else LearnedRouter(config)
        )
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Run the chosen experts on (batch, positions, d)."""
        rows = hidden_states.flatten(0, -2)
        _, gate_weights, expert_ids = self.router(rows, self.experts)
        mixed = self.experts(rows, expert_ids, gate_weights.to(rows.dtype))
        return self.dropout(mixed.view_as(hidden_states))


class _Initialised(GPT2PreTrainedModel):
    """GPT-2's initialisation, extended to experts and routers."""

    config_class = MoexConfig  # type: ignore[assignment]
    # transformers keeps this answer on the class and finds GPT-2's own (no experts) by inheritance.
    _can_set_experts_implementation_cached_value = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MoexExperts):
            init.normal_(module.up_proj, std=std)
            init.normal_(module.down_proj, std=std / (2 * self.config.num_hidden_layers) ** 0.5)
            init.zeros_(module.up_proj_bias)
            init.zeros_(module.down_proj_bias)
        elif isinstance(module, LearnedRouter):
            init.normal_(module.weight, std=std)


class MoexModel(_Initialised, GPT2Model):
    """The decoder without its head."""

    def __init__(self, config: MoexConfig) -> None:
        super().__init__(config)
        for layer in self.h:
            layer.mlp = MoexBlock(config)
        self.post_init()


class MoexForCausalLM(_Initialised, GPT2LMHeadModel):
    """MoE-X for next-token prediction; `MoexConfig` makes its baselines of it as well."""

    def __init__(self, config: MoexConfig) -> None:
        super(GPT2LMHeadModel, self).__init__(config)  # GPT-2's own makes a dense decoder first
        self.transformer = MoexModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def blocks(self) -> list[MoexBlock]:
        """The mixture of every layer."""
        return [layer.mlp for layer in self.transformer.h]  # type: ignore[misc]

    def forward(
        self,
        input_ids: Tensor | None = None,
        *args: Any,
        labels: Tensor | None = None,
        output_router_logits: bool = False,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """GPT-2's pass; with labels, the loss is next-token loss plus weighted balancing loss.

        Padding is not balanced: what the attention mask leaves out or, without one, has no label.
        """
        ids = cast("torch.LongTensor | None", input_ids)
        if labels is None and not output_router_logits:
            return super().forward(ids, *args, return_dict=return_dict, **kwargs)
        targets = cast("torch.LongTensor | None", labels)
        with _watched(self.blocks) as routed:
            out = super().forward(ids, *args, labels=targets, return_dict=True, **kwargs)
        found = MoexOutput(**out)
        if output_router_logits:
            found.router_logits = tuple(scores for scores, _, _ in routed)
        if labels is not None:
            found.lm_loss = out.loss
            mask = kwargs.get("attention_mask")
            if mask is None or mask.shape != labels.shape:
                mask = labels != IGNORED
            real = mask.bool().flatten()
            each = [
                balance_loss(*(part[real] for part in r), temperature=self.config.gate_temperature)
                for r in routed
            ]
            found.balance_loss = torch.stack(each).mean()
            found.loss = out.loss + self.config.balance_coefficient * found.balance_loss
        return found if return_dict is not False else found.to_tuple()


def balance_loss(
    scores: Tensor, gate_weights: Tensor, expert_ids: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Switch's load-balancing loss of one layer: M * sum_j f_j P_j; 1 where all get alike.

    f_j is the share of (token, slot) pairs sent to expert j, P_j its mean probability under a softmax
    over all experts.
    """
    n_experts = scores.shape[-1]
    shares = torch.bincount(expert_ids.flatten(), minlength=n_experts) / expert_ids.numel()
    return n_experts * (shares * (scores / temperature).softmax(-1).mean(0)).sum()


@contextmanager
def _watched(blocks: list[MoexBlock]) -> Iterator[list[Routed]]:
    """Routing of every block during the pass inside."""
    routed: list[Routed] = []

    def keep(module: nn.Module, args: Any, output: Routed) -> None:
        routed.append(output)

    handles = [block.router.register_forward_hook(keep) for block in blocks]
    try:
        yield routed
    finally:
        for handle in handles:
            handle.remove()


def register() -> None:
    """Let AutoConfig and AutoModelForCausalLM know "moex"; saved models carry this code along."""
    AutoConfig.register("moex", MoexConfig, exist_ok=True)
    AutoModelForCausalLM.register(MoexConfig, MoexForCausalLM, exist_ok=True)
    MoexConfig.register_for_auto_class()
    MoexForCausalLM.register_for_auto_class("AutoModelForCausalLM")


register()
