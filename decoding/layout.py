"""How the weights lie in memory while a model decodes on a CPU.

A pass over a few rows reads every weight once and is bound by how fast that goes. PyTorch's own layout
serves neither one row nor several well: one row is multiplied by d_out short dot products, several go
through a matrix product that rearranges the weights every time. Here every linear map is multiplied
from a copy that lies as the kernel wants it:

    plain    the model's own weights, its own kernels
    packed   oneDNN's blocks, the model's data type; fewer than four rows are filled up to four,
             which oneDNN multiplies faster than one
    bf16     the same blocks of bfloat16 weights, inputs rounded to bfloat16, sums in float32: half the
             bytes, another text: that of the model with rounded weights
    auto     whichever of plain and packed the cost curve finds cheaper on this machine

Shapes, hooks and the model's code are as they were: only what `nn.Linear.forward` multiplies with is
exchanged, for the time of a generation, and nothing of it stays on the module. Copies cost the memory
of the weights once more (half of it for bf16); they are kept as long as the module, and made anew when
a weight has changed. Packed results differ from plain ones by rounding, as between any two BLAS
kernels; but a row's result does not depend on how many rows are multiplied (seen on AVX-512, not
promised by oneDNN), so that verifying several rows rounds as decoding them one by one does. Only
float32 `nn.Linear` on a CPU is laid out; everything else stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..probes.memory import free_bytes

Layout = Literal["plain", "packed", "bf16"]
LAYOUTS = ("plain", "packed", "bf16")
LEAST_ROWS = 4
"""Fewer rows are filled up to this many: oneDNN has a fast kernel from here on."""
LEAST_BYTES = 32 * 2**20
"""Weights of a model that is worth packing; less stays in the caches."""
TYPICAL_ROWS = 16
"""Rows that oneDNN chooses its blocks for."""


class Copy:
    """One linear map's weights in another layout.

    Args:
        linear: The map.
        dtype: Data type of the copy.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        self._of = _state(linear)
        self._dtype, self._d_out = dtype, linear.out_features
        weight = linear.weight.detach().to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, TYPICAL_ROWS)

    def fits(self, linear: nn.Linear) -> bool:
        """Whether the map's weights are still those that were copied."""
        return self._of == _state(linear)

    def multiply(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The map's output."""
        rows = x.reshape(-1, x.shape[-1])
        n = len(rows)
        if n < LEAST_ROWS:
            rows = nn.functional.pad(rows, (0, 0, 0, LEAST_ROWS - n))
        rows = rows.to(self._dtype)
        product = torch.ops.mkldnn._linear_pointwise(rows, self._weight, None, "none", [], "")
        out = product[:n].to(x.dtype).view(*x.shape[:-1], self._d_out)
        return out if bias is None else out + bias


_copies: WeakKeyDictionary[nn.Module, dict[torch.dtype, Copy]] = WeakKeyDictionary()
_wishes: WeakKeyDictionary[nn.Module, list[Wish]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Wish:
    """What one block asks of a map."""

    dtype: torch.dtype | None
    """Of the copy; None for the map's own weights."""


@contextmanager
def laid_out(module: nn.Module, layout: Layout) -> Iterator[None]:
    """Multiply with weights in a layout inside the block; the module is as before afterwards.

    Blocks for the same module may overlap in any order, as those of several streams do: of those that
    are open, the one entered last counts.
    """
    wish = Wish({"packed": torch.float32, "bf16": torch.bfloat16}.get(layout))
    parts = linears(module)
    try:
        for linear in parts:
            _wishes.setdefault(linear, []).append(wish)
            _arrange(linear)
        yield
    finally:
        for linear in parts:
            if wish in (wishes := _wishes.get(linear, [])):
                wishes.remove(wish)
                _arrange(linear)


def _arrange(linear: nn.Linear) -> None:
    """Exchange what the map multiplies with, as the last wish has it."""
    linear.__dict__.pop("forward", None)
    wishes = _wishes.get(linear, [])
    if wishes and wishes[-1].dtype is not None:
        linear.__dict__["forward"] = _forward(linear, _copy(linear, wishes[-1].dtype))


def linears(module: nn.Module) -> list[nn.Linear]:
    """The maps of a module that can be laid out: float32, on a CPU, with a forward of their own."""
    return [
        part
        for part in module.modules()
        if type(part) is nn.Linear
        and part.weight.device.type == "cpu"
        and part.weight.dtype == torch.float32
        and getattr(part.__dict__.get("forward"), "is_layout", True)
    ]


def layouts_for(module: nn.Module) -> tuple[Layout, ...]:
    """The layouts `auto` chooses from: packed where weights exceed the caches and there is room."""
    found = linears(module)
    needed = sum(part.weight.numel() * part.weight.element_size() for part in found)
    room = free_bytes(torch.device("cpu"))
    if needed < LEAST_BYTES or not torch.backends.mkldnn.is_available():
        return ("plain",)
    return ("plain", "packed") if room is None or room > 2 * needed else ("plain",)


def _forward(linear: nn.Linear, copy: Copy) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return nn.Linear.forward(linear, x)
        return copy.multiply(x, linear.bias)

    forward.is_layout = True  # type: ignore[attr-defined]
    return forward


def _copy(linear: nn.Linear, dtype: torch.dtype) -> Copy:
    kept = _copies.setdefault(linear, {})
    if dtype not in kept or not kept[dtype].fits(linear):
        with torch.inference_mode(mode=False), torch.no_grad():
            kept[dtype] = Copy(linear, dtype)
    return kept[dtype]


def _state(linear: nn.Linear) -> tuple[int, int]:
    """Changes when the weights do (those made in inference mode count no changes)."""
    weight = linear.weight
    return weight.data_ptr(), -1 if weight.is_inference() else weight._version
