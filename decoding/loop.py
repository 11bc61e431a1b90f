"""The one loop: it runs an engine's steps, stops, times, traces and captures."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from ..probes import Capture, Model, capture
from .generation import Generation, Stats
from .rowlog import RowLog
from .stopping import Stopper, Stopping, StopReason
from .target import Target
from .trace import Emitted, Step, Trace


class State(ABC):
    """What an engine keeps during one generation. Made by `Engine.begin`."""

    target: Target
    n_faults: int = 0
    """How often a part that may fail without harm, such as a drafter, did."""

    @abstractmethod
    def step(self, room: int) -> Step:
        """Emit at least one token, at most `room`."""

    def end(self) -> None:
        """The generation ended, or was interrupted."""


class Loop:
    """One generation under way.

    Args:
        model: The model that is decoded.
        name: The engine's.
        ready: Lays models out for decoding, for the time of a block; see `Engine.ready`.
        begin: Reads the prompt; see `Engine.begin`.
        text: The prompt.
        ids: Its tokens.
        stopping: When to stop.
        sites: Names or globs of sites whose states are kept.
    """

    def __init__(
        self,
        model: Model,
        name: str,
        *,
        ready: Callable[[], AbstractContextManager[None]],
        begin: Callable[[Tensor], State],
        text: str,
        ids: Int64[Tensor, " positions"],
        stopping: Stopping,
        sites: Sequence[str] = (),
    ) -> None:
        self._model, self._name, self._text, self._ids = model, name, text, ids
        self._ready, self._begin = ready, begin
        self._stopper = Stopper(model, stopping, len(ids))
        self._sites = sites
        self._trace, self._emitted = Trace(), []
        self._reason: StopReason = "interrupted"
        self._captured: dict[str, Tensor] = {}
        self._rows = RowLog()
        self._stats = Stats(n_forward=0, n_emitted=0, seconds=0.0)

    def tokens(self) -> Iterator[Emitted]:
        """Run to the end, handing out tokens as they come.

        Whoever takes them is not in inference mode: it ends with each step.
        """
        with ExitStack() as stack:
            stack.enter_context(self._ready())
            started = time.perf_counter()
            acts = None
            if self._sites:
                acts = stack.enter_context(capture(self._model, *self._sites))
            with torch.inference_mode():
                state = self._begin(self._ids)
            stack.callback(state.end)
            ended = False
            while not ended:
                with torch.inference_mode():
                    step, ended = self._cut(state.step(self._stopper.room(len(self._emitted))))
                self._trace.steps.append(step)
                yield from step.emitted
            self._stats = Stats(
                n_forward=state.target.n_forward,
                n_emitted=len(self._emitted),
                seconds=time.perf_counter() - started,
                n_drafted=sum(len(step.nodes) for step in self._trace.steps),
                n_accepted=sum(step.n_accepted for step in self._trace.steps),
                n_faults=state.n_faults,
            )
            if acts is not None:
                with torch.inference_mode():
                    self._states(state, acts)

    def generation(self) -> Generation:
        """The finished generation."""
        text = ""
        if self._model.has_tokenizer:
            tokenizer = self._model.tokenizer
            text = str(
                tokenizer.decode(
                    self._emitted, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            cut = self._stopper.cut(text)
            text = text if cut is None else cut
        return Generation(
            engine=self._name,
            prompt=self._text,
            prompt_ids=tuple(self._ids.tolist()),
            token_ids=tuple(self._emitted),
            text=text,
            stop_reason=self._reason,
            stats=self._stats,
            trace=self._trace,
            captured=self._captured,
            rows=self._rows,
        )

    def _cut(self, step: Step) -> tuple[Step, bool]:
        """The step up to the token that ends the generation, and whether one does."""
        for number, token in enumerate(step.emitted):
            self._emitted.append(token.id)
            reason = self._stopper.check(self._emitted)
            if reason is not None:
                self._reason = reason
                kept = replace(step, emitted=step.emitted[: number + 1])
                return kept, True
        return step, False

    def _states(self, state: State, acts: Capture) -> None:
        """Every row that passed the model, and what became of it.

        The last token has not passed the model yet; it does now.
        """
        missing = self._emitted[len(state.target) - len(self._ids) :]
        if missing:
            state.target.extend(missing)
        self._captured = {name: acts[name][0].clone() for name in acts}
        self._rows = state.target.log
