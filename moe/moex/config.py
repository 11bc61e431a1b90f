"""Configuration of MoE-X and of the mixtures it is compared with. Needs transformers alone."""

from __future__ import annotations

from typing import Any

from transformers import GPT2Config


class MoexConfig(GPT2Config):
    """A GPT-2 whose MLPs are mixtures of two-matrix experts (arXiv 2503.07639).

    Args:
        num_experts: Experts per layer.
        num_experts_per_tok: Experts a token is sent to.
        expert_size: Hidden neurons of an expert.
        expert_activation: "relu" (MoE-X), or any other name transformers knows.
        routing: "sparsity" scores experts by how few of their neurons are expected to fire, from
            their weights; "learned" by a linear map.
        gate: "chosen" takes the softmax over the chosen experts (MoE-X); "all" over all of them
            (Switch, where one expert is chosen and its gate weight must carry a gradient).
        gate_temperature: Scores are divided by it before the softmax.
        detach_gate: Whether sparsity-aware scores send no gradient into the experts.
        balance_coefficient: Weight of the load-balancing loss.
        more: What GPT2Config takes. Dropout is 0 here unless given, as in the paper.

    Raises:
        ValueError: A size or a name is out of range.
    """

    model_type = "moex"

    def __init__(
        self,
        *,
        num_experts: int = 8,
        num_experts_per_tok: int = 2,
        expert_size: int = 1536,
        expert_activation: str = "relu",
        routing: str = "sparsity",
        gate: str = "chosen",
        gate_temperature: float = 1.0,
        detach_gate: bool = False,
        balance_coefficient: float = 0.01,
        **more: Any,
    ) -> None:
        if not 1 <= num_experts_per_tok <= num_experts or expert_size < 2:
            raise ValueError(
                "num_experts_per_tok must be from 1 to num_experts and expert_size at least 2, got "
                f"{num_experts_per_tok}, {num_experts} and {expert_size}."
            )
        if routing not in ("sparsity", "learned") or gate not in ("chosen", "all"):
            raise ValueError(
                f"routing must be 'sparsity' or 'learned' and gate 'chosen' or 'all', got "
                f"{routing!r} and {gate!r}."
            )
        if gate_temperature <= 0 or balance_coefficient < 0:
            raise ValueError(
                "gate_temperature must be above 0 and balance_coefficient at least 0, got "
                f"{gate_temperature} and {balance_coefficient}."
            )
        self.num_experts, self.num_experts_per_tok = num_experts, num_experts_per_tok
        self.expert_size, self.expert_activation = expert_size, expert_activation
        self.routing, self.gate = routing, gate
        self.gate_temperature, self.detach_gate = gate_temperature, detach_gate
        self.balance_coefficient = balance_coefficient
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        super().__init__(**{**dropout, **more})
