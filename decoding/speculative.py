"""The speculative loop: draft, verify in one pass, accept, commit.

Engines that draft differ in their drafter only. The text is the target's own: token-identical to
plain decoding when greedy, of the same distribution when sampled. Plain decoding is the same loop
with nothing drafted.
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor

from ..probes import Model
from ..probes.errors import OptionError
from .acceptance import RULES, AcceptanceRule, exact_rule
from .beliefs import Beliefs
from .cost import forget_curve
from .drafter import Drafter, NoDrafter, Observation
from .engine import Engine, EngineOptions
from .errors import DraftError, RollBackError
from .loop import State
from .sampling import Sampler
from .target import Target
from .thrift import Thrift
from .trace import Node, Step, describe
from .tree import ROOT, DraftTree
from .treecheck import branching_fault

logger = logging.getLogger(__name__)

DRAFT_SEED = 0x5EED0000
"""Added to the seed for a drafter's own draws, which must not be the target's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculativeOptions(EngineOptions):
    """What all drafting engines can be told."""

    max_draft: int = 32
    """At most this many drafted tokens per step."""
    thrifty: bool = True
    """Whether drafts of chosen tokens are cut to what pays on this machine, by the target's measured
    cost and the acceptance so far, and drafting rests for a while where it does not pay at all."""
    rule: str | None = None
    """Acceptance rule by name; None for the one that accepts most among those that are exact."""
    keep: bool = True
    """Whether what was learned from one prompt serves the engine's next ones."""

    def __post_init__(self) -> None:
        EngineOptions.__post_init__(self)
        if self.max_draft < 1:
            raise OptionError(f"max_draft must be at least 1, got {self.max_draft}.")
        if self.rule is not None and self.rule not in RULES:
            raise OptionError(f"rule must be one of {', '.join(RULES)}, got {self.rule!r}.")


class SpeculativeState(State):
    """One generation under way.

    Args:
        target: Holds the prompt.
        logits: Its logits after the last tokens of the prompt.
        drafter: Begins with the prompt here.
        rule: How drafts are accepted.
        sampler: How tokens are chosen.
        max_draft: At most this many drafted tokens per step.
        thrift: Cuts drafts to what pays; None to verify all of them.
    """

    def __init__(
        self,
        target: Target,
        logits: Float[Tensor, "kept d_vocab"],
        drafter: Drafter,
        *,
        rule: AcceptanceRule,
        sampler: Sampler,
        max_draft: int,
        thrift: Thrift | None,
    ) -> None:
        self.target = target
        self._drafter, self._rule, self._sampler = drafter, rule, sampler
        self._max_draft, self._thrift = max_draft, thrift
        self._text = list(target.ids)
        self._first: Tensor | None = logits[-1:]
        self.n_faults = 0
        self._guarded(lambda: drafter.begin(target.ids, logits))
        if self.n_faults:
            self._drafter = NoDrafter()

    def step(self, room: int) -> Step:
        """Emit at least one token."""
        started = time.perf_counter()
        if self._first is not None:
            return self._from_prompt(self._first, started)
        budget = min(self._max_draft, room - 1)
        rests = budget < 1 or (self._thrift is not None and self._thrift.rests())
        whole = DraftTree() if rests else self._propose(budget)
        tree = whole if self._thrift is None else self._thrift.trim(whole)
        drafted = time.perf_counter()
        n_recordings = self.target.n_recordings
        logits = self.target.feed(
            [self._text[-1], *tree.tokens], [-1, *(parent + 1 for parent in tree.parents)]
        )
        self.target.wait()
        verified = time.perf_counter()
        beliefs = Beliefs(logits, tree, self._text, self._sampler)
        path, token = self._rule.verify(tree, beliefs)
        self.target.commit([0, *(node + 1 for node in path)])
        emitted = [*(tree.tokens[node] for node in path), token]
        self._learn(Observation(self._text, tree, path, emitted, beliefs), whole)
        self._text.extend(emitted)
        step = _record(beliefs, path, token, (started, drafted, verified))
        recorded = self.target.n_recordings > n_recordings  # once, and no measure of what follows
        if self._thrift is not None and not rests and not recorded:
            self._thrift.settle(len(tree), len(emitted), step.seconds_draft, step.seconds_verify)
        return step

    def end(self) -> None:
        """Let the drafter know."""
        self._guarded(self._drafter.end)

    def _from_prompt(self, logits: Tensor, started: float) -> Step:
        """The first token comes from the prompt's own pass."""
        self._first = None
        beliefs = Beliefs(logits, DraftTree(), self._text, self._sampler)
        token = beliefs.choice(ROOT)
        self._text.append(token)
        return _record(beliefs, [], token, (started, started, started))

    def _propose(self, budget: int) -> DraftTree:
        tree = DraftTree()

        def propose() -> None:
            nonlocal tree
            made = self._drafter.propose(self._text, budget)
            made.check(self.target.model.d_vocab)
            self._keeps_its_word(made, budget)
            tree = made

        self._guarded(propose)
        return tree

    def _keeps_its_word(self, made: DraftTree, budget: int) -> None:
        drafter = self._drafter
        if len(made) > budget:
            raise DraftError(f"A draft may have {budget} tokens here, got {len(made)}.")
        if len(made) and made.law != drafter.law:
            raise DraftError(
                f"Drafts must be {drafter.law}, as their drafter says, got {made.law}."
            )
        if not (drafter.branches or made.is_chain):
            raise DraftError("The draft branches; its drafter says that its drafts do not.")

    def _learn(self, seen: Observation, whole: DraftTree) -> None:
        if self._thrift is not None:
            self._thrift.observe(whole, seen.emitted)
        self._guarded(lambda: self._drafter.observe(seen))

    def _guarded(self, act: Callable[[], None]) -> None:
        """Run a drafter's part; what it raises costs speed, never text."""
        try:
            act()
        except Exception as error:  # a drafter may be anybody's
            self.n_faults += 1
            if self.n_faults == 1:
                name = type(self._drafter).__name__
                logger.warning("%s failed and is passed over: %s", name, error, exc_info=error)


class Speculative(Engine):
    """An engine that drafts. A subclass says with what."""

    Options: ClassVar[type[Any]] = SpeculativeOptions
    _learned: Drafter | None = None
    _thrift: Thrift | None = None
    _remeasured: bool = False
    """Whether the cost curve was found wrong once; a machine too busy to measure is not asked again."""

    @abstractmethod
    def make_drafter(self) -> Drafter:
        """A drafter that knows nothing yet."""

    @property
    def drafter(self) -> Drafter:
        """The drafter that serves this engine's prompts, with what it learned."""
        if self._learned is None:
            self._learned = self.make_drafter()
        return self._learned

    def prepare(self) -> None:
        """Check that the model can read these drafts, and measure what its passes cost.

        Raises:
            RollBackError: The model cannot forget, or cannot read a branching draft.
        """
        if self.drafter.branches and (fault := branching_fault(self.model)):
            raise RollBackError(f"{self.about.name!r} drafts trees, but {fault}")
        if self.options.thrifty:
            if self._thrift is not None and self._thrift.misjudges and not self._remeasured:
                forget_curve(self.model, self.layout, self.cache)
                self._thrift, self._remeasured = None, True
            self.cost_curve(self.model)

    @property
    def models(self) -> tuple[Model, ...]:
        """The target, and what the drafter drafts with."""
        return (self.model, *self.drafter.models)

    def begin(
        self,
        prompt_ids: Int64[Tensor, " positions"],
        *,
        processors: Sequence[LogitsProcessor] = (),
    ) -> SpeculativeState:
        """Read the prompt.

        Raises:
            RollBackError: The model's state cannot be cut back.
            OptionError: The rule asked for is not exact for these drafts.
        """
        options = self.options
        drafter = self.drafter
        rule = self._rule(drafter)
        if not options.keep:
            drafter.forget()
            self._thrift = None
        if options.thrifty and self._thrift is None:
            self._thrift = Thrift(self.cost_curve(self.model).seconds)
        drafter.reseed(options.seed + DRAFT_SEED)
        target = Target(self.model, rolls_back=True, cache=options.cache)
        logits = target.prefill(prompt_ids, keep=max(1, drafter.prompt_rows))
        return SpeculativeState(
            target,
            logits,
            drafter,
            rule=rule,
            sampler=Sampler(options, self.model.device, processors),
            max_draft=options.max_draft,
            thrift=self._thrift if options.thrifty else None,
        )

    def _rule(self, drafter: Drafter) -> AcceptanceRule:
        greedy = self.options.temperature == 0
        return exact_rule(self.options.rule, drafter.law, greedy=greedy, asker=self.about.name)


def _record(
    beliefs: Beliefs, path: Sequence[int], token: int, times: tuple[float, float, float]
) -> Step:
    """The step's row in the trace; probabilities are the target's own, before any processor."""
    tree = beliefs.tree
    at = [ROOT, *path]
    last = "correction" if at[-1] in tree.children else "bonus" if path else "plain"
    emitted = describe(
        beliefs.logits[[node + 1 for node in at]].float().log_softmax(-1),
        [*(tree.tokens[node] for node in path), token],
        kinds=[*["accepted"] * len(path), last],
    )
    started, drafted, verified = times
    return Step(
        emitted=emitted,
        nodes=_nodes(beliefs, set(path)) if len(tree) else (),
        seconds=time.perf_counter() - started,
        seconds_draft=drafted - started,
        seconds_verify=verified - drafted,
    )


def _nodes(beliefs: Beliefs, accepted: set[int]) -> tuple[Node, ...]:
    tree = beliefs.tree
    probs = beliefs.log_prob(tree.parents, tree.tokens).exp().tolist()
    entropies = beliefs.entropies[1:].tolist()
    return tuple(
        Node(
            token=tree.tokens[n],
            parent=tree.parents[n],
            depth=tree.depths[n],
            draft_prob=tree.confidence[n],
            target_prob=probs[n],
            entropy=entropies[n],
            accepted=n in accepted,
            source=tree.source(n),
        )
        for n in range(len(tree))
    )
