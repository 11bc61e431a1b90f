"""Intervene: change the values at sites during any forward passes.

    with intervene(model, {"layers.11.mlp.hidden": set_dims([1229, 1487], 0.0)}):
        model(ids)

An edit is a function from a value to a value of the same shape. Edits run before captures, whatever
the nesting, so a capture sees what the model goes on with; edits of one site run in the order they
were entered. Ready-made edits: `zero`, `mean`, `resample`, `add`, `scale`, `set_dims`, `swap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from .errors import OptionError
from .forwards import Forward, watch_forwards
from .rows import Rows, replace
from .sites import Site

if TYPE_CHECKING:
    from .model import Model

Edit = Callable[[Tensor], Tensor]
"""From a site's value to the value that takes its place; must not change its argument."""


@contextmanager
def intervene(
    model: Model, edits: Mapping[str, Edit | Sequence[Edit]], *, rows: Rows = "all"
) -> Iterator[None]:
    """Change the values at sites during the forward passes inside the block.

    Args:
        model: An opened model.
        edits: From site names or globs to an edit, or to several that run in order.
        rows: Which rows to change; all others stay bit for bit. Positions count from the text's
            beginning, also while a cache grows during generation.

    Raises:
        UnknownSiteError: A pattern selects nothing; raised before anything is hooked.
        OptionError: An edit returns another shape, or no tensor, or changes its argument.
    """
    planned = [
        (site, edit)
        for pattern, chain in edits.items()
        for site in model.sites.resolve(pattern)
        for edit in ([chain] if callable(chain) else chain)
    ]
    standing = _Standing(rows)
    with ExitStack() as stack:
        for site, edit in planned:
            stack.callback(site.attach(standing.visitor(site, edit), first=True))
        # Last, so that the model's own output is edited before the pass counts as ended.
        stack.callback(watch_forwards(model.module, standing.begin, standing.end))
        yield


class _Standing:
    """Edits in place, and the pass they stand in."""

    def __init__(self, rows: Rows) -> None:
        self._rows: Rows = rows
        self._forward: Forward | None = None

    def begin(self, forward: Forward) -> None:
        self._forward = forward

    def end(self) -> None:
        self._forward = None

    def visitor(self, site: Site, edit: Edit) -> Callable[[Tensor], Tensor]:
        axis = 2 if site.kind == "attn.pattern" else 1

        def visit(value: Tensor) -> Tensor:
            if self._forward is None:
                raise OptionError(
                    f"{site.name} fired outside a pass of the whole model; call that."
                )
            version = None if value.is_inference() else value._version
            edited = edit(value)
            if version is not None and value._version != version:
                raise OptionError(
                    f"An edit of {site.name} changed its argument in place; return a new tensor."
                )
            if not isinstance(edited, Tensor) or edited.shape != value.shape:
                got = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
                raise OptionError(
                    f"An edit of {site.name} must return a tensor of shape {tuple(value.shape)} "
                    f"(axes {', '.join(site.axes)}), got {got}."
                )
            edited = edited.to(dtype=value.dtype, device=value.device)
            return replace(value, edited, self._rows, self._forward, axis=axis)

        return visit


def zero() -> Edit:
    """Ablation by zero."""
    return torch.zeros_like


def mean(values: Float[Tensor, "*rows width"]) -> Edit:
    """Ablation by the mean of given rows (of a capture, say), the same at every position."""
    average = values.reshape(-1, values.shape[-1]).mean(0)
    return lambda value: average.to(value).expand_as(value)


def resample(values: Float[Tensor, "*rows width"], generator: torch.Generator) -> Edit:
    """Ablation by rows drawn at random from given ones.

    Args:
        values: Rows to draw from.
        generator: Source of randomness, on the CPU.
    """
    pool = values.reshape(-1, values.shape[-1])

    def edit(value: Tensor) -> Tensor:
        drawn = torch.randint(len(pool), value.shape[:-1], generator=generator)
        return pool.to(value)[drawn.to(value.device)]

    return edit


def add(direction: Float[Tensor, " width"], *, scale: float = 1.0) -> Edit:
    """Steering: add `scale * direction` to every row."""
    return lambda value: value + scale * direction.to(value)


def scale(factor: float) -> Edit:
    """Multiply every value by `factor`."""
    return lambda value: value * factor


def set_dims(dims: Sequence[int], to: float = 0.0) -> Edit:
    """Set some dimensions of every row to one value; the others stay bit for bit."""
    index = torch.as_tensor(list(dims))
    return lambda value: value.index_fill(-1, index.to(value.device), to)


def swap(values: Tensor) -> Edit:
    """Patching: put in values from another run, position by position.

    Args:
        values: Of the shape the site has in the pass, or broadcastable to it (one row's
            (positions, width) serves a whole batch).

    Raises:
        OptionError: (from the pass) The shapes do not fit.
    """

    def edit(value: Tensor) -> Tensor:
        try:
            return values.to(value).expand_as(value)
        except RuntimeError as error:
            raise OptionError(
                f"swap holds values of shape {tuple(values.shape)}, the pass has "
                f"{tuple(value.shape)}. Run a text of the same length, or cut the values to it."
            ) from error

    return edit
