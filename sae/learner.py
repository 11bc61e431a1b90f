"""One autoencoder in training: optimiser, schedule, dead latents, statistics.

A step is: loss, gradient (averaged over processes), the part along unit atoms left out, the norm
clipped, Adam, atoms put back to length and, if asked, dead latents begun anew. Nothing of it knows
where rows come from.

On a CPU Adam is the fused one, and clipping rides on its gradient scale, so that weights are passed
over once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .errors import DivergedError
from .output import TrainingState
from .resampling import resample_dead
from .schedule import ScheduleOptions, default_learning_rate
from .stretches import BatchOutput, add_gradients

Precision = Literal["float32", "bfloat16"]
"""Type of a training's matrix products."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnOptions:
    """How one autoencoder learns."""

    schedule: ScheduleOptions
    """Warm-ups and decay."""
    learning_rate: float | None = None
    """Adam's learning rate; None: 2e-4 / sqrt(latents / 2^14) (arXiv 2406.04093)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay of the first and second moment."""
    eps: float = 6.25e-10
    """Adam's epsilon (arXiv 2406.04093)."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient; None: no clipping."""
    dead_after_rows: int = 10_000_000
    """A latent that has not fired for so many rows is dead (arXiv 2406.04093); at most a quarter of
    the training."""
    resample_every: int | None = None
    """Every so many steps, latents silent for half as many begin anew at rows rebuilt badly (Bricken et
    al. 2023, who do it for L1 autoencoders every 25,000 to 62,500 steps); None: never."""
    precision: Precision = "float32"
    """Type of the matrix products; weights, codes and optimiser stay in float32."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.learning_rate is not None and self.learning_rate <= 0:
            raise OptionError(f"learning_rate must be above 0, got {self.learning_rate}.")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise OptionError(f"clip_norm must be above 0 or None, got {self.clip_norm}.")
        if self.dead_after_rows < 1:
            raise OptionError(f"dead_after_rows must be at least 1, got {self.dead_after_rows}.")
        if self.resample_every is not None and self.resample_every < 2:
            raise OptionError(f"resample_every must be at least 2, got {self.resample_every}.")

    def rate_factor(self, step: int) -> float:
        """Factor of the learning rate at a step: the schedule's, warmed up again after a resampling."""
        rate = self.schedule.learning_rate(step)
        if self.resample_every is None:
            return rate
        last = min(step, self.schedule.steady_steps) // self.resample_every * self.resample_every
        return rate * (self.schedule.warm_up(step - last) if last else 1.0)

    def resamples_after(self, n_steps: int) -> bool:
        """Whether dead latents begin anew when so many steps are done."""
        every = self.resample_every
        return every is not None and n_steps % every == 0 and n_steps <= self.schedule.steady_steps


@dataclass(frozen=True)
class StepReport:
    """What one step looked like."""

    step: int
    """Steps done, this one included."""
    loss: float
    """Sum of all terms."""
    losses: dict[str, float]
    """Each term."""
    fvu: float
    """Fraction of the batch's variance that is unexplained."""
    l0: float
    """Mean number of active latents per row."""
    dead: float
    """Fraction of latents that are dead."""
    learning_rate: float
    """Learning rate of this step."""


class Learner:
    """An autoencoder and everything that changes while it learns.

    Args:
        sae: Trained in place.
        options: How.
    """

    def __init__(self, sae: SparseAutoencoder, options: LearnOptions) -> None:
        self.sae, self.options = sae, options
        self.step_count = 0
        self.n_rows = 0
        self.rows_since_fired = torch.zeros(sae.d_sae, dtype=torch.long, device=sae.W_dec.device)
        self.base_rate = options.learning_rate or default_learning_rate(sae.d_sae)
        self.optimiser = torch.optim.Adam(
            sae.parameters(), lr=self.base_rate, betas=options.betas, eps=options.eps, fused=True
        )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.sae.W_dec.device

    @property
    def n_processes(self) -> int:
        """Processes that train together."""
        return _world()

    def dead(self, batch_rows: int) -> Bool[Tensor, " latents"]:
        """Latents that have not fired for long.

        Args:
            batch_rows: Rows of a step, by which the length of the training is judged.
        """
        whole = self.options.schedule.n_steps * batch_rows
        limit = min(self.options.dead_after_rows, max(whole // 4, 1))
        return self.rows_since_fired >= limit

    def step(
        self, rows: Float[Tensor, "rows d_in"], target: Tensor | None = None
    ) -> tuple[BatchOutput, Bool[Tensor, " latents"]]:
        """Learn from one batch.

        Args:
            rows: What is read, on the device of the weights.
            target: What is rebuilt, for a transcoder.

        Returns:
            The forward pass before the weights changed, and the latents dead before this step.
        """
        schedule, step = self.options.schedule, self.step_count
        n_rows = self._of_all(len(rows))
        dead = self.dead(n_rows)
        self.sae.train()
        state = TrainingState(dead, schedule.sparsity(step))
        self.optimiser.zero_grad(set_to_none=True)
        autocast = self.options.precision == "bfloat16"
        out = add_gradients(self.sae, rows, target, state, autocast=autocast)
        _average_gradients(self.sae)
        self.sae.project_gradient()
        for group in self.optimiser.param_groups:
            group["lr"] = self.base_rate * self.options.rate_factor(step)
        self._clip()
        self.optimiser.step()
        self.sae.normalise()
        self.sae.after_step()
        _average_buffers(self.sae)
        self._count(out, n_rows)
        self.step_count, self.n_rows = step + 1, self.n_rows + n_rows
        if self.options.resample_every and self.options.resamples_after(self.step_count):
            silent = self.options.resample_every // 2 * n_rows
            resample_dead(self, rows, target, out.reconstruction, silent)
        return out, dead

    def report(self, rows: Tensor, target: Tensor | None, out: BatchOutput) -> StepReport:
        """Numbers of the last step.

        Raises:
            DivergedError: The loss is not finite.
        """
        loss = float(out.loss)
        if not math.isfinite(loss):
            raise DivergedError(
                f"The loss of {self.sae.architecture} is {loss} at step {self.step_count}; the last "
                "checkpoint is kept. Lower the learning rate, or look for huge rows in the site."
            )
        goal = rows if target is None else target
        error = float((out.reconstruction - goal).square().sum())
        spread = float((goal - goal.mean(0)).square().sum())
        return StepReport(
            step=self.step_count,
            loss=loss,
            losses={name: float(term) for name, term in out.losses.items()},
            fvu=error / spread if spread else math.nan,
            l0=out.l0,
            dead=float(self.dead(len(rows) * _world()).float().mean()),
            learning_rate=self.optimiser.param_groups[0]["lr"],
        )

    def require_finite(self) -> None:
        """Make sure that all weights are finite, before they are kept.

        Raises:
            DivergedError: They are not.
        """
        if not all(bool(torch.isfinite(p).all()) for p in self.sae.parameters()):
            raise DivergedError(
                f"Weights of {self.sae.architecture} are not finite after step {self.step_count}; the "
                "last checkpoint is kept. Lower the learning rate, or look for huge rows in the site."
            )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued training needs to go on bit for bit."""
        return {
            "sae": self.sae.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "rows_since_fired": self.rows_since_fired,
            "step_count": self.step_count,
            "n_rows": self.n_rows,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.sae.load_state_dict(state["sae"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.rows_since_fired.copy_(state["rows_since_fired"])
        self.step_count, self.n_rows = state["step_count"], state["n_rows"]

    def _clip(self) -> None:
        limit = self.options.clip_norm
        if limit is None:
            return
        grads = [p.grad for p in self.sae.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(grads).float()  # the type Adam wants
        # Adam divides gradients by this in its own pass over the weights.
        self.optimiser.grad_scale = (norm / limit).clamp_min(1.0)  # pyright: ignore[reportAttributeAccessIssue]

    def _of_all(self, n_rows: int) -> int:
        """Rows of a step in all processes, which may have left out unequal numbers."""
        if self.n_processes == 1:
            return n_rows
        total = torch.tensor(n_rows, device=self.device)
        dist.all_reduce(total)
        return int(total)

    @torch.no_grad()
    def _count(self, out: BatchOutput, n_rows: int) -> None:
        fired = out.counts > 0
        if _world() > 1:
            both = fired.to(torch.uint8)
            dist.all_reduce(both, op=dist.ReduceOp.MAX)
            fired = both.bool()
        self.rows_since_fired += n_rows
        self.rows_since_fired.masked_fill_(fired, 0)


def _world() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _average_gradients(sae: SparseAutoencoder) -> None:
    """Mean gradient over all processes; a parameter without one anywhere counts as 0."""
    world = _world()
    if world == 1:
        return
    for parameter in sae.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        grad = parameter.grad.contiguous()
        dist.all_reduce(grad)
        parameter.grad.copy_(grad / world)


def _average_buffers(sae: SparseAutoencoder) -> None:
    """Running estimates, which each process makes from its own rows."""
    if _world() > 1:
        for buffer in sae.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer.div_(_world())
