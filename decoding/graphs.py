"""Passes recorded as CUDA graphs and replayed.

On a GPU a pass of a small model over a few rows is hundreds of kernels that run faster than Python
launches them. Here the kernels of a pass over so many rows are recorded once, over buffers of one size
(see `static_cache`), and launched together from then on. A pass over a number of rows that was not
recorded is filled up to the next one that is: rows more cost next to nothing, and what they write lies
behind the text, where the next pass overwrites it.

Buffers and recordings outlive a generation: they are kept with the model, lent to one generation at a
time, and made anew where its weights have moved. Passes that somebody watches or changes (hooks, an
exchanged `forward` or attention function) are not replayed but run, over the same buffers.
"""

from __future__ import annotations

import inspect
import logging
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..probes import Model
from ..probes.errors import OptionError
from .static_cache import FixedCache

logger = logging.getLogger(__name__)

SIZES = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Rows of the passes that are recorded; passes over more are run."""
FIRST_SIZE = 1024
"""Tokens that buffers hold at first; in longer ones everything is recorded anew."""
N_TRIED = 2
"""Passes run before one is recorded: kernels are chosen and libraries opened in the first."""

IDS, POSITIONS, MASK = "ids", "positions", "mask"

OWN_HOOKS = "transformers.utils.output_capturing"

Mask = Tensor | dict[str, Tensor]
"""Who looks at whom, or that for each kind of attention layer."""


@dataclass(frozen=True)
class Recording:
    """One pass: the tensors it reads, the one it writes, and how it is run again."""

    reads: dict[str, Tensor]
    logits: Tensor
    replay: Callable[[], None]


class RecordedPasses:
    """Buffers for one text, and the passes over them that were recorded.

    Args:
        model: The model that passes over them.
        n_layers: Layers that keep keys and values.

    Attributes:
        cache: The buffers.
        n_recordings: Passes recorded so far; one that is takes many times as long as its replays.
    """

    def __init__(self, model: Model, n_layers: int) -> None:
        self.cache = FixedCache(n_layers, model.device, FIRST_SIZE)
        self.n_recordings = 0
        self._made_for = _state(model)
        self._parts = [weakref.ref(part) for part in model.module.modules()]
        self._recorded: dict[int, Recording] = {}
        self._size = self.cache.size

    def fits(self, model: Model) -> bool:
        """Whether the model is as it was recorded, its weights where the recordings read them."""
        return self._made_for == _state(model)

    def run(
        self, model: Model, ids: Int64[Tensor, "1 rows"], arguments: dict[str, Any]
    ) -> Float[Tensor, "rows d_vocab"] | None:
        """Logits of a pass; None if this one cannot be a recorded one.

        Args:
            model: The model.
            ids: Tokens.
            arguments: What else it is called with: `position_ids`, `attention_mask` over the whole
                buffers, and what is the same in every pass.

        Raises:
            OptionError: The model's passes cannot be recorded.
        """
        n_rows = ids.shape[1]
        n_recorded = next((size for size in SIZES if size >= n_rows), None)
        if n_recorded is None or any(map(_is_watched, self._parts)) or _attention_is_watched():
            return None
        if self._size != self.cache.size:
            self._recorded.clear()
            self._size = self.cache.size
        given = _inputs(ids, arguments)
        if n_recorded not in self._recorded:
            reads = {name: _filled(rows, n_recorded) for name, rows in given.items()}
            self._recorded[n_recorded] = _recording(model, reads, arguments)
            self.n_recordings += 1
        recording = self._recorded[n_recorded]
        for name, rows in given.items():
            _put(recording.reads[name], rows)
        recording.replay()
        return recording.logits[:n_rows].clone()


def _recording(model: Model, reads: dict[str, Tensor], arguments: dict[str, Any]) -> Recording:
    """Record a pass that reads these tensors."""
    mask = arguments["attention_mask"]
    held = reads[MASK] if isinstance(mask, Tensor) else {kind: reads[MASK + kind] for kind in mask}
    n_rows = reads[IDS].shape[1]
    given = arguments | {
        "position_ids": reads[POSITIONS], "attention_mask": held, "logits_to_keep": n_rows,
    }  # fmt: skip

    def call() -> Tensor:
        return model(reads[IDS], **given).logits[0]

    try:
        logits, replay = record(call, model.device)
    except RuntimeError as error:
        raise OptionError(
            f"The passes of {model.name} ({model.config.model_type}) cannot be recorded as CUDA "
            f"graphs: {str(error).splitlines()[0]} Use cache='static' or 'growing'."
        ) from error
    logger.debug("Recorded passes of %s over %d rows.", model.name, n_rows)
    return Recording(reads, logits, replay)


_shelf: weakref.WeakKeyDictionary[nn.Module, list[RecordedPasses]] = weakref.WeakKeyDictionary()
_shelf_lock = threading.Lock()


def borrow(model: Model, n_layers: int) -> RecordedPasses:
    """Buffers and recordings that nobody else uses now; give them back with `give_back`.

    Raises:
        OptionError: The model is not on a GPU.
    """
    require_recordable(model)
    with _shelf_lock:
        kept = _shelf.setdefault(model.module, [])
        kept[:] = [passes for passes in kept if passes.fits(model)]
        passes = kept.pop() if kept else None
    if passes is None:
        return RecordedPasses(model, n_layers)
    passes.cache.clear()
    return passes


def give_back(shelf: list[RecordedPasses], passes: RecordedPasses) -> None:
    """Keep what was borrowed for the next generation."""
    with _shelf_lock:
        shelf.append(passes)


def shelf_of(model: Model) -> list[RecordedPasses]:
    """What is kept with a model and not in use."""
    with _shelf_lock:
        return _shelf.setdefault(model.module, [])


def require_recordable(model: Model) -> None:
    """Refuse a model whose passes cannot be replayed.

    Raises:
        OptionError: It is not on a GPU, or counts positions by itself.
    """
    if not is_recordable(model.device):
        raise OptionError(
            f"cache='graph' replays passes as CUDA graphs, and {model.name} is on "
            f"{model.device.type}. Open it with device='cuda', or use cache='growing'."
        )
    if "position_ids" not in inspect.signature(model.module.forward).parameters:
        raise OptionError(
            f"cache='graph' needs a model that is told its tokens' positions, which {model.name} "
            f"({model.config.model_type}) is not. Use cache='static' or 'growing'."
        )


def is_recordable(device: torch.device) -> bool:
    """Whether passes on a device can be recorded."""
    return device.type == "cuda"


def record(call: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, Callable[[], None]]:
    """Record what `call` launches.

    Args:
        call: Runs kernels on tensors that stay where they are; returns their result.
        device: The GPU.

    Returns:
        The tensor that holds the result, and what fills it anew.
    """
    with torch.cuda.device(device):
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(N_TRIED):
                call()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = call()
    return result, graph.replay


def _state(model: Model) -> tuple[object, ...]:
    """What recordings are made for: where weights and buffers lie, and how attention is computed."""
    held = (*model.module.parameters(), *model.module.buffers())
    return (model.config._attn_implementation, *(x.data_ptr() for x in held))


def _is_watched(part: weakref.ref[nn.Module]) -> bool:
    """Whether a part of a model does more, or something else, than its own code.

    transformers' own hooks stay once hidden states were asked for, and rest.
    """
    module = part()
    if module is None or module._forward_pre_hooks or "forward" in module.__dict__:
        return True
    hooks = module._forward_hooks
    return bool(hooks) and any(hook.__module__ != OWN_HOOKS for hook in hooks.values())


def _attention_is_watched() -> bool:
    """Whether somebody looks at attention patterns: transformers' dispatcher is exchanged then."""
    return "get_interface" in vars(ALL_ATTENTION_FUNCTIONS)


def _inputs(ids: Tensor, arguments: dict[str, Any]) -> dict[str, Tensor]:
    """What changes from pass to pass."""
    mask: Mask = arguments["attention_mask"]
    masks = {MASK: mask} if isinstance(mask, Tensor) else {MASK + k: m for k, m in mask.items()}
    return {IDS: ids, POSITIONS: arguments["position_ids"]} | masks


def _filled(rows: Tensor, n_rows: int) -> Tensor:
    """A tensor of its own for `n_rows` rows."""
    shape = list(rows.shape)
    shape[_axis(rows)] = n_rows
    with torch.inference_mode(mode=False):  # so that passes inside and outside of it may write
        held = torch.empty(shape, dtype=rows.dtype, device=rows.device)
    _put(held, rows)
    return held


def _put(into: Tensor, rows: Tensor) -> None:
    """Write rows, and the last of them once more into every row that is left."""
    axis = _axis(rows)
    n_rows = rows.shape[axis]
    into.narrow(axis, 0, n_rows).copy_(rows)
    if n_left := into.shape[axis] - n_rows:
        left = into.narrow(axis, n_rows, n_left)
        left.copy_(rows.narrow(axis, n_rows - 1, 1).expand_as(left))


def _axis(rows: Tensor) -> int:
    """Rows of tokens and positions lie along the last axis, those of a mask before it."""
    return 1 if rows.ndim == 2 else 2
