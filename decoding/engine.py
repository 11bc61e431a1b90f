"""Engines: a loop around a target, of which every paper changes a part.

The one loop is here: it runs an engine's steps, stops, times, traces and captures. An engine says
what a step is: `begin` reads the prompt, `step` emits at least one token.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor

from ..probes import Capture, Model, capture
from ..probes.capture import unobserved
from ..probes.errors import OptionError
from .cost import choose_layout
from .errors import PromptError
from .generation import Generation, Stats
from .layout import LAYOUTS, Layout, laid_out
from .rowlog import RowLog
from .sampling import SamplingOptions
from .stopping import Stopper, Stopping, StopReason
from .target import CACHES, CacheKind, Target
from .trace import N_CANDIDATES, Emitted, Step, Trace
from .treecheck import branching_fault


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


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions(SamplingOptions):
    """What all engines can be told."""

    layout: Literal["auto", "plain", "packed", "bf16"] = "auto"
    """How weights lie in memory while decoding: as they are, packed for a few rows, packed and rounded
    to bfloat16 (another text), or, with auto, whichever of the first two was measured to be faster."""
    cache: CacheKind = "growing"
    """How keys and values lie: growing with the text, or static, in buffers of one size, so that every
    pass over as many rows has the same shapes, as compiled code and CUDA graphs need."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        if self.layout not in ("auto", *LAYOUTS):
            raise OptionError(
                f"layout must be one of auto, {', '.join(LAYOUTS)}, got {self.layout!r}."
            )
        if self.cache not in CACHES:
            raise OptionError(f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}.")


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

    def prepare(self) -> None:
        """Whatever runs the model once for other reasons than the text, such as measuring it.

        Called before a generation; no capture sees these passes.
        """

    @property
    def layout(self) -> Layout:
        """How weights lie in memory while decoding; see `EngineOptions`."""
        wanted: Literal["auto"] | Layout = getattr(self.options, "layout", "plain")
        return choose_layout(self.model) if wanted == "auto" else wanted

    @property
    def models(self) -> tuple[Model, ...]:
        """The models whose passes decoding takes: the target, and a draft if there is one."""
        return (self.model,)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Measured, checked and laid out inside the block; the models are as before after it."""
        with torch.inference_mode(), unobserved(self.model):
            self._check_cache()
            layout = self.layout
            self.prepare()
        with ExitStack() as stack:
            for model in self.models:
                stack.enter_context(laid_out(model.module, layout))
            yield

    def _check_cache(self) -> None:
        fault = branching_fault(self.model) if self.options.cache == "static" else None
        if fault is not None:
            raise OptionError(
                f"A static cache needs masks of our own. {fault} Use cache='growing'."
            )

    @abstractmethod
    def begin(
        self,
        prompt_ids: Int64[Tensor, " positions"],
        *,
        processors: Sequence[LogitsProcessor] = (),
    ) -> State:
        """Read the prompt.

        Args:
            prompt_ids: Its tokens.
            processors: More logits processors, run before temperature and truncation.
        """

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
            run = _Loop(self, text, ids, stopping or Stopping(), sites=tuple(sites))
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
        yield from _Loop(self, text, ids, stopping or Stopping()).tokens()

    def encode(
        self, prompt: str, *, chat: bool = False, bos: bool | None = None
    ) -> Int64[Tensor, " positions"]:
        """The token ids that a prompt is decoded from."""
        return self._encode(prompt, chat=chat, bos=bos)[1]

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
        """The options, ready for JSON; what JSON cannot hold, such as an opened model, by its name."""
        values = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        plain = (str, int, float, bool, list, tuple, dict, type(None))
        return {
            k: v if isinstance(v, plain) else getattr(v, "name", repr(v)) for k, v in values.items()
        }


class _Loop:
    """One generation under way."""

    def __init__(
        self,
        engine: Engine,
        text: str,
        ids: Tensor,
        stopping: Stopping,
        *,
        sites: tuple[str, ...] = (),
        processors: Sequence[LogitsProcessor] = (),
    ) -> None:
        self._engine, self._text, self._ids = engine, text, ids
        self._processors = processors
        self._stopper = Stopper(engine.model, stopping, len(ids))
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
            stack.enter_context(self._engine.ready())
            started = time.perf_counter()
            acts = None
            if self._sites:
                acts = stack.enter_context(capture(self._engine.model, *self._sites))
            with torch.inference_mode():
                state = self._engine.begin(self._ids, processors=self._processors)
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


def describe(
    log_probs: Float[Tensor, "n d_vocab"], tokens: Sequence[int], *, kinds: Sequence[str]
) -> tuple[Emitted, ...]:
    """Tokens with the target's own view of them.

    Args:
        log_probs: The target's log-probabilities at their places, before any processor.
        tokens: The tokens emitted.
        kinds: How they came about, each one of `trace.KINDS`.
    """
    probs = log_probs.exp()
    top = probs.topk(min(N_CANDIDATES, probs.shape[-1]))
    own = log_probs[range(len(tokens)), list(tokens)]
    rank = (log_probs > own[:, None]).sum(-1)
    columns = zip(
        tokens,
        kinds,
        own.exp().tolist(),
        torch.special.entr(probs).sum(-1).tolist(),
        rank.tolist(),
        top.indices.tolist(),
        top.values.tolist(),
        strict=True,
    )
    return tuple(
        Emitted(
            id=token,
            kind=kind,
            prob=prob,
            entropy=nats,
            rank=place,
            top_ids=tuple(top_ids),
            top_probs=tuple(top_probs),
        )
        for token, kind, prob, nats, place, top_ids, top_probs in columns
    )
