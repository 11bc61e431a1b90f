"""Local learning coefficient by stochastic gradient Langevin dynamics.

lambda = n beta (E[L(w)] - L(w*)), the mean over a chain that samples exp(-n beta L(w) - gamma/2 ||w
- w*||^2) around trained weights w*, with beta = 1 / ln n (Lau et al., arXiv 2308.12108). For a
regular model of d parameters it is d/2; it is smaller the more degenerate the minimum. An estimate:
it depends on step size, gamma and chain length, is biased where w* is no minimum, and says so
wherever it is shown.

Chains of many models run side by side; parameters begin with the model axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ...probes.errors import OptionError

Progress = Callable[[int, int, str], None]
Objective = Callable[[Sequence[Tensor], torch.Generator | None], Tensor]
"""(parameters, generator) -> mean loss per model; on a batch with a generator, else on all rows."""

LLC_CAVEAT = (
    "The local learning coefficient is an SGLD estimate: its level depends on step size, "
    "localisation and chain length; read its course, not its value."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SgldOptions:
    """Chain of the estimate."""

    step_size: float = 1e-5
    """epsilon of Langevin's step: w -= epsilon/2 gradient, noise of variance epsilon."""
    gamma: float = 100.0
    """Localisation: strength of the pull back to the trained weights."""
    n_burn_in: int = 100
    """Steps before losses count."""
    n_steps: int = 200
    """Steps whose losses are averaged."""
    seed: int = 0
    """Fixes noise and batches."""

    def __post_init__(self) -> None:
        if self.step_size <= 0 or self.gamma < 0 or self.n_steps < 1 or self.n_burn_in < 0:
            raise OptionError(
                "step_size must be above 0, gamma and n_burn_in at least 0, n_steps at least 1, got "
                + repr(self)
            )


def learning_coefficients(
    parameters: Sequence[Float[Tensor, "models ..."]],
    objective: Objective,
    n_rows: int,
    options: SgldOptions,
    *,
    progress: Progress | None = None,
) -> Float[Tensor, " models"]:
    """Estimate the local learning coefficient of every model.

    Args:
        parameters: Trained weights w*, not changed.
        objective: Mean loss per model, in nats.
        n_rows: n, training rows.
        options: Chain.
        progress: Called now and then with (done, total, note).

    Raises:
        OptionError: Fewer than 3 rows, for which 1 / ln n is no temperature.
    """
    if n_rows < 3:
        raise OptionError(f"n_rows must be at least 3, got {n_rows}.")
    beta = 1 / torch.log(torch.tensor(float(n_rows))).item()
    generator = torch.Generator().manual_seed(options.seed)
    centre = [p.detach().clone() for p in parameters]
    walker = [p.clone().requires_grad_() for p in centre]
    with torch.no_grad():
        start = objective(centre, None).double()
    total = torch.zeros_like(start)
    n_all = options.n_burn_in + options.n_steps
    for step in range(n_all):
        loss = objective(walker, generator)
        gradients = torch.autograd.grad(loss.sum(), walker)
        if step >= options.n_burn_in:
            # The batch's loss is an unbiased estimate of the whole loss at the same weights.
            total += loss.detach().double()
        with torch.no_grad():
            for w, g, c in zip(walker, gradients, centre, strict=True):
                drift = n_rows * beta * g + options.gamma * (w - c)
                noise = torch.empty_like(w).normal_(generator=generator)
                w.add_(drift, alpha=-options.step_size / 2).add_(
                    noise, alpha=options.step_size**0.5
                )
        if progress is not None and (step + 1) % 10 == 0:
            progress(step + 1, n_all, "learning coefficients")
    return n_rows * beta * (total / options.n_steps - start)
