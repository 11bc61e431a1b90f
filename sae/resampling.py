"""Dead latents begun anew at rows that are rebuilt badly (Bricken et al. 2023, "Neuron Resampling").

Every so many steps a latent that has been silent for more than half as many takes over a row of the
batch: its atom points there, its encoder too, at 0.2 times the mean length of live encoders, its biases
are as at the beginning, and Adam forgets it. Rows are drawn, each at most once, with a probability
proportional to the square of their squared error, so that at most as many latents begin anew as a batch
has rows. The learning rate warms up again afterwards, and nothing is resampled once a linear decay
has begun.

Deviations: rows are drawn from the batch just learned from (dictionary_learning does the same; the
authors draw from 819,200 rows), and directions are taken without the decoder's bias, which is added to
whatever atoms write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from .base import row_moments

if TYPE_CHECKING:
    from .learner import Learner

ENCODER_SHARE = 0.2
"""Length of a resampled latent's encoder over the mean of live ones."""


@torch.no_grad()
def resample_dead(
    learner: Learner,
    rows: Float[Tensor, "rows d_in"],
    target: Float[Tensor, "rows d_out"] | None,
    reconstruction: Float[Tensor, "rows d_out"],
    silent_rows: int,
) -> Int64[Tensor, " resampled"]:
    """Begin latents anew that have been silent for so many rows.

    Args:
        learner: Whose autoencoder, optimiser and counters are changed.
        rows: The batch just learned from.
        target: What was to be rebuilt; None: `rows`.
        reconstruction: What became of it.
        silent_rows: A latent that has not fired for more rows is begun anew.

    Returns:
        The latents that were.
    """
    sae = learner.sae
    goal = rows if target is None else target
    errors = (goal - reconstruction).double().square().sum(1).nan_to_num(0.0, posinf=0.0)
    if sae.options.input_norm == "token_std":
        mean, deviation = row_moments(rows)
        rows = goal = (rows - mean) / deviation
    silent = learner.rows_since_fired > silent_rows
    which = silent.nonzero().flatten()
    count = torch.tensor(min(len(which), int((errors > 0).sum())), device=errors.device)
    if learner.n_processes > 1:
        dist.broadcast(count, 0)
    which = which[: int(count)]
    if not len(which):
        return which
    # Drawn on the CPU, whose generator every device shares; fixed by the step.
    generator = torch.Generator().manual_seed(learner.step_count)
    weights = (errors / errors.max()).square().cpu()
    chosen = _drawn(weights, len(which), generator).to(rows.device)
    read, written = _unit(sae.centred(rows[chosen])), _unit(goal[chosen] - sae.b_dec)
    if learner.n_processes > 1:
        dist.broadcast(read, 0)
        dist.broadcast(written, 0)
    sae.restart_latents(which, read, written, encoder_share=ENCODER_SHARE, alive=~silent)
    forget_moments(learner.optimiser, sae.latent_axes(), which)
    learner.rows_since_fired[which] = 0
    return which


def forget_moments(
    optimiser: torch.optim.Optimizer, axes: list[tuple[Tensor, int]], which: Int64[Tensor, " some"]
) -> None:
    """Zero Adam's moments of some latents.

    Args:
        optimiser: An Adam.
        axes: Parameters, and along which of their axes latents lie.
        which: Latents.
    """
    for parameter, axis in axes:
        for name in ("exp_avg", "exp_avg_sq"):
            held = optimiser.state[parameter].get(name)
            if held is not None:
                held.index_fill_(axis, which, 0.0)


def _drawn(weights: Tensor, n: int, generator: torch.Generator) -> Int64[Tensor, " drawn"]:
    """Rows drawn without replacement; where too few have an error, these and others."""
    weights = weights.clamp_min(1e-30)
    if n <= len(weights):
        return torch.multinomial(weights, n, generator=generator)
    return torch.multinomial(weights, n, replacement=True, generator=generator)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
