"""Published settings by architecture: what a training takes where nobody says otherwise.

All on rows of mean square norm 1 (`unit_ms`), warm-ups and decay as in SAEBench, gradients clipped.

    topk, batchtopk, matryoshka   2e-4 / sqrt(latents / 2^14), AuxK 1/32   arXiv 2406.04093
    mp                            3e-4                                     SAELens' released Gemma run
    omp                           3e-4                                     (ours; a reference)
    jumprelu                      7e-5, betas (0, 0.999), L0 towards k     arXiv 2407.14435, SAEBench
    gated                         3e-4, betas (0, 0.999)                   arXiv 2404.16014, SAEBench
    relu                          3e-4                                     SAEBench

The rates are for 200,000 steps; `for_steps` raises them where a training is much shorter, by the square
root of the ratio, at most tenfold (our choice: without it short trainings end before they begin).
"""

from __future__ import annotations

import math
from typing import Any

from .architectures import sae_class
from .learner import LearnOptions, Precision
from .schedule import ScheduleOptions, default_learning_rate

PUBLISHED_STEPS = 200_000
"""Steps that published learning rates are for."""
LARGEST_RAISE = 10.0
"""At most so much is a rate raised for a short training."""

_RATES = {"mp": 3e-4, "omp": 3e-4, "jumprelu": 7e-5, "gated": 3e-4, "relu": 3e-4}
_BETAS = {"jumprelu": (0.0, 0.999), "gated": (0.0, 0.999)}


def sae_options(
    architecture: str, *, d_sae: int, k: int, l1: float | None = None
) -> dict[str, Any]:
    """Options of an architecture, of those it has.

    Args:
        architecture: One of `ARCHITECTURES`.
        d_sae: Latents.
        k: Active latents per row, where the architecture can be told.
        l1: Coefficient of an L1 penalty, where there is one; None: the default.

    Raises:
        OptionError: No such architecture.
    """
    known = sae_class(architecture).Options.__dataclass_fields__
    wanted = {"d_sae": d_sae, "k": k} | ({} if l1 is None else {"l1": l1})
    return {name: value for name, value in wanted.items() if name in known}


def learn_options(
    architecture: str, *, d_sae: int, n_steps: int, learning_rate: float | None = None,
    precision: Precision = "float32", resample_every: int | None = None,
) -> LearnOptions:  # fmt: skip
    """How an architecture learns.

    Args:
        architecture: One of `ARCHITECTURES`.
        d_sae: Latents.
        n_steps: Steps of the training.
        learning_rate: In place of the published one.
        precision: Type of the matrix products.
        resample_every: Steps between resamplings of dead latents; None: never.
    """
    rate = learning_rate
    if rate is None:
        published = _RATES.get(architecture, default_learning_rate(d_sae))
        rate = published * for_steps(n_steps)
    return LearnOptions(
        schedule=ScheduleOptions(n_steps=n_steps),
        learning_rate=rate,
        betas=_BETAS.get(architecture, (0.9, 0.999)),
        precision=precision,
        resample_every=resample_every,
    )


def for_steps(n_steps: int) -> float:
    """What a rate for many steps is multiplied by for fewer; never below 1."""
    return min(max(math.sqrt(PUBLISHED_STEPS / n_steps), 1.0), LARGEST_RAISE)
