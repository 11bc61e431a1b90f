"""Which features fire at the tokens of traced generations, for the report's viewer.

A trace that captured the dictionary's site (`fluoroscope decode --sites SITE`) holds the states of its
prompt and text; each is encoded as at inference and the strongest latents are kept beside it: those
of the largest magnitude, with their sign, since codes of orthogonal matching pursuit and so of plain
dictionary learning may be negative (all others, matching pursuit's too, are rectified).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ...probes.runfile import Run
from ...probes.runfile.h5 import dataset, subgroup
from ...probes.runfile.schema import to_torch
from ..base import SparseAutoencoder
from ..metrics.dictionary import device_of

STRONGEST = 8
"""Latents kept per token."""
CHUNK = 512


@torch.inference_mode()
def add_trace_firing(run: Run, site: str, sae: SparseAutoencoder, *, name: str) -> list[str]:
    """Write what fires to /trace/<engine>/features/<name>, for every trace that holds the site.

    Args:
        run: The run file.
        site: Where the dictionary reads.
        sae: The dictionary.
        name: What to call it.

    Returns:
        The engines whose traces hold the site, of the dictionary's width.
    """
    found: list[str] = []
    there = device_of(sae)
    with run.edit() as file:
        for engine in run.traces:
            trace = subgroup(file, f"trace/{engine}")
            if f"states/{site}" not in trace:
                continue
            held = dataset(trace, f"states/{site}")
            rows = to_torch(np.asarray(held[()]), str(held.attrs["dtype"])).float()
            if rows.ndim != 2 or rows.shape[1] != sae.options.d_in:
                continue
            kept = min(STRONGEST, sae.options.d_sae)
            parts = [_strongest(sae.encode(part), kept) for part in rows.to(there).split(CHUNK)]
            values = torch.cat([value for value, _ in parts]).cpu().numpy()
            latents = torch.cat([latent for _, latent in parts]).cpu().numpy()
            if f"features/{name}" in trace:
                del trace[f"features/{name}"]
            group = trace.create_group(f"features/{name}")
            group.attrs["site"] = site
            group["latents"] = np.where(values != 0, latents, -1).astype(np.int32)
            group["values"] = values.astype(np.float32)
            found.append(engine)
    return found


def _strongest(
    codes: Float[Tensor, "tokens latents"], n: int
) -> tuple[Float[Tensor, "tokens kept"], Int64[Tensor, "tokens kept"]]:
    """Codes of the largest magnitude, that first, and their latents."""
    latents = codes.abs().topk(n, dim=-1).indices
    return codes.gather(-1, latents), latents
