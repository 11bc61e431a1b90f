"""Engines: a loop around a target, of which every paper changes a part.

An engine says what a step is: `begin` reads the prompt, `State.step` emits at least one token. The one
loop that runs the steps, stops, times, traces and captures is in `loop.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import LogitsProcessor

from ..probes import Model
from ..probes.capture import unobserved
from ..probes.errors import OptionError
from .cost import CostCurve, choose_layout, cost_curve
from .generation import Generation
from .graphs import require_recordable
from .layout import LAYOUTS, Layout, laid_out
from .loop import Loop, State
from .prompts import Prompt, encoded, listed
from .sampling import SamplingOptions
from .stopping import Stopping
from .target import CACHES, CacheKind
from .trace import Emitted
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
    """How keys and values lie: growing with the text; static, in buffers of one size, so that every
    pass over as many rows has the same shapes; or graph, static and with passes recorded as CUDA graphs
    and replayed, which small models on a GPU gain most from."""

    def __post_init__(self) -> None:
        SamplingOptions.__post_init__(self)
        if self.layout not in ("auto", *LAYOUTS):
            raise OptionError(
                f"layout must be one of auto, {', '.join(LAYOUTS)}, got {self.layout!r}."
            )
        if self.cache not in CACHES:
            raise OptionError(f"cache must be one of {', '.join(CACHES)}, got {self.cache!r}.")


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
    def cache(self) -> CacheKind:
        """How keys and values lie; see `EngineOptions`."""
        return getattr(self.options, "cache", "growing")

    def cost_curve(self, model: Model) -> CostCurve:
        """What passes of the target or a draft cost as this engine runs them; see `cost`."""
        return cost_curve(model, self.layout, self.cache)

    @property
    def lossless(self) -> bool:
        """Whether its text is plain decoding's with the options given."""
        return self.about.lossless

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
        if self.cache == "growing":
            return
        if self.cache == "graph":
            for model in self.models:
                require_recordable(model)
        fault = branching_fault(self.model)
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
        prompts: Prompt | Sequence[Prompt],
        *,
        stopping: Stopping | None = None,
        sites: Sequence[str] = (),
        chat: bool = False,
        bos: bool | None = None,
    ) -> list[Generation]:
        """Decode one or several prompts, one after the other.

        Args:
            prompts: Texts or rows of token ids. All are checked before the first one is decoded.
            stopping: When to stop.
            sites: Names or globs of sites whose states are kept; see `Generation.states`.
            chat: Whether each prompt is a user's message, to be put in the model's chat template.
            bos: Whether prompts begin with the beginning-of-sequence token; None for the
                tokenizer's default.

        Raises:
            PromptError: A prompt is empty or too long, or no prompt.
            OptionError: There is no chat template.
            UnknownSiteError: The model has no such site.
        """
        given = [encoded(self.model, one, chat=chat, bos=bos) for one in listed(prompts)]
        found = []
        for text, ids in given:
            run = self._loop(text, ids, stopping, (sites,) if isinstance(sites, str) else sites)
            for _ in run.tokens():
                pass
            found.append(run.generation())
        return found

    def stream(
        self,
        prompt: Prompt,
        *,
        stopping: Stopping | None = None,
        chat: bool = False,
        bos: bool | None = None,
    ) -> Iterator[Emitted]:
        """Decode one prompt, token by token as they come."""
        text, ids = encoded(self.model, prompt, chat=chat, bos=bos)
        yield from self._loop(text, ids, stopping).tokens()

    def encode(
        self, prompt: Prompt, *, chat: bool = False, bos: bool | None = None
    ) -> Int64[Tensor, " positions"]:
        """The token ids that a prompt is decoded from.

        Raises:
            PromptError: It is empty or too long.
            OptionError: There is no chat template.
        """
        return encoded(self.model, prompt, chat=chat, bos=bos)[1]

    def _loop(
        self, text: str, ids: Tensor, stopping: Stopping | None, sites: Sequence[str] = ()
    ) -> Loop:
        return Loop(
            self.model,
            self.about.name,
            ready=self.ready,
            begin=self.begin,
            text=text,
            ids=ids,
            stopping=stopping or Stopping(),
            sites=sites,
        )

    def options_as_dict(self) -> dict[str, Any]:
        """The options, ready for JSON; what JSON cannot hold, such as an opened model, by its name."""
        values = {field.name: getattr(self.options, field.name) for field in fields(self.options)}
        plain = (str, int, float, bool, list, tuple, dict, type(None))
        return {
            k: v if isinstance(v, plain) else getattr(v, "name", repr(v)) for k, v in values.items()
        }
