"""Expert statistics while a model reads: streaming maxima, load and co-activation.

The statistic of the super-expert paper (arXiv 2507.23279): a[l, e] is the largest |output| of expert e
of layer l over all tokens routed to it and all channels, before the gate weight; 0 for an expert that
gets no token. With each maximum stand its text, position, token, channel, gate weight and the neurons
that add most to it. Memory is constant in the number of tokens: outputs are never kept.

The official hook reads only the first dispatched row of each expert; `rows="first_dispatched"` does the
same. Padding counts nowhere.

While statistics are taken, each experts module runs one expert after the other (as transformers' eager
implementation does), so that the un-weighted outputs are at hand and nothing runs twice. The sum over
slots is taken in slot order; results agree with the model's own implementation to rounding. The site
`experts.out` re-runs experts and must not be captured at the same time: its passes would be counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn

from ..probes.errors import OptionError
from ..probes.forwards import Forward, watch_forwards
from ..probes.model import Model
from .layers import SHARED, MoeLayer, moe_layers, run_expert

Rows = Literal["all", "first", "first_dispatched"]
"""Which rows count for maxima: all; position 0 only; the row the official hook looks at."""

N_NEURONS = 4
"""Neurons kept with each maximum."""


@dataclass
class ExpertStatistics:
    """What was seen so far. Row i is layer `layers[i]`, the last column its shared expert.

    A layer without a shared expert has zeros there.
    """

    layers: list[int]
    n_experts: int
    has_shared: list[bool]
    n_neurons: int = N_NEURONS
    n_tokens: int = 0
    n_texts: int = 0
    maxima: Float[Tensor, "layers columns"] = field(init=False)
    """a[l, e]."""
    values: Float[Tensor, "layers columns"] = field(init=False)
    """The same with sign."""
    texts: Int64[Tensor, "layers columns"] = field(init=False)
    """Text it stands in, counted from the first seen; -1 where no token came."""
    positions: Int64[Tensor, "layers columns"] = field(init=False)
    tokens: Int64[Tensor, "layers columns"] = field(init=False)
    """Token id; -1 where the pass had no ids."""
    channels: Int64[Tensor, "layers columns"] = field(init=False)
    gate_weights: Float[Tensor, "layers columns"] = field(init=False)
    neurons: Int64[Tensor, "layers columns neurons"] = field(init=False)
    """Neurons that add most to the maximum, largest first."""
    contributions: Float[Tensor, "layers columns neurons"] = field(init=False)
    """What each adds: hidden[j] * down[channel, j]."""
    load: Int64[Tensor, "layers columns"] = field(init=False)
    """Tokens sent there."""
    first_load: Int64[Tensor, "layers columns"] = field(init=False)
    """Of those, first tokens of a text."""
    gate_sums: Float[Tensor, "layers columns"] = field(init=False)
    """Sum of gate weights."""
    coactive: Int64[Tensor, "layers experts experts"] = field(init=False)
    """Tokens sent to both experts; the diagonal is the load."""

    def __post_init__(self) -> None:
        shape = (len(self.layers), self.n_experts + 1)
        for name in ("maxima", "values", "gate_weights", "gate_sums"):
            setattr(self, name, torch.zeros(shape, dtype=torch.float64))
        for name in ("texts", "positions", "tokens", "channels"):
            setattr(self, name, torch.full(shape, -1, dtype=torch.int64))
        for name in ("load", "first_load"):
            setattr(self, name, torch.zeros(shape, dtype=torch.int64))
        self.neurons = torch.full((*shape, self.n_neurons), -1, dtype=torch.int64)
        self.contributions = torch.zeros((*shape, self.n_neurons), dtype=torch.float64)
        square = (len(self.layers), self.n_experts, self.n_experts)
        self.coactive = torch.zeros(square, dtype=torch.int64)

    def column(self, expert: int) -> int:
        """Column of an expert; the shared one (-1) is last."""
        return self.n_experts if expert == SHARED else expert


@dataclass
class _Pass:
    """The forward pass under way: where each flattened row stands, and which count."""

    ids: Tensor | None = None
    now: Forward | None = None
    real: Tensor | None = None
    positions: Tensor | None = None

    def begin(self, now: Forward) -> None:
        self.now = now
        self.real = None if now.real is None else rearrange(now.real, "b p -> (b p)").cpu()
        steps = torch.arange(now.n_positions) + now.offset
        start = torch.zeros(now.n_rows, dtype=torch.int64) if now.start is None else now.start
        self.positions = rearrange(steps[None] - start[:, None], "b p -> (b p)")

    def counts(self, rows: Tensor) -> Tensor:
        return torch.ones(len(rows), dtype=torch.bool) if self.real is None else self.real[rows]


@contextmanager
def expert_statistics(
    model: Model, *, rows: Rows = "all", n_neurons: int = N_NEURONS
) -> Iterator[ExpertStatistics]:
    """Collect statistics of every expert over all forward passes inside the block.

    Args:
        model: A mixture-of-experts model.
        rows: Which rows count for maxima; load counts all that are no padding.
        n_neurons: How many neurons to keep with each maximum.

    Raises:
        NoExpertsError: The model is dense.
        OptionError: The layers differ in their number of experts, or n_neurons is below 1.
    """
    layers = moe_layers(model)
    n_experts = layers[0].n_experts
    if any(layer.n_experts != n_experts for layer in layers):
        raise OptionError("All layers must have equally many experts to share one table.")
    if n_neurons < 1:
        raise OptionError(f"n_neurons must be at least 1, got {n_neurons}.")
    found = ExpertStatistics(
        [layer.index for layer in layers], n_experts, [x.shared is not None for x in layers],
        n_neurons,
    )  # fmt: skip
    state = _Pass()

    def end() -> None:
        assert state.now is not None
        n_real = state.now.n_rows * state.now.n_positions
        found.n_tokens += n_real if state.real is None else int(state.real.sum())
        found.n_texts += state.now.n_rows if state.now.offset == 0 else 0

    with ExitStack() as stack:
        stack.callback(watch_forwards(model.module, state.begin, end))
        stack.enter_context(_ids_watched(model.module, state))
        for number, layer in enumerate(layers):
            add = partial(_add, found, state, number, layer, rows)
            stack.enter_context(_experts_watched(layer, add, partial(_count, found, state, number)))
            if layer.shared is not None:
                stack.enter_context(_shared_watched(layer, add))
        yield found


Add = Callable[[int, Tensor, Tensor, Tensor, Tensor, Tensor], None]
"""(expert, rows, slots, gate weights, hidden, outputs) of one expert in one pass."""


@contextmanager
def _experts_watched(
    layer: MoeLayer, add: Add, count: Callable[[Tensor, Tensor], None]
) -> Iterator[None]:
    """Let the experts module run expert by expert and show every output before its gate weight."""

    def forward(hidden_states: Tensor, expert_ids: Tensor, gate_weights: Tensor) -> Tensor:
        n_rows, n_active = expert_ids.shape
        count(expert_ids, gate_weights)
        order = expert_ids.flatten().argsort(stable=True)  # by expert, then by row
        loads = torch.bincount(expert_ids.flatten(), minlength=layer.n_experts).tolist()
        rows = order // n_active
        weights = gate_weights.flatten()[order]
        slots = hidden_states.new_empty(n_rows * n_active, hidden_states.shape[-1])
        start = 0
        for expert, load in enumerate(loads):
            if load:
                here = slice(start, start + load)
                inside, out = run_expert(layer.experts, expert, hidden_states[rows[here]])
                add(expert, rows[here], order[here] % n_active, weights[here], inside, out)
                slots[order[here]] = (out * weights[here, None]).to(slots.dtype)
                start += load
        return rearrange(slots, "(t a) d -> t a d", a=n_active).sum(1)

    held = vars(layer.experts).get("forward")
    vars(layer.experts)["forward"] = forward
    try:
        yield
    finally:
        if held is None:
            del vars(layer.experts)["forward"]
        else:
            vars(layer.experts)["forward"] = held


@contextmanager
def _shared_watched(layer: MoeLayer, add: Add) -> Iterator[None]:
    gates: list[Tensor] = []

    def before(module: nn.Module, args: tuple[Any, ...]) -> None:
        rows = args[0].detach().flatten(0, -2)
        open_gate = rows.new_ones(len(rows))
        gate = layer.shared_gate
        gates[:] = [open_gate if gate is None else gate(rows).sigmoid()[:, 0]]

    def after(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        inside, out = args[0].flatten(0, -2), output.flatten(0, -2)
        rows = torch.arange(len(out), device=out.device)
        add(SHARED, rows, torch.zeros_like(rows), gates[0], inside, out)

    handles = [
        layer.shared.register_forward_pre_hook(before),
        layer.shared.down_proj.register_forward_hook(after),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _ids_watched(module: nn.Module, state: _Pass) -> Iterator[None]:
    def before(part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        state.ids = ids.detach().flatten().cpu() if isinstance(ids, Tensor) else None

    handle = module.register_forward_pre_hook(before, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _count(
    found: ExpertStatistics, state: _Pass, number: int, expert_ids: Tensor, gate_weights: Tensor
) -> None:
    """Load, gate weights and co-activation of one layer in one pass."""
    assert state.positions is not None
    ids, weights = expert_ids.cpu(), gate_weights.detach().double().cpu()
    first = state.positions == 0
    if state.real is not None:
        ids, weights, first = ids[state.real], weights[state.real], first[state.real]
    n = found.n_experts
    found.load[number, :n] += torch.bincount(ids.flatten(), minlength=n)
    found.first_load[number, :n] += torch.bincount(ids[first].flatten(), minlength=n)
    found.gate_sums[number, :n].index_add_(0, ids.flatten(), weights.flatten())
    chosen = torch.zeros(len(ids), n).scatter_(1, ids, 1.0)
    found.coactive[number] += (chosen.T @ chosen).long()


@torch.no_grad()
def _add(
    found: ExpertStatistics,
    state: _Pass,
    number: int,
    layer: MoeLayer,
    which: Rows,
    expert: int,
    rows: Tensor,
    slots: Tensor,
    weights: Tensor,
    hidden: Tensor,
    out: Tensor,
) -> None:
    """Take in one expert's outputs in one pass."""
    assert state.positions is not None
    column = found.column(expert)
    where = rows.cpu()
    keep = state.counts(where)
    if expert == SHARED:
        found.load[number, column] += int(keep.sum())
        found.first_load[number, column] += int((keep & (state.positions[where] == 0)).sum())
        found.gate_sums[number, column] += float(weights.double().cpu()[keep].sum())
    if which == "first":
        keep = keep & (state.positions[where] == 0)
    if which == "first_dispatched" and expert != SHARED:
        # Official dispatch goes slot by slot, then by row; its hook sees the first row of that.
        first = int((slots.cpu() * (int(where.max()) + 1) + where).argmin())
        keep = keep & (torch.arange(len(where)) == first)
    if not bool(keep.all()):
        index = keep.nonzero()[:, 0].to(out.device)
        where, weights, hidden, out = where[keep], weights[index], hidden[index], out[index]
    if not len(where):
        return
    low, high = out.aminmax()
    size = float(torch.maximum(-low, high))
    if size <= found.maxima[number, column]:
        return
    flat = int(out.abs().argmax())
    row, channel = divmod(flat, out.shape[1])
    found.maxima[number, column] = size
    found.values[number, column] = float(out[row, channel])
    assert state.now is not None
    at = int(where[row])
    # Texts that go on from a cache were counted when they began.
    first_text = found.n_texts - (state.now.n_rows if state.now.offset else 0)
    found.texts[number, column] = first_text + at // state.now.n_positions
    found.positions[number, column] = state.positions[at]
    found.tokens[number, column] = -1 if state.ids is None else state.ids[at]
    found.channels[number, column] = channel
    found.gate_weights[number, column] = float(weights[row])
    added = hidden[row].double().cpu() * layer.down_of(expert)[channel].double().cpu()
    top = added.abs().argsort(descending=True, stable=True)[: found.n_neurons]
    found.neurons[number, column, : len(top)] = top
    found.contributions[number, column, : len(top)] = added[top]
