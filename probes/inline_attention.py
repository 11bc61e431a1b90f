"""Attention probabilities of modules that call scaled dot-product attention themselves (Falcon).

Their forward pass does not ask transformers' dispatcher, where `attention.py` looks. So while such a
module runs, and somebody looks, the one torch call that matters is seen: scaled dot-product attention,
beside which the probabilities are recomputed from the same arguments, or the softmax of eager
attention, whose result they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .attention import AttentionPort, attention_probabilities, with_pattern

_CALL = "scaled_dot_product_attention"


class InlinePatternPort(AttentionPort):
    """Attention probabilities of one such module, (batch, heads, query, key).

    Values and edits are as in `attention.PatternPort`. Eager attention shows no keys and values.
    """

    def _open(self) -> Callable[[], None]:
        held = vars(self.attention).get("forward")  # somebody else's wrapper, if there is one
        forward = self.attention.forward

        # Not by hooks: an early stop is no Exception, and no hook would be called after it.
        def watched(*args: Any, **kwargs: Any) -> Any:
            with _Watch(self):
                return forward(*args, **kwargs)

        vars(self.attention)["forward"] = watched

        def close() -> None:
            if held is None:
                del vars(self.attention)["forward"]
            else:
                vars(self.attention)["forward"] = held

        return close

    def beside(self, function: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        """Run scaled dot-product attention and show its probabilities."""
        output = function(*args, **kwargs)
        asked = inspect.signature(_arguments).bind(*args, **kwargs).arguments
        self._tell(asked["key"], asked["value"])
        pattern = attention_probabilities(
            asked["query"],
            asked["key"],
            asked.get("attn_mask"),
            scale=asked.get("scale"),
            causal=asked.get("is_causal", False),
        )
        replacement = self._show(pattern)
        return output if replacement is None else with_pattern(replacement, asked["value"])

    def own(self, pattern: Tensor) -> Tensor:
        """Show eager attention's probabilities."""
        replacement = self._show(pattern)
        return pattern if replacement is None else replacement.to(pattern.dtype)


class _Watch(TorchFunctionMode):
    def __init__(self, port: InlinePatternPort) -> None:
        super().__init__()
        self._port = port

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            return self._port.beside(func, *args, **(kwargs or {}))
        result = func(*args, **(kwargs or {}))
        return self._port.own(result) if func is functional.softmax else result


# The signature of torch's function, which cannot be asked for it.
def _arguments(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002 - as in torch
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: FBT001, FBT002
) -> None: ...


def attends_inline(attention: nn.Module) -> bool:
    """Whether this module calls scaled dot-product attention in its own forward pass."""
    return _CALL in inspect.unwrap(type(attention).forward).__code__.co_names
