"""One attention head in closed form: what its output owes to each position (arXiv 2304.04052).

With query q, keys k_j = W_K x_j, values v_j = W_V x_j, scores q.k_j / sqrt(d_head), probabilities p and
output o = sum_j p_j v_j,

    do/dx_j = p_j [ W_V + (v_j - o) (W_K^T q)^T / sqrt(d_head) ].

So the output's total sensitivity to a set of positions is at most a constant times the attention mass
on them, and if all scores lie within [-M, M] the mass on S source positions is at most
1 / (1 + (n / S) exp(-2 M)) beside n others: it vanishes as n grows. For the scores of real models
(M of 5 to 10) that ceiling is about 1 and says nothing; the mass itself is what is worth measuring.

Deviations: the paper's own constants could not be read; the bound here is derived from the formula
above and tested against autograd. Rotary positions rotate W_K and q before they come here.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor


def head_jacobian(
    query: Float[Tensor, " d_head"],
    inputs: Float[Tensor, "keys d_model"],
    key_weight: Float[Tensor, "d_head d_model"],
    value_weight: Float[Tensor, "d_value d_model"],
) -> Float[Tensor, "keys d_value d_model"]:
    """Derivative of one head's output for one query by the input at every position.

    Args:
        query: The query; it does not depend on the inputs here.
        inputs: What the keys and values are made of.
        key_weight: W_K, for a rotary model already rotated to each position's frame.
        value_weight: W_V.

    References:
        arXiv 2304.04052, section 3; the closed form is derived in the module's docstring.
    """
    scale = query.shape[0] ** -0.5
    probs = (inputs @ key_weight.T @ query * scale).softmax(0)
    values = inputs @ value_weight.T
    away = values - probs @ values
    pull = key_weight.T @ query * scale
    return probs[:, None, None] * (value_weight + torch.einsum("jv,m->jvm", away, pull))


def sensitivity_bound(
    query: Float[Tensor, " d_head"],
    inputs: Float[Tensor, "keys d_model"],
    key_weight: Float[Tensor, "d_head d_model"],
    value_weight: Float[Tensor, "d_value d_model"],
) -> Float[Tensor, " keys"]:
    """Upper bound of the spectral norm of each position's Jacobian, proportional to its attention.

    p_j (|W_V| + |v_j - o| |W_K^T q| / sqrt(d_head)), with spectral and Euclidean norms.
    """
    scale = query.shape[0] ** -0.5
    probs = (inputs @ key_weight.T @ query * scale).softmax(0)
    values = inputs @ value_weight.T
    away = torch.linalg.vector_norm(values - probs @ values, dim=-1)
    pull = torch.linalg.vector_norm(key_weight.T @ query) * scale
    return probs * (torch.linalg.matrix_norm(value_weight, 2) + away * pull)


def mass_ceiling(n_source: int, n_other: int, largest_score: float) -> float:
    """Most attention that S source positions can hold beside n others if all scores are within +-M.

    Args:
        n_source: S.
        n_other: n, the positions that compete with the source.
        largest_score: M, on the scale that enters the softmax.
    """
    if n_source == 0:
        return 0.0
    return 1 / (1 + n_other / n_source * math.exp(-2 * largest_score))


def uniform_mass(n_source: int, n_other: int) -> float:
    """Attention on the source if it were spread evenly: what dilution alone leaves."""
    return n_source / (n_source + n_other)
