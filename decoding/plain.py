"""Plain decoding: one forward pass, one token. The yardstick of every other engine."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Int64
from torch import Tensor
from transformers import LogitsProcessor

from .acceptance import RULES
from .drafter import NoDrafter
from .engine import About, Engine, EngineOptions
from .registry import register
from .sampling import Sampler
from .speculative import SpeculativeState
from .target import Target


@register
class Plain(Engine):
    """One forward pass, one token: greedy, or sampled."""

    about = About(
        name="plain",
        summary="One forward pass, one token; greedy or sampled.",
        paper=None,
        lossless=True,
        needs="nothing",
    )
    Options = EngineOptions

    def begin(
        self,
        prompt_ids: Int64[Tensor, " positions"],
        *,
        processors: Sequence[LogitsProcessor] = (),
    ) -> SpeculativeState:
        """Read the prompt."""
        target = Target(self.model, cache=self.options.cache)
        return SpeculativeState(
            target,
            target.prefill(prompt_ids),
            NoDrafter(),
            rule=RULES["match"],
            sampler=Sampler(self.options, self.model.device, processors),
            max_draft=0,
            thrift=None,
        )
