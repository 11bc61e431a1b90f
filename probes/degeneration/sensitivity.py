"""How much a whole model's prediction depends on the source (arXiv 2304.04052).

Two measures. The Jacobian of the logits with respect to the source embeddings, whose Frobenius norm
Hutchinson's estimator gives from a few vector-Jacobian products: E |J^T u|^2 = |J|_F^2 for random
signs u. And the divergence between predictions after the true source and after another one, which
needs no gradient and speaks in nats: E KL(p(.|s, t) || p(.|s', t)).

Deviation: public third-party code perturbs rows of the embedding matrix (which moves every
occurrence of a token and a tied unembedding with it) and lets the model generate anew after each
perturbation. Here embeddings are perturbed where they stand and the continuation is forced.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..errors import OptionError
from ..intervene import intervene
from ..model import Model
from .options import DegenerationOptions


def jacobian_norms(
    model: Model, ids: Int64[Tensor, " positions"], options: DegenerationOptions
) -> Float[Tensor, "steps parts"]:
    """Squared Frobenius norm of d logits / d embeddings, per position of a part, at each step.

    Args:
        model: An opened model.
        ids: Source and continuation of one text.
        options: Steps, number of random directions, seed.

    Returns:
        For each step the mean over positions of |d logits / d embedding|_F^2: over the source
        without sinks, over the sinks (NaN if there are none), over the target so far.
    """
    generator = torch.Generator().manual_seed(options.seed)
    logits, shift = _logits_with_shift(model, ids)
    norms = torch.full((len(options.queries), 3), torch.nan, dtype=torch.float64)
    for number, query in enumerate(options.queries):
        squares = torch.zeros(len(ids), dtype=torch.float64)
        for _ in range(options.n_probes):
            signs = torch.randint(0, 2, logits.shape[-1:], generator=generator) * 2.0 - 1
            along = signs.to(logits)
            (pulled,) = torch.autograd.grad(logits[query] @ along, shift, retain_graph=True)
            squares += pulled[0].double().square().sum(-1).cpu()
        squares /= options.n_probes
        parts = (
            squares[options.n_sinks : options.n_source],
            squares[: options.n_sinks],
            squares[options.n_source : query + 1],
        )
        norms[number] = torch.stack([part.mean() for part in parts])
    return norms


def finite_difference(
    model: Model,
    ids: Int64[Tensor, " positions"],
    *,
    position: int,
    query: int,
    relative: float = 1e-3,
    seed: int = 0,
) -> float:
    """|change of logits| / |change of one embedding| for a small random push: a cross-check.

    Its square, times d_model, has the mean |J|_F^2 of that position over random directions.

    Args:
        model: An opened model.
        ids: One text.
        position: Which embedding is pushed.
        query: At which position the logits are read.
        relative: Length of the push as a share of the embedding's.
        seed: Draws its direction.

    Raises:
        OptionError: The query comes before the position, so that it cannot depend on it.
    """
    if query < position:
        raise OptionError(
            f"query must be at or after position {position} in a causal model, got {query}."
        )
    generator = torch.Generator().manual_seed(seed)
    pushed: list[float] = []

    def push(value: Tensor) -> Tensor:
        direction = torch.randn(value.shape[-1], generator=generator).to(value)
        length = torch.linalg.vector_norm(value[0, position]) * relative
        moved = value.clone()
        moved[0, position] += direction / torch.linalg.vector_norm(direction) * length
        pushed.append(torch.linalg.vector_norm(moved - value).item())
        return moved

    with torch.no_grad():
        before = model(ids[None], use_cache=False).logits[0, query]
        with intervene(model, {"embed": push}):
            after = model(ids[None], use_cache=False).logits[0, query]
    return torch.linalg.vector_norm(after - before).item() / pushed[0]


@torch.no_grad()
def swapped_source_divergence(
    model: Model,
    ids: Int64[Tensor, "texts positions"],
    others: Int64[Tensor, "texts source"],
    n_source: int,
) -> Float[Tensor, "texts target"]:
    """KL(p(. | source, target so far) || p(. | other source, target so far)), nats.

    Args:
        model: An opened model.
        ids: Source and continuation of each text.
        others: Another text's source for each, of the same length.
        n_source: Length of the source.

    Returns:
        One value per target token read: column i is after i + 1 of them.
    """
    swapped = torch.cat([others.to(ids), ids[:, n_source:]], dim=1)
    true, other = (
        model(rows, use_cache=False).logits[:, n_source:].float().log_softmax(-1)
        for rows in (ids, swapped)
    )
    return (true.exp() * (true - other)).sum(-1).double().cpu()


def _logits_with_shift(model: Model, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Logits of one text as a function of a shift of its embeddings, (positions, vocab)."""
    leaves: list[Tensor] = []

    def shifted(value: Tensor) -> Tensor:
        leaves.append(torch.zeros_like(value, requires_grad=True))
        return value.detach() + leaves[0]

    wanted = [parameter for parameter in model.module.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad = False
    try:
        with torch.enable_grad(), intervene(model, {"embed": shifted}):
            logits = model(ids[None], use_cache=False).logits[0]
    finally:
        for parameter in wanted:
            parameter.requires_grad = True
    return logits.float(), leaves[0]
