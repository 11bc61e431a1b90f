"""Ports of mixture-of-experts blocks: the router's logits and every chosen expert's own output.

transformers keeps routed experts as fused parameters: there is no module per expert to hook, and
the experts module returns the gate-weighted sum. Both ports here stand at the module boundaries that
do exist and recompute what lies between, with the model's own code, so that no layout (fused,
transposed, interleaved, biased) has to be known.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call

from .errors import SiteCheckError
from .ports import BatchSize, Port


class BlockPort(Port):
    """A port at a module inside a mixture-of-experts block, where tokens lie flattened.

    Args:
        module: The router or the experts.
        block: The module around it, whose input has the batch's shape.
    """

    def __init__(self, module: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.module, self._batch = module, BatchSize(block)

    def _open(self) -> Callable[[], None]:
        return self._batch.watch_with(
            self.module.register_forward_hook(self._after, with_kwargs=True)
        )

    @abstractmethod
    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        """Show the value; return the module's new output, or None to leave it."""


class RouterPort(BlockPort):
    """The router's logits, (batch, positions, experts).

    Edited logits go through the router's own rule again: it runs with an identity in place of its
    weight, so that its softmax or sigmoid, grouping and top-k see exactly the edited values.
    """

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        replacement = self._show(rearrange(output[0], "(b p) e -> b p e", b=self._batch.n_rows))
        if replacement is None:
            return None
        return route_again(module, rearrange(replacement, "b p e -> (b p) e"))


def route_again(router: nn.Module, logits: Tensor) -> tuple[Tensor, ...]:
    """The router's (logits, gate weights, expert ids) for given logits, by its own rule.

    A router that is no linear map (MoE-X's) offers that rule as `decide(logits)`.

    Raises:
        SiteCheckError: The router is not of the shape logits = linear(hidden states).
    """
    decide: Callable[[Tensor], tuple[Tensor, ...]] | None = getattr(router, "decide", None)
    if callable(decide):
        return decide(logits)
    n_experts = logits.shape[-1]
    identity = logits.new_zeros(n_experts, n_experts)
    identity.fill_diagonal_(1)
    swapped: dict[str, Tensor] = dict(router.named_parameters())
    swapped["weight"] = identity
    if getattr(router, "bias", None) is not None:
        swapped["bias"] = logits.new_zeros(n_experts)
    width = getattr(router, "hidden_dim", None)
    hooks = dict(router._forward_hooks)
    router._forward_hooks.clear()
    try:
        if width is not None:
            vars(router)["hidden_dim"] = n_experts
        routed = functional_call(router, swapped, (logits,))
    finally:
        router._forward_hooks.update(hooks)
        if width is not None:
            vars(router)["hidden_dim"] = width
    if not (isinstance(routed, tuple) and len(routed) == 3 and routed[0].shape == logits.shape):
        raise SiteCheckError(
            f"router.logits of {type(router).__name__} must return (logits, weights, ids) to be "
            "edited; it does not. Edit experts.out or mlp.out instead."
        )
    return routed


class ExpertsPort(BlockPort):
    """Un-weighted outputs of the chosen experts, (batch, positions, active, d_model).

    The block's own output is left as it is; beside it the experts run once more per slot with a gate
    weight of one, in whatever implementation the model uses. Slots are ordered by falling gate
    weight. Edited outputs are weighted and summed anew.
    """

    def _after(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> Any:
        hidden, ids, weights = [*args, *kwargs.values()][:3]
        order = weights.argsort(dim=-1, descending=True, stable=True)
        ids, weights = ids.gather(-1, order), weights.gather(-1, order)
        ones = weights.new_ones(len(ids), 1)
        slots = [
            module.forward(hidden, ids[:, slot : slot + 1], ones) for slot in range(ids.shape[1])
        ]
        replacement = self._show(rearrange(slots, "k (b p) d -> b p k d", b=self._batch.n_rows))
        if replacement is None:
            return None
        edited = rearrange(replacement, "b p k d -> (b p) k d")
        return (edited * weights[..., None]).sum(1).to(output.dtype)
