"""From logits to a token: processors, greedy choice, sampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from ..probes.errors import OptionError

COLDEST = 1e-4
"""Lowest temperature above 0: logits divided by less may overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen; the defaults choose the likeliest."""

    temperature: float = 0.0
    """0 chooses the likeliest token; above, logits are divided by it and a token is drawn."""
    top_k: int | None = None
    """Draw from this many likeliest tokens only; None for no limit."""
    top_p: float | None = None
    """Draw from the likeliest tokens that together have this probability; None for no limit."""
    min_p: float | None = None
    """Draw from tokens at least this many times as likely as the likeliest; None for no limit."""
    repetition_penalty: float = 1.0
    """Divides the scores of tokens that have occurred (1 = none)."""
    seed: int = 0
    """Seed of the random draws."""

    def __post_init__(self) -> None:
        if self.temperature != 0 and not COLDEST <= self.temperature < math.inf:
            raise OptionError(
                f"temperature must be at least 0 and finite, got {self.temperature}; below {COLDEST:g} "
                "use 0, which takes the likeliest token."
            )
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"top_k must be at least 1, got {self.top_k}; use None for no limit.")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                raise OptionError(f"{name} must be in (0, 1], got {value}; use None for no limit.")
        if not 0 < self.repetition_penalty < math.inf:
            raise OptionError(f"repetition_penalty must be > 0, got {self.repetition_penalty}.")
        if not 0 <= self.seed < 2**63:
            raise OptionError(f"seed must be from 0 to 2^63 - 1, got {self.seed}.")


class Sampler:
    """Chooses tokens.

    Args:
        options: How.
        device: Where the logits are.
        processors: More processors, run before temperature and truncation.

    Attributes:
        greedy: Whether the likeliest token is chosen.
        looks_back: Whether scores depend on the text so far.
        is_argmax: Whether the choice is the greatest of the model's own logits.
    """

    def __init__(
        self,
        options: SamplingOptions,
        device: torch.device,
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self.options = options
        self._processors = LogitsProcessorList(processors)
        if options.repetition_penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
        self.greedy = options.temperature == 0
        self.looks_back = bool(self._processors)
        self.is_argmax = self.greedy and not self._processors
        if not self.greedy:
            self._processors.extend(_warpers(options))
        self._generator = torch.Generator(device).manual_seed(options.seed)
        self._no_text = torch.zeros(1, 0, dtype=torch.int64, device=device)

    def scores(
        self, context: Int64[Tensor, " positions"] | None, logits: Float[Tensor, " d_vocab"]
    ) -> Float[Tensor, " d_vocab"]:
        """Logits after all processors.

        Args:
            context: The text so far; may be None unless `looks_back`.
            logits: The target's.
        """
        if not self._processors:
            return logits
        seen = self._no_text if context is None else context[None]
        return self._processors(seen, logits[None].float())[0]  # type: ignore[arg-type]

    def choose(self, scores: Float[Tensor, " d_vocab"]) -> int:
        """A token, drawn or the likeliest."""
        return int(scores.argmax()) if self.greedy else self.draw(scores.float().softmax(-1))

    def draw(self, probs: Float[Tensor, " d_vocab"]) -> int:
        """A token drawn from `probs`, which need not sum to one."""
        return int(torch.multinomial(probs, 1, generator=self._generator))

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self._generator.manual_seed(seed)

    def uniform(self) -> float:
        """A fresh uniform number in [0, 1)."""
        device = self._generator.device
        return float(torch.rand((), generator=self._generator, device=device))

    def uniforms(self, shape: Sequence[int]) -> Float[Tensor, ...]:
        """Fresh uniform numbers inside (0, 1), float64."""
        drawn = torch.rand(
            *shape,
            generator=self._generator,
            device=self._generator.device,
            dtype=torch.float64,
        )
        return drawn.clamp(1e-20, 1 - 1e-15)


def _warpers(options: SamplingOptions) -> list[LogitsProcessor]:
    warpers: list[LogitsProcessor] = []
    if options.temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p is not None:
        warpers.append(MinPLogitsWarper(options.min_p))
    return warpers
