"""Attention weighted by what it moves: p_j |W_O (v_j - o)| instead of p_j (arXiv 2304.04052).

A head's output o = sum_j p_j v_j answers a change of its score at j by p_j (v_j - o), the second term
of `head_jacobian`. A position that hoards attention with a value like the output's own moves nothing;
one that gets little may move much. The output projection W_O brings the change into the residual
stream, where heads can be compared. Deviation from the plain sum over the source: given as a share of
all positions that count, so that it compares with even attention as the plain mass does.
"""

from __future__ import annotations

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

OUTPUTS = ("o_proj", "out_proj", "c_proj", "dense", "wo")
"""Names of the output projection in attention modules."""


def output_projection(
    attention: nn.Module, n_heads: int, d_head: int
) -> Float[Tensor, "heads d_model d_head"] | None:
    """W_O of each head; None where none of the usual names is a linear map from the heads.

    Args:
        attention: The attention module.
        n_heads: Query heads.
        d_head: Width of a value.
    """
    for name in OUTPUTS:
        part = getattr(attention, name, None)
        if isinstance(part, nn.Linear):
            weight = part.weight
        elif isinstance(part, Conv1D):
            weight = part.weight.T
        else:
            continue
        if weight.shape[1] == n_heads * d_head:
            return weight.detach().unflatten(1, (n_heads, d_head)).transpose(0, 1)
    return None


def moved_by_position(
    pattern: Float[Tensor, "texts heads queries keys"],
    value: Float[Tensor, "texts kv_heads keys d_head"],
    output: Float[Tensor, "heads d_model d_head"],
) -> Float[Tensor, "texts heads queries keys"]:
    """p_j |W_O (v_j - o)| of every head, query and key, in float64.

    Args:
        pattern: Attention probabilities of some queries.
        value: Values; fewer heads than queries have where they are grouped.
        output: W_O of each head.
    """
    probs = pattern.double()
    groups = probs.shape[1] // value.shape[1]
    values = repeat(value.double(), "t h k d -> t (h g) k d", g=groups)
    values = values - values.mean(2, keepdim=True)  # v - o does not change, and less cancels below
    mixed, weight = probs @ values, output.double()
    gram = weight.transpose(1, 2) @ weight  # |W x|^2 = x^T (W^T W) x, d_head wide
    pulled = values @ gram
    own = torch.linalg.vecdot(pulled, values)[:, :, None]
    middle = torch.linalg.vecdot(mixed @ gram, mixed)[..., None]
    squared = own - 2 * mixed @ pulled.transpose(-1, -2) + middle  # never queries x keys x d_head
    return probs * squared.clamp_min(0).sqrt()


def source_share(
    moved: Float[Tensor, "texts heads queries keys"], n_source: int, n_sinks: int
) -> Float[Tensor, "texts heads queries"]:
    """The source's share of what all positions but the sinks move; NaN where nothing does.

    Args:
        moved: See `moved_by_position`.
        n_source: Keys before this belong to the source.
        n_sinks: Keys before this are sinks.
    """
    counted = moved[..., n_sinks:]
    return counted[..., : n_source - n_sinks].sum(-1) / counted.sum(-1)
