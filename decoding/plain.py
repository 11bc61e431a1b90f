"""Plain decoding: one forward pass, one token. The yardstick of every other engine."""

from __future__ import annotations

import time

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .engine import About, Engine, State, describe
from .registry import register
from .sampling import Sampler, SamplingOptions
from .target import Target
from .trace import Step


class PlainState(State):
    """The text so far and the logits after it."""

    def __init__(
        self,
        target: Target,
        sampler: Sampler,
        context: Int64[Tensor, " positions"],
        logits: Float[Tensor, " d_vocab"],
    ) -> None:
        self.target, self._sampler = target, sampler
        self._context, self._logits = context, logits
        self._pending: int | None = None

    def step(self) -> Step:
        """Choose the next token; the pass over it runs at the beginning of the next step."""
        started = time.perf_counter()
        if self._pending is not None:
            token = torch.tensor([self._pending], device=self._context.device)
            self._context = torch.cat([self._context, token])
            self._logits = self.target.extend(token)[-1]
        verified = time.perf_counter()
        chosen = self._sampler.choose(self._sampler.scores(self._context, self._logits))
        emitted = describe(self._logits, chosen, kind="plain")
        self._pending = chosen
        return Step(
            emitted=(emitted,),
            seconds=time.perf_counter() - started,
            seconds_verify=verified - started,
        )


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
    Options = SamplingOptions

    def begin(self, prompt_ids: Int64[Tensor, " positions"]) -> PlainState:
        """Read the prompt."""
        target = Target(self.model)
        sampler = Sampler(self.options, self.model.device)
        logits = target.prefill(prompt_ids)
        return PlainState(target, sampler, prompt_ids.to(self.model.device), logits)
