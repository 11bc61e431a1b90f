"""Learning rate and sparsity over the course of training: warm-up, plateau, decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ..probes.errors import OptionError


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleOptions:
    """How fast to learn at each step."""

    n_steps: int
    """Steps of training; a checkpoint can only be continued with the same number."""
    warmup_steps: int = 1000
    """Steps over which the learning rate rises from 0 (SAEBench: 1,000); at most a tenth of all."""
    decay: Literal["linear", "cosine", "none"] = "linear"
    """How it falls: linearly to 0 over the last steps, as half a cosine from the warm-up on, or not."""
    decay_fraction: float = 0.2
    """Share of all steps over which a linear decay runs (SAEBench, April update: the last 20 %)."""
    sparsity_warmup_steps: int = 5000
    """Steps over which the sparsity penalty rises (SAEBench: 5,000); at most a fifth of all."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.n_steps < 1:
            raise OptionError(f"n_steps must be at least 1, got {self.n_steps}.")
        if self.warmup_steps < 0 or self.sparsity_warmup_steps < 0:
            raise OptionError(
                "warmup_steps and sparsity_warmup_steps must be at least 0, got "
                f"{self.warmup_steps}, {self.sparsity_warmup_steps}."
            )
        if not 0 <= self.decay_fraction <= 1:
            raise OptionError(f"decay_fraction must be from 0 to 1, got {self.decay_fraction}.")

    def learning_rate(self, step: int) -> float:
        """Factor of the learning rate at a step counted from 0; from just above 0 to 1."""
        warmup = self._warmup
        if step < warmup:
            return self.warm_up(step)
        if self.decay == "cosine":
            done = (step - warmup) / max(self.n_steps - warmup, 1)
            return 0.5 * (1 + math.cos(math.pi * done))
        if self.decay == "linear":
            return min((self.n_steps - step) / self._n_decay, 1.0)
        return 1.0

    def warm_up(self, step: int) -> float:
        """Factor of the learning rate so many steps after a warm-up began, from just above 0 to 1."""
        return min((step + 1) / (self._warmup + 1), 1.0)

    @property
    def steady_steps(self) -> int:
        """Steps before a linear decay begins; all where there is none."""
        return self.n_steps - self._n_decay if self.decay == "linear" else self.n_steps

    @property
    def _warmup(self) -> int:
        return min(self.warmup_steps, self.n_steps // 10)

    @property
    def _n_decay(self) -> int:
        return max(int(self.decay_fraction * self.n_steps), 1)

    def sparsity(self, step: int) -> float:
        """Factor of the sparsity penalty at a step, from just above 0 to 1."""
        warmup = min(self.sparsity_warmup_steps, self.n_steps // 5)
        return min((step + 1) / (warmup + 1), 1.0)


def default_learning_rate(d_sae: int) -> float:
    """2e-4 / sqrt(latents / 2^14): the rule of the TopK family (arXiv 2406.04093, section A)."""
    return 2e-4 / math.sqrt(d_sae / 2**14)
