"""Attention on the source, head by head, as a continuation grows (arXiv 2304.04052).

The mass alone falls by mere dilution: attention spread evenly gives S / (S + n). Degeneration proper
is the ratio of the two falling. The first token belongs to the source and usually hoards attention
while carrying nothing, so the mass is also given without the sinks, renormalised.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..attention import AttentionPort
from ..model import Model
from ..ports import Port
from ..sites import Site
from .options import DegenerationOptions
from .weighted import moved_by_position, output_projection, source_share


@dataclass(frozen=True)
class SourceMass:
    """Attention on the source at each looked-at step."""

    mass: Float[Tensor, "texts layers heads steps"]
    """Attention probability on all source positions."""
    sink: Float[Tensor, "texts layers heads steps"]
    """The part of it on the sinks."""
    entropy: Float[Tensor, "texts layers heads steps"]
    """Entropy of attention within the source, nats; low where a head points at one token."""
    weighted: Float[Tensor, "texts layers heads steps"]
    """The source's share of what attention moves, sinks left out; NaN without values to see."""

    @property
    def corrected(self) -> Float[Tensor, "texts layers heads steps"]:
        """Mass on the source without sinks, as a share of what the sinks leave.

        Zero where the sinks take everything to within rounding.
        """
        left = 1 - self.sink
        kept = (self.mass - self.sink).clamp(min=0)
        return torch.where(left > 1e-6, kept / left.clamp(min=1e-6), torch.zeros_like(kept))


def source_mass(
    pattern: Float[Tensor, "texts heads queries keys"], n_source: int, n_sinks: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mass on the source, on the sinks, and entropy within the source, per query.

    Args:
        pattern: Attention probabilities; rows sum to at most 1.
        n_source: Keys before this belong to the source.
        n_sinks: Keys before this are sinks.
    """
    within = pattern[..., :n_source].double()
    mass = within.sum(-1)
    share = within / mass.clamp(min=1e-300)[..., None]
    return mass, within[..., :n_sinks].sum(-1), torch.special.entr(share).sum(-1)


@torch.no_grad()
def measure_mass(
    model: Model, ids: Int64[Tensor, "texts positions"], options: DegenerationOptions
) -> SourceMass:
    """Read every head's attention on the source, keeping only the rows that are looked at.

    Args:
        model: An opened model with attention.
        ids: Source and continuation of each text.
        options: Where the source ends and which steps count.

    Raises:
        UnknownSiteError: The model has no attention whose probabilities could be read.
    """
    rows = torch.tensor(options.queries)
    seen: dict[int, tuple[Tensor, Tensor, Tensor, Tensor]] = {}
    values: dict[int, Tensor] = {}
    sites = model.sites.resolve("layers.*.attn.pattern")
    with ExitStack() as stack:
        for order, site in enumerate(sites):

            def visit(pattern: Tensor, order: int = order, site: Site = site) -> None:
                at = pattern[:, :, rows.to(pattern.device)]
                found = source_mass(at, options.n_source, options.n_sinks)
                moved = _moved(site.port, at, values.pop(order, None))
                weighted = source_share(moved, options.n_source, options.n_sinks)
                seen[order] = tuple(part.cpu() for part in (*found, weighted))  # type: ignore[assignment]

            def hear(_: Tensor, value: Tensor, order: int = order) -> None:
                values[order] = value

            if isinstance(site.port, AttentionPort):
                stack.callback(site.port.listen(hear))
            stack.callback(site.attach(visit))
        model(ids, use_cache=False)
    parts = zip(*(seen[order] for order in range(len(sites))), strict=True)
    return SourceMass(*(torch.stack(part, dim=1) for part in parts))


def _moved(port: Port, pattern: Tensor, value: Tensor | None) -> Tensor:
    """What attention moves, or NaN where values or the output projection are out of sight."""
    nothing = torch.full_like(pattern, torch.nan, dtype=torch.float64)
    if value is None or not isinstance(port, AttentionPort):
        return nothing
    output = output_projection(port.attention, pattern.shape[1], value.shape[-1])
    return nothing if output is None else moved_by_position(pattern, value, output)
