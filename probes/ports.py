"""Ports: where a site's value can be read and replaced while the model runs.

A port knows one way of getting at a tensor (a module's input or output, the router's logits, the
attention probabilities, the experts' outputs) and hands it to visitors in a fixed order: first the
edits (interventions), then the reads (captures), each in the order they came. A hook stands in the
model only while somebody visits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Visit = Callable[[Tensor], Tensor | None]
"""Sees a site's value; a tensor it returns takes the value's place in the forward pass."""


class Port(ABC):
    """One way to a tensor inside the model. Subclasses are final and implement `_open`."""

    def __init__(self) -> None:
        self._edits: list[_Visitor] = []
        self._reads: list[_Visitor] = []
        self._close: Callable[[], None] | None = None

    def attach(self, visit: Visit, *, first: bool = False) -> Callable[[], None]:
        """Let `visit` see the value on every forward pass.

        Args:
            visit: Called with the value; a returned tensor replaces it.
            first: Whether it runs before plain reads, whenever those were attached.

        Returns:
            A function that detaches `visit`; calling it twice does no harm.
        """
        visitor = _Visitor(visit)
        queue = self._edits if first else self._reads
        queue.append(visitor)
        if self._close is None:
            self._close = self._open()

        def detach() -> None:
            if visitor in queue:
                queue.remove(visitor)
            if not (self._edits or self._reads) and self._close is not None:
                self._close()
                self._close = None

        return detach

    def _show(self, value: Tensor) -> Tensor | None:
        """Pass the value along all visitors; the replacement, or None where nobody replaced it."""
        replacement = None
        for visitor in [*self._edits, *self._reads]:
            returned = visitor.visit(value)
            if returned is not None:
                value = replacement = returned
        return replacement

    @abstractmethod
    def _open(self) -> Callable[[], None]:
        """Put the hook in; returns how to take it out."""


class _Visitor:
    """Gives each attachment an identity of its own, even when one function is attached twice."""

    def __init__(self, visit: Visit) -> None:
        self.visit = visit


class BatchSize:
    """Batch size of the pass under way, for ports inside a module that flattens its tokens.

    Args:
        around: The module whose input still has the batch's shape.
    """

    def __init__(self, around: nn.Module) -> None:
        self._around, self.n_rows = around, 1

    def watch_with(self, hook: RemovableHandle) -> Callable[[], None]:
        """Watch the batch size as long as `hook` stands; returns how to take both out."""
        watching = self._around.register_forward_pre_hook(self._note, with_kwargs=True)

        def close() -> None:
            watching.remove()
            hook.remove()

        return close

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.n_rows = (args[0] if args else kwargs[tensor_argument(kwargs)]).shape[0]


class ModulePort(Port):
    """The input or output of a module.

    Args:
        module: The module.
        side: "input" or "output".
        pick: Which element of a tuple output, or which attribute of a structured output.
        around: A module around it, where tokens reach `module` flattened to (rows, d): the batch's
            shape is taken from its input and the value is shown as (batch, positions, d).
    """

    def __init__(
        self,
        module: nn.Module,
        side: Literal["input", "output"],
        pick: int | str = 0,
        *,
        around: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.module, self.side, self.pick = module, side, pick
        self._batch = None if around is None else BatchSize(around)

    def _open(self) -> Callable[[], None]:
        if self.side == "input":
            hook = self.module.register_forward_pre_hook(self._before, with_kwargs=True)
        else:
            hook = self.module.register_forward_hook(self._after)
        return hook.remove if self._batch is None else self._batch.watch_with(hook)

    def _show(self, value: Tensor) -> Tensor | None:
        if self._batch is None:
            return super()._show(value)
        replacement = super()._show(rearrange(value, "(b p) d -> b p d", b=self._batch.n_rows))
        return None if replacement is None else rearrange(replacement, "b p d -> (b p) d")

    def _before(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        name = None if args else tensor_argument(kwargs)
        replacement = self._show(args[0] if name is None else kwargs[name])
        if replacement is None:
            return None
        if name is None:
            return (replacement, *args[1:]), kwargs
        return args, {**kwargs, name: replacement}

    def _after(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return self._show(output)
        if isinstance(self.pick, str):
            replacement = self._show(getattr(output, self.pick))
            if replacement is not None:
                output[self.pick] = replacement
            return None
        replacement = self._show(output[self.pick])
        if replacement is None:
            return None
        return type(output)(replacement if i == self.pick else v for i, v in enumerate(output))


def tensor_argument(kwargs: dict[str, Any]) -> str:
    """Which keyword argument carries the hidden states of a call without positional ones."""
    for name in ("hidden_states", "input_ids", "inputs_embeds", "input", "x"):
        if isinstance(kwargs.get(name), Tensor):
            return name
    return next(name for name, value in kwargs.items() if isinstance(value, Tensor))
