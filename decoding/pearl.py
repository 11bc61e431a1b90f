"""PEARL (2408.11850): the draft writes while the target reads; neither waits for the other.

Every round runs both at once. The target reads what is pending, one row per token, and the draft writes
`window` more tokens behind it. *Pre-verify*: nothing is pending but the newest token of the text, and
its row decides about the first token of the new window, before any of them was read. *Post-verify*: the
rows of the pending tokens decide about them and about the first new one. If all pass, the rest of the
window is pending and the next round is a post-verify; else the target's own token follows, both drop
the rest, and the next round is a pre-verify. The first token of a window thus becomes text before the
target reads it: it is an accepted token of the trace, and among the step's nodes are those read only.

A round takes the longer of the two; a text of acceptance a gets
(1 / (1 - a)) / (1 + a / (1 - a^window)) tokens per pass of the target. It pays where draft and target
share no processor: on two GPUs, or on cores that the target leaves idle. See `Pearl.explain`.

Deviations from the published code: one side decides and tells the other (there both draw from
re-seeded generators, and the first test of a post-verify round reuses the uniform of the round before:
off by up to 0.08 in total variation for pairs of tokens); token ids travel as integers; nothing
unverified is returned at the end; where rounding leaves no residual, the target's law is drawn from.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import LogitsProcessor

from ..probes import Model
from ..probes.errors import OptionError
from .acceptance import AcceptanceRule, exact_rule
from .ahead import EMPTY, Ahead, InlineAhead, ProcessAhead, ThreadAhead, Window
from .beliefs import Beliefs
from .cost import CostCurve, cost_curve
from .drafters.draft_model import DraftModel, DraftModelOptions, open_draft
from .engine import About, Engine, State, describe
from .errors import DraftError
from .registry import register
from .sampling import Sampler
from .speculative import DRAFT_SEED
from .target import Target
from .trace import Node, Step
from .tree import ROOT, DraftTree, Law

logger = logging.getLogger(__name__)

ALONE = "PEARL goes on without its draft: %s"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round did, for the timeline."""

    mode: Literal["pre-verify", "post-verify"]
    n_read: int
    """Rows the target read."""
    n_written: int
    """Tokens the draft wrote meanwhile."""
    n_wasted: int
    """Pending and new tokens that a rejection dropped."""
    seconds_target: float
    seconds_draft: float
    """The draft's own time; overlaps the target's."""
    seconds_waited: float
    """How long the target waited for the draft afterwards."""


class PearlState(State):
    """One generation under way.

    Args:
        target: Holds the prompt.
        logits: Its logits after the prompt.
        ahead: The draft; None if it could not be started.
        law: How the draft chooses its tokens.
        rule: How drafts are accepted.
        sampler: How tokens are chosen.
        window: Tokens the draft writes per round.
        rounds: Takes one entry per round.
    """

    def __init__(
        self,
        target: Target,
        logits: Float[Tensor, "1 d_vocab"],
        ahead: Ahead | None,
        *,
        law: Law,
        rule: AcceptanceRule,
        sampler: Sampler,
        window: int,
        rounds: list[Round],
    ) -> None:
        self.target = target
        self._ahead, self._rule, self._sampler = ahead, rule, sampler
        self._law: Law = law
        self._window, self._rounds = window, rounds
        self._text = list(target.ids)
        self._first: Tensor | None = logits
        self._pending = EMPTY
        self.n_faults = int(ahead is None)

    def step(self, room: int) -> Step:
        """One round; emits at least one token."""
        started = time.perf_counter()
        if self._first is not None:
            beliefs = Beliefs(self._first, DraftTree(), self._text, self._sampler)
            self._first = None
            token = beliefs.choice(ROOT)
            self._text.append(token)
            return _record(beliefs, 0, [], [token], ["plain"], (started, started, started))
        pending = _cut(self._pending, room - 1)
        asked = self._ask([*self._text, *pending.tokens], room - 1 - len(pending.tokens))
        logits = self.target.feed([self._text[-1], *pending.tokens], range(-1, len(pending.tokens)))
        if logits.device.type == "cuda":
            torch.cuda.current_stream(logits.device).synchronize()
        read = time.perf_counter()
        fresh = self._answer() if asked else EMPTY
        answered = time.perf_counter()
        tree = _chain(pending, fresh, law=self._law)
        beliefs = Beliefs(logits, tree, self._text, self._sampler)
        path, token, whole = self._decide(tree, beliefs, n_read=len(pending.tokens))
        self.target.commit([0, *(node + 1 for node in path)])
        emitted = [*(tree.tokens[node] for node in path), token]
        self._text.extend(emitted)
        self._pending = _behind_first(fresh) if whole else EMPTY
        dropped = 0 if whole else len(pending.tokens) - len(path) + len(fresh.tokens)
        self._rounds.append(
            Round(
                mode="post-verify" if pending.tokens else "pre-verify",
                n_read=1 + len(pending.tokens),
                n_written=len(fresh.tokens),
                n_wasted=dropped,
                seconds_target=read - started,
                seconds_draft=fresh.seconds,
                seconds_waited=answered - read,
            )
        )
        refused = (path[-1] if path else ROOT) in tree.children
        last = "accepted" if whole else "correction" if refused else "bonus" if path else "plain"
        kinds = [*["accepted"] * len(path), last]
        return _record(
            beliefs, len(pending.tokens), path, emitted, kinds, (started, read, answered)
        )

    def _decide(
        self, tree: DraftTree, beliefs: Beliefs, *, n_read: int
    ) -> tuple[list[int], int, bool]:
        """Accepted nodes among those read, the token after them, and whether it opens a new window."""
        path: list[int] = []
        node = ROOT
        while True:
            siblings = tree.children.get(node, [])
            accepted, token = self._rule.choose(tree, node, siblings, beliefs)
            if accepted is None or accepted == n_read:
                return path, token, accepted is not None
            path.append(accepted)
            node = accepted

    def _ask(self, text: Sequence[int], room: int) -> bool:
        if self._ahead is None or room < 1:
            return False
        try:
            self._ahead.ask(text, min(self._window, room))
        except DraftError as error:
            self._give_up(error)
        except BaseException:
            self._break_off()
            raise
        return self._ahead is not None

    def _answer(self) -> Window:
        assert self._ahead is not None
        try:
            window = self._ahead.answer()
            fine = all(0 <= token < self.target.model.d_vocab for token in window.tokens)
            if not fine:
                raise DraftError("The draft wrote a token that is not in the vocabulary.")
        except DraftError as error:
            self._give_up(error)
            return EMPTY
        except BaseException:
            self._break_off()
            raise
        return window

    def _give_up(self, error: DraftError) -> None:
        """Without a draft the text goes on plainly; what is pending can still be read."""
        self.n_faults += 1
        logger.warning(ALONE, error)
        self._break_off()

    def _break_off(self) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = None


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
        target = Target(self.model, rolls_back=True)
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
        return cost_curve(self.model, self.layout), cost_curve(self.draft.model, self.layout)

    def _where(self) -> Where:
        if self.options.where is not None:
            return self.options.where
        return "thread" if self.draft.model.device.type == "cuda" else "process"


def tokens_per_pass(acceptance: float, window: int) -> float:
    """Tokens per pass of the target, if every draft token is accepted with the same chance.

    (1 / (1 - a)) / (1 + a / (1 - a^window)), from the state machine; `window` for a = 1.
    """
    if acceptance >= 1:
        return float(window)
    return 1 / (1 - acceptance) / (1 + acceptance / (1 - acceptance**window))


def explain(acceptance: float, window: int, plain_s: float, round_s: float, draft_s: float) -> str:
    """Whether PEARL pays, in words and figures, with draft and target on processors of their own.

    Args:
        acceptance: Chance that a draft token is accepted.
        window: Tokens written per round.
        plain_s: Seconds of a target's pass over one row.
        round_s: Of one over `window` rows.
        draft_s: Of a draft's pass.
    """
    per_round = tokens_per_pass(acceptance, window)
    pearl = per_round / max(round_s, window * draft_s)
    vanilla_s = window * draft_s + round_s
    vanilla = (
        (1 - acceptance ** (window + 1)) / (1 - acceptance) if acceptance < 1 else window + 1.0
    ) / vanilla_s
    verdict = "pays" if pearl > max(vanilla, 1 / plain_s) else "does not pay"
    return (
        f"At an acceptance of {acceptance:.0%} and windows of {window}, PEARL {verdict} here: "
        f"{per_round:.2f} tokens per pass and {pearl:.1f} tokens/s, against {1 / plain_s:.1f} for "
        f"plain decoding and {vanilla:.1f} for drafting and verifying in turn. This takes draft and "
        "target to run side by side undisturbed; where they share cores, memory bandwidth or one GPU, "
        "expect less."
    )


def _cut(window: Window, length: int) -> Window:
    """Its first tokens; how many never depends on which they are."""
    n = max(min(length, len(window.tokens)), 0)
    rows = None if window.rows is None else window.rows[:n]
    return Window(window.tokens[:n], window.trust[:n], rows, window.seconds)


def _behind_first(window: Window) -> Window:
    rows = None if window.rows is None else window.rows[1:]
    return Window(window.tokens[1:], window.trust[1:], rows, window.seconds)


def _chain(pending: Window, fresh: Window, *, law: Law) -> DraftTree:
    """What is decided about in one round: the pending tokens and the first new one."""
    first = _cut(fresh, 1)
    tokens = [*pending.tokens, *first.tokens]
    rows = [*_rows(pending), *_rows(first)]
    return DraftTree(
        tuple(tokens),
        tuple(range(-1, len(tokens) - 1)),
        (*pending.trust, *first.trust),
        law=law,
        proposals={} if law == "point" else dict(enumerate(rows, start=-1)),
        sources=("draft-model",) * len(tokens),
    )


def _rows(window: Window) -> list[Tensor]:
    return [] if window.rows is None else list(window.rows)


def _record(
    beliefs: Beliefs,
    n_read: int,
    path: Sequence[int],
    emitted: Sequence[int],
    kinds: Sequence[str],
    times: tuple[float, float, float],
) -> Step:
    """The step's row in the trace; nodes are the tokens that the target read."""
    tree, rows = beliefs.tree, [0, *(node + 1 for node in path)]
    probs = beliefs.log_prob(tree.parents[:n_read], tree.tokens[:n_read]).exp().tolist()
    entropies = beliefs.entropies.tolist() if n_read else []
    started, read, answered = times
    return Step(
        emitted=describe(beliefs.logits[rows].float().log_softmax(-1), emitted, kinds=kinds),
        nodes=tuple(
            Node(
                token=tree.tokens[n],
                parent=tree.parents[n],
                depth=n + 1,
                draft_prob=tree.confidence[n],
                target_prob=probs[n],
                entropy=entropies[n + 1],
                accepted=n in path,
                source=tree.source(n),
            )
            for n in range(n_read)
        ),
        seconds=time.perf_counter() - started,
        seconds_draft=answered - read,
        seconds_verify=read - started,
    )
