"""Engines: a loop around a target, of which every paper changes a part.

The one loop is here: it runs an engine's steps, stops, times, traces and captures. An engine says
what a step is: `begin` reads the prompt, `step` emits at least one token.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from ..probes import Capture, Model, capture
from .errors import PromptError
from .generation import Generation, Stats
from .stopping import Stopper, Stopping, StopReason
from .target import Target
from .trace import N_CANDIDATES, Emitted, Step, Trace


@dataclass(frozen=True)
class About:
    """What the registry tells of an engine."""

    name: str
    summary: str
    """One sentence."""
    paper: str | None
    """arXiv id, if it follows a paper."""
    lossless: bool
    """Whether the text is plain decoding's (greedy), or has its distribution (sampled)."""
    needs: str
    """What it needs besides the model; "nothing" if nothing."""


class State(ABC):
    """What an engine keeps during one generation. Made by `Engine.begin`."""

    target: Target

    @abstractmethod
    def step(self) -> Step:
        """Emit at least one token."""


class Engine(ABC):
    """One way of decoding. Subclasses are final.

    Args:
        model: What to decode with.
        options: The engine's options; its class is `Options`.
    """

    about: ClassVar[About]
    Options: ClassVar[type[Any]]

    def __init__(self, model: Model, options: Any = None) -> None:
        self.model = model
        self.options = self.Options() if options is None else options

    @abstractmethod
    def begin(self, prompt_ids: Int64[Tensor, " positions"]) -> State:
        """Read the prompt."""

    def generate(
        self,
        prompts: str | Sequence[str] | Int64[Tensor, " positions"],
        *,
        stopping: Stopping | None = None,
        sites: Sequence[str] = (),
        chat: bool = False,
        bos: bool | None = None,
    ) -> list[Generation]:
        """Decode one or several prompts, one after the other.

        Args:
            prompts: Texts, or the token ids of one prompt.
            stopping: When to stop.
            sites: Names or globs of sites whose states are kept; see `Generation.states`.
            chat: Whether each prompt is a user's message, to be put in the model's chat template.
            bos: Whether prompts begin with the beginning-of-sequence token; None for the
                tokenizer's default.

        Raises:
            PromptError: A prompt is empty or too long.
            UnknownSiteError: The model has no such site.
        """
        given = [prompts] if isinstance(prompts, str | Tensor) else list(prompts)
        if not given:
            raise PromptError("Give at least one prompt.")
        found = []
        for prompt in given:
            text, ids = self._encode(prompt, chat=chat, bos=bos)
            run = _Loop(self, text, ids, stopping or Stopping(), tuple(sites))
            for _ in run.tokens():
                pass
            found.append(run.generation())
        return found

    def stream(
        self,
        prompt: str,
        *,
        stopping: Stopping | None = None,
        chat: bool = False,
        bos: bool | None = None,
    ) -> Iterator[Emitted]:
        """Decode one prompt, token by token as they come."""
        text, ids = self._encode(prompt, chat=chat, bos=bos)
        yield from _Loop(self, text, ids, stopping or Stopping(), ()).tokens()

    def _encode(
        self, prompt: str | Tensor, *, chat: bool, bos: bool | None
    ) -> tuple[str, Int64[Tensor, " positions"]]:
        if isinstance(prompt, Tensor):
            has_text = self.model.has_tokenizer
            return (self.model.decode(prompt) if has_text else ""), prompt
        if not chat:
            return prompt, self.model.encode(prompt, bos=bos)
        message = [{"role": "user", "content": prompt}]
        text = self.model.tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        assert isinstance(text, str)
        return text, self.model.encode(text, bos=False)

    def options_as_dict(self) -> dict[str, Any]:
        """The options, ready for JSON."""
        return asdict(self.options)


class _Loop:
    """One generation under way."""

    def __init__(
        self, engine: Engine, text: str, ids: Tensor, stopping: Stopping, sites: tuple[str, ...]
    ) -> None:
        self._engine, self._text, self._ids = engine, text, ids
        self._stopper = Stopper(engine.model, stopping, len(ids))
        self._sites = sites
        self._trace, self._emitted = Trace(), []
        self._reason: StopReason = "interrupted"
        self._captured: dict[str, Tensor] = {}
        self._stats = Stats(n_forward=0, n_emitted=0, seconds=0.0)

    def tokens(self) -> Iterator[Emitted]:
        """Run to the end, handing out tokens as they come."""
        started = time.perf_counter()
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            acts = None
            if self._sites:
                acts = stack.enter_context(capture(self._engine.model, *self._sites))
            state = self._engine.begin(self._ids)
            ended = False
            while not ended:
                step, ended = self._cut(state.step())
                self._trace.steps.append(step)
                yield from step.emitted
            self._stats = Stats(
                n_forward=state.target.n_forward,
                n_emitted=len(self._emitted),
                seconds=time.perf_counter() - started,
            )
            if acts is not None:
                self._captured = self._states(state, acts)

    def generation(self) -> Generation:
        """The finished generation."""
        text = ""
        if self._engine.model.has_tokenizer:
            tokenizer = self._engine.model.tokenizer
            text = str(
                tokenizer.decode(
                    self._emitted, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
            )
            cut = self._stopper.cut(text)
            text = text if cut is None else cut
        return Generation(
            engine=self._engine.about.name,
            prompt=self._text,
            prompt_ids=tuple(self._ids.tolist()),
            token_ids=tuple(self._emitted),
            text=text,
            stop_reason=self._reason,
            stats=self._stats,
            trace=self._trace,
            captured=self._captured,
        )

    def _cut(self, step: Step) -> tuple[Step, bool]:
        """The step up to the token that ends the generation, and whether one does."""
        for number, token in enumerate(step.emitted):
            self._emitted.append(token.id)
            reason = self._stopper.check(self._emitted)
            if reason is not None:
                self._reason = reason
                kept = Step(
                    emitted=step.emitted[: number + 1],
                    nodes=step.nodes,
                    seconds=step.seconds,
                    seconds_draft=step.seconds_draft,
                    seconds_verify=step.seconds_verify,
                )
                return kept, True
        return step, False

    def _states(self, state: State, acts: Capture) -> dict[str, Tensor]:
        """Rows of prompt and text. The last token has not passed the model yet; it does now."""
        n_tokens = len(self._ids) + len(self._emitted)
        missing = torch.tensor(self._emitted)[len(state.target) - len(self._ids) :]
        if len(missing):
            state.target.extend(missing)
        return {name: acts[name][0][:n_tokens].clone() for name in acts}


def describe(logits: Float[Tensor, " d_vocab"], token: int, *, kind: str) -> Emitted:
    """A token with the target's own view of it.

    Args:
        logits: The target's logits at its place, before any processor.
        token: The token emitted.
        kind: How it came about, one of `trace.KINDS`.
    """
    log_probs = logits.float().log_softmax(-1)
    probs = log_probs.exp()
    top = probs.topk(N_CANDIDATES)
    return Emitted(
        id=token,
        kind=kind,
        prob=float(probs[token]),
        entropy=float(-torch.dot(probs, log_probs.clamp(min=-1e4))),
        rank=int((log_probs > log_probs[token]).sum()),
        top_ids=tuple(top.indices.tolist()),
        top_probs=tuple(top.values.tolist()),
    )
