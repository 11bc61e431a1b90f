"""The engine `pearl`: where its draft runs, and how long its windows are."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int64
from torch import Tensor
from transformers import LogitsProcessor

from ...probes import Model
from ...probes.errors import OptionError
from ..acceptance import exact_rule
from ..ahead import Ahead, InlineAhead, ProcessAhead, ThreadAhead
from ..cost import CostCurve
from ..drafters.draft_model import DraftModel, DraftModelOptions, open_draft
from ..engine import About, Engine
from ..errors import DraftError
from ..registry import register
from ..sampling import Sampler
from ..speculative import DRAFT_SEED
from ..target import Target
from ..tree import Law
from .advice import explain
from .rounds import ALONE, PearlState, Round

logger = logging.getLogger(__name__)

Where = Literal["process", "thread", "inline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PearlOptions(DraftModelOptions):
    """Options of `Pearl`; `thrifty` and `keep` change nothing here."""

    max_draft: int = 8
    """Longest window."""
    window: int | None = None
    """Tokens the draft writes per round; None for as many as it writes during one pass of the target,
    by both measured costs. A sampled text then depends on the machine as well as on the seed, its
    distribution does not."""
    where: Where | None = None
    """Where the draft runs: in a second process, in a thread (on a GPU with a stream of its own), or
    inline, the same schedule without concurrency; None for a thread on a GPU, else a process."""
    draft_threads: int = 1
    """Threads of the draft's process. The target keeps those of this one."""

    def __post_init__(self) -> None:
        DraftModelOptions.__post_init__(self)
        if self.window is not None and not 1 <= self.window <= self.max_draft:
            raise OptionError(
                f"window must be from 1 to max_draft ({self.max_draft}), got {self.window}."
            )
        if self.where not in ("process", "thread", "inline", None):
            raise OptionError(f"where must be process, thread or inline, got {self.where!r}.")
        if self.draft_threads < 1:
            raise OptionError(f"draft_threads must be at least 1, got {self.draft_threads}.")


@register
class Pearl(Engine):
    """Draft and target at the same time."""

    about = About(
        name="pearl",
        summary="A small model writes on while the target reads: drafting and verifying at once.",
        paper="2408.11850",
        lossless=True,
        needs="a draft model of the same vocabulary, and a core or GPU to spare for it",
    )
    Options = PearlOptions
    _draft: DraftModel | None = None
    _ahead: Ahead | None = None
    _rounds: list[Round] | None = None

    @property
    def draft(self) -> DraftModel:
        """The draft model."""
        if self._draft is None:
            self._draft = open_draft(self.model, self.options)
        return self._draft

    @property
    def window(self) -> int:
        """Tokens the draft writes per round."""
        if self.options.window is not None:
            return self.options.window
        target, draft = self._curves()
        fitting = [
            n
            for n in range(2, self.options.max_draft + 1)
            if n * draft.seconds(1) <= target.seconds(n)
        ]
        return max(fitting, default=1)

    @property
    def models(self) -> tuple[Model, ...]:
        """The target, and the draft unless it has a process of its own."""
        return (self.model,) if self._where() == "process" else (self.model, self.draft.model)

    @property
    def rounds(self) -> list[Round]:
        """The rounds of the last generation."""
        return self._rounds or []

    def prepare(self) -> None:
        """Measure both models, if the window depends on it, and start the draft."""
        Target(self.model, rolls_back=True)
        if self.options.window is None:
            self._curves()
        self._start()

    def begin(
        self,
        prompt_ids: Int64[Tensor, " positions"],
        *,
        processors: Sequence[LogitsProcessor] = (),
    ) -> PearlState:
        """Read the prompt, the draft at the same time.

        Raises:
            RollBackError: The model's state cannot be cut back.
            OptionError: The rule asked for is not exact for these drafts.
        """
        options = self.options
        law: Law = "point" if self.draft.greedy else "without_replacement"
        greedy = options.temperature == 0
        rule = exact_rule(options.rule, law, greedy=greedy, asker=self.about.name)
        target = Target(self.model, rolls_back=True, cache=options.cache)
        prompt = prompt_ids.to(self.model.device)
        ahead = self._start()
        if ahead is not None and len(prompt):
            try:
                ahead.begin(prompt.tolist(), options.seed + DRAFT_SEED)
            except BaseException as error:
                ahead.close()
                if not isinstance(error, DraftError):
                    raise
                logger.warning(ALONE, error)
                ahead = None
        self._rounds = []
        return PearlState(
            target,
            target.prefill(prompt),
            ahead,
            law=law,
            rule=rule,
            sampler=Sampler(options, self.model.device, processors),
            window=self.window,
            rounds=self._rounds,
        )

    def close(self) -> None:
        """End the draft's process or thread; the next generation starts it again."""
        if self._ahead is not None:
            self._ahead.close()

    def explain(self, acceptance: float | None = None) -> str:
        """Whether PEARL pays here, in words and figures.

        Args:
            acceptance: Chance that a draft token is accepted; None for what the last generation showed.
        """
        if acceptance is None:
            acceptance = self._seen_acceptance()
        target, draft = self._curves()
        return explain(
            acceptance,
            self.window,
            target.seconds(1),
            target.seconds(self.window),
            draft.seconds(1),
        )

    def _seen_acceptance(self) -> float:
        """Share of decided draft tokens that were accepted; rounds of one rejection each."""
        rounds = self.rounds
        written = sum(r.n_written for r in rounds)
        if not written:
            raise OptionError("Nothing was drafted yet; give an acceptance, or decode first.")
        rejections = sum(r.n_wasted > 0 for r in rounds)
        accepted = written - sum(r.n_wasted for r in rounds)
        return accepted / max(accepted + rejections, 1)

    def _start(self) -> Ahead | None:
        """The draft, running; started anew after it was closed. None if it cannot be."""
        if self._ahead is None or self._ahead.closed:
            try:
                ahead = self._make_ahead()
            except DraftError as error:
                logger.warning(ALONE, error)
                return None
            self._ahead = ahead
            weakref.finalize(self, ahead.close)
        return self._ahead

    def _make_ahead(self) -> Ahead:
        where, options = self._where(), self.options
        if where == "process":
            return ProcessAhead(
                self.draft,
                options.max_draft,
                n_threads=options.draft_threads,
                layout=self.layout,
            )
        kind = ThreadAhead if where == "thread" else InlineAhead
        return kind(self.draft, options.max_draft)

    def _curves(self) -> tuple[CostCurve, CostCurve]:
        return self.cost_curve(self.model), self.cost_curve(self.draft.model)

    def _where(self) -> Where:
        if self.options.where is not None:
            return self.options.where
        return "thread" if self.draft.model.device.type == "cuda" else "process"
