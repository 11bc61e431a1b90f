"""Capture: read the values at sites during any forward passes.

    with capture(model, "layers.*.resid_post") as acts:
        model(ids)                      # or model.generate, an engine, a trace, a training step
    acts["layers.3.resid_post"]         # (batch, positions, d_model)

Values are copies that own their memory. Every hook is removed on the way out, whichever way that is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

import torch
from einops import rearrange
from torch import Tensor, nn

from .errors import OptionError, SiteNotFiredError, UnknownSiteError
from .forwards import Forward, watch_forwards
from .ports import ModulePort
from .rows import Mask, Rows, take
from .sites import Site, StopForward

if TYPE_CHECKING:
    from .model import Model
    from .reducers import Reducer

Sink = Callable[[str, Tensor], None]
"""Takes a site's name and the rows of one forward pass."""

_unobserved: WeakSet[nn.Module] = WeakSet()
"""Modules whose passes no capture sees just now."""

_active: WeakKeyDictionary[nn.Module, list[Capture]] = WeakKeyDictionary()
"""Captures under way, by module: a pass may stop early only when all of them have enough."""


class Capture(Mapping[str, Tensor]):
    """What was captured; reads like a mapping from site names to tensors.

    Made by `capture`. Forward passes are concatenated along the positions, (batch, positions, ...),
    or along the rows where a mask chose them, (rows, ...).

    Attributes:
        rows: Which rows are kept; may be changed between forward passes.
    """

    def __init__(
        self,
        model: Model,
        sites: tuple[Site, ...],
        *,
        rows: Rows,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        reduce: Callable[[], Reducer] | None,
        sink: Sink | None,
        grad: bool,
        stop_early: bool,
    ) -> None:
        self.rows: Rows = rows
        self._model, self._sites = model, {site.name: site for site in sites}
        self._dtype, self._device, self._grad = dtype, device, grad
        self._reducers = {name: reduce() for name in self._sites} if reduce else {}
        self._sink = sink
        self._stop_early = stop_early
        self._chunks: dict[str, list[Tensor]] = defaultdict(list)
        self._sources: dict[str, list[tuple[Tensor, Rows, Forward]]] = defaultdict(list)
        self._forward: Forward | None = None
        self._fired: set[str] = set()
        self._missed: set[str] = set()

    def __getitem__(self, name: str) -> Tensor:
        chunks = self.chunks(name)
        if not chunks:
            raise SiteNotFiredError(
                f"{name} holds nothing: {self._why_empty()} Run the model inside the `with` block."
            )
        return self._joined(name, chunks)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    # Two captures are never "equal": a mapping's comparison would compare tensors.
    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __len__(self) -> int:
        return len(self._sites)

    def __repr__(self) -> str:
        n_passes = max((len(chunks) for chunks in self._chunks.values()), default=0)
        shapes = sorted({str(tuple(c[0].shape)) for c in self._chunks.values() if c})
        held = f"{n_passes} x {' '.join(shapes)}" if shapes else "no rows held"
        return f"Capture({len(self)} sites: {_short(list(self))}; {held})"

    def chunks(self, name: str) -> list[Tensor]:
        """What each forward pass left at a site, in order.

        Raises:
            UnknownSiteError: The site was not asked for.
        """
        if name not in self._sites:
            raise UnknownSiteError(
                f"{name!r} was not captured; this capture holds {_short(list(self))}."
            )
        return self._chunks[name]

    def grad(self, name: str) -> Tensor:
        """Gradients at a site, rows and shape as the values' own; after `backward`.

        Raises:
            UnknownSiteError: The site was not asked for.
            OptionError: No gradient reached the site.
        """
        self.chunks(name)
        axis = self._position_axis(self._sites[name])
        gradients = [
            take(value.grad, rows, forward, axis=axis)
            for value, rows, forward in self._sources[name]
            if value.grad is not None
        ]
        if not gradients or len(gradients) < len(self._sources[name]):
            raise OptionError(
                f"No gradient reached {name}. capture(..., grad=True), a pass with gradients enabled "
                "and backward() are needed; for attn.pattern also eager attention."
            )
        return self._joined(name, gradients)

    def reducer(self, name: str) -> Reducer:
        """The streaming reducer of a site.

        Raises:
            OptionError: The capture was made without `reduce`.
        """
        if not self._reducers:
            raise OptionError("This capture keeps rows; pass reduce=... to capture for statistics.")
        return self._reducers[name]

    def clear(self) -> None:
        """Forget the rows kept so far (reducers go on)."""
        self._chunks.clear()
        self._sources.clear()

    def _begin(self, forward: Forward) -> None:
        if self._model.module in _unobserved:
            return
        self._forward = forward
        self._fired.clear()

    def _end(self) -> None:
        if self._model.module in _unobserved:
            return
        self._missed |= set(self._sites) - self._fired
        self._forward = None

    def _satisfied(self) -> bool:
        return self._stop_early and len(self._fired) == len(self._sites)

    def _joined(self, name: str, chunks: list[Tensor]) -> Tensor:
        if len(chunks) == 1:
            return chunks[0]
        site = self._sites[name]
        axis = 0 if chunks[0].ndim < len(site.axes) else self._position_axis(site)
        try:
            if site.kind == "attn.pattern":
                raise RuntimeError("every pass has keys of its own")
            return torch.cat(chunks, dim=axis)
        except RuntimeError as error:
            shapes = ", ".join(str(tuple(chunk.shape)) for chunk in chunks[:4])
            raise OptionError(
                f"{name} of {len(chunks)} forward passes cannot be joined (shapes {shapes}, ...). "
                f"Take them one by one: .chunks({name!r})."
            ) from error

    def _visitor(self, site: Site) -> Callable[[Tensor], Tensor | None]:
        def visit(value: Tensor) -> Tensor | None:
            if self._model.module in _unobserved:
                return None
            replacement = self._see(site, value)
            self._fired.add(site.name)
            if all(capture._satisfied() for capture in _active[self._model.module]):
                raise StopForward(
                    "stop_early ended this pass; run it as model(ids), which returns."
                )
            return replacement

        return visit

    def _see(self, site: Site, value: Tensor) -> Tensor | None:
        forward, chosen = self._forward, self.rows
        if forward is None:
            raise OptionError(
                f"{site.name} fired outside a pass of the whole model. Call the model itself, not a "
                "part of it; gradient checkpointing (layers run again in backward) must be off."
            )
        if self._reducers and chosen == "all" and forward.real is not None:
            chosen = Mask(forward.real)
        rows = take(value, chosen, forward, axis=self._position_axis(site))
        kept = (rows if self._grad else rows.detach()).to(device=self._device, dtype=self._dtype)
        if self._reducers:
            self._reducers[site.name].update(_flat(kept, site))
        elif self._sink is not None:
            self._sink(site.name, kept)
        elif self._grad:
            self._chunks[site.name].append(kept)
            self._sources[site.name].append((value, chosen, forward))
            return _retained(value, site)
        else:
            shared = kept.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
            self._chunks[site.name].append(kept.clone() if shared else kept)
        return None

    @staticmethod
    def _position_axis(site: Site) -> int:
        return 2 if site.kind == "attn.pattern" else 1

    def _why_empty(self) -> str:
        return (
            "its rows went to a reducer or sink."
            if self._reducers or self._sink
            else "no pass ran."
        )


@contextmanager
def capture(
    model: Model,
    *patterns: str,
    rows: Rows = "all",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reduce: Callable[[], Reducer] | None = None,
    sink: Sink | None = None,
    grad: bool = False,
    stop_early: bool = False,
) -> Iterator[Capture]:
    """Read the values at sites during the forward passes inside the block.

    Args:
        model: An opened model.
        patterns: Site names or globs.
        rows: Which rows to keep.
        dtype: Data type to keep them in; None for the model's.
        device: Where to keep them; None for the model's device.
        reduce: Makes a streaming reducer per site; then no rows are kept. Padding is left out.
        sink: Called with (site name, rows) on every pass; then no rows are kept. The rows may share
            memory with the model's own and must be copied before the call returns.
        grad: Whether kept values stay in the autograd graph; `.grad(site)` then gives their
            gradients after `backward`.
        stop_early: Whether a pass ends once every site asked for has been read. `model(ids)` then
            returns None; the layers above need not run. Only for passes run through the `Model`.

    Raises:
        UnknownSiteError: A pattern selects nothing; raised before anything is hooked.
        SiteNotFiredError: A pass inside the block ended without reaching a site.

    Example:
        >>> with capture(model, "layers.*.mlp.out", rows="last") as acts:   # doctest: +SKIP
        ...     model(ids)
    """
    sites = model.sites.resolve(patterns)
    held = Capture(
        model,
        sites,
        rows=rows,
        dtype=dtype,
        device=device,
        reduce=reduce,
        sink=sink,
        grad=grad,
        stop_early=stop_early,
    )
    with ExitStack() as stack:
        active = _active.setdefault(model.module, [])
        active.append(held)
        stack.callback(active.remove, held)
        for site in sites:
            stack.callback(site.attach(held._visitor(site)))
        # Last, so that a site on the model's own output is read before the pass counts as ended.
        stack.callback(watch_forwards(model.module, held._begin, held._end))
        yield held
    if held._missed:
        raise SiteNotFiredError(
            f"A forward pass ended without reaching {_short(sorted(held._missed))}. The model took a "
            "path that skips them; leave them out, or capture them where they run."
        )


@contextmanager
def unobserved(model: Model) -> Iterator[None]:
    """Let no capture see the passes inside the block: measuring a model is not what it says.

    Interventions go on as they are.
    """
    already = model.module in _unobserved
    _unobserved.add(model.module)
    try:
        yield
    finally:
        if not already:
            _unobserved.discard(model.module)


def _retained(value: Tensor, site: Site) -> Tensor | None:
    """Have `value` keep its gradient; the copy the model goes on with may be changed in place."""
    if not value.requires_grad:
        return None
    value.retain_grad()
    return value.clone() if isinstance(site.port, ModulePort) else None


def _flat(rows: Tensor, site: Site) -> Tensor:
    """Rows of a value as (rows, width)."""
    if site.kind == "attn.pattern":
        return rearrange(rows, "... key -> (...) key")
    return rows.reshape(-1, rows.shape[-1])


def _short(names: list[str]) -> str:
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"... ({len(names)} in all)"])
