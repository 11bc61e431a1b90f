"""Feature absorption: a child latent that has swallowed its parent's direction.

Sparsity rewards a latent for "lion" that also writes the direction of "animal": the parent latent
then stays silent where the child fires. Two measures.

`absorption_scores` is SAEBench's, for one concept with a known probe direction: which share of the
model's projection on it comes from latents other than the concept's own. Its thresholds are the
code's (the paper's table lists others; the code wins). It was made for spelling tasks in models
above a billion parameters and dictionaries above 16,384 latents; below that a silent main latent
says little, and an under-trained dictionary scores deceptively well. So nothing here runs a
spelling task: for small models the planted truth of `synthetic/` is the measure, with

`absorbed_cosine`: the mean cosine of each learned child with its true parent (arXiv 2506.03093,
Table 1); 0 where nothing is absorbed.

References:
    arXiv 2409.14507 (absorption); arXiv 2503.09532 and sae_bench 0.6.0 (the score's thresholds).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .matching import unit_rows

MIN_COSINE = 0.1
"""An absorber's least cosine with the probe."""
MAX_ABSORBERS = 3
MIN_SHARE = 0.4
"""Absorbers must bring at least this share of the model's projection."""


def absorption_scores(
    x: Float[Tensor, "rows d_model"],
    codes: Float[Tensor, "rows latents"],
    w_dec: Float[Tensor, "latents d_model"],
    probe: Float[Tensor, " d_model"],
    main: Sequence[int],
) -> Float[np.ndarray, " rows"]:
    """Absorbed share of a concept on rows where the concept is there.

    With `A` the row's projection on the probe, `M` what main latents bring and `Q` what up to three
    others with a cosine of at least 0.1 bring: 0 if `M >= A` or `Q < 0.4 A`, 1 if `M <= 0`, else `q
    / (q + M)` with `q = min(Q, A - M)`. Rows the model itself does not project on the concept (`A
    <= 0`) get NaN. Decoder lengths are folded into the codes first, as the formula assumes unit
    atoms.

    Args:
        x: Rows of activations.
        codes: Their codes.
        w_dec: Decoder.
        probe: Direction of the concept.
        main: Latents that stand for the concept.
    """
    lengths = w_dec.detach().double().norm(dim=1).cpu()
    direction = probe.double().cpu() / probe.double().norm().cpu()
    cosines = unit_rows(w_dec) @ direction
    model = x.double().cpu() @ direction
    brought = codes.detach().double().cpu() * lengths * cosines
    ours = brought[:, list(main)].sum(1)
    others = brought.clone()
    others[:, list(main)] = 0.0
    others[:, cosines < MIN_COSINE] = 0.0
    top = others.clamp(min=0).topk(min(MAX_ABSORBERS, others.shape[1]), dim=1).values.sum(1)
    q = torch.minimum(top, model - ours)
    score = q / (q + ours)
    score = torch.where(ours <= 0, torch.ones_like(score), score)
    score = torch.where((ours >= model) | (top < MIN_SHARE * model), 0.0, score)
    return torch.where(model > 0, score, torch.nan).numpy()


def absorbed_cosine(
    learned: Float[Tensor, "features d_model"],
    truth: Float[Tensor, "features d_model"],
    parent: Int[np.ndarray, " features"],
) -> float:
    """Mean cosine of each learned child with its true parent.

    Args:
        learned: Learned atoms in the order of the true features.
        truth: True atoms.
        parent: Number of each feature's parent, -1 for features without.
    """
    children = np.flatnonzero(parent >= 0)
    pairs = unit_rows(learned)[children] * unit_rows(truth)[parent[children]]
    return float(pairs.sum(1).mean())
