"""A generation by PEARL: round by round, both sides at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from ..acceptance import AcceptanceRule
from ..ahead import EMPTY, Ahead, Window
from ..beliefs import Beliefs
from ..errors import DraftError
from ..loop import State
from ..sampling import Sampler
from ..target import Target
from ..trace import Node, Step, describe
from ..tree import ROOT, DraftTree, Law

logger = logging.getLogger(__name__)

ALONE = "PEARL goes on without its draft: %s"


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
        pending = self._pending.first(room - 1)
        asked = self._ask([*self._text, *pending.tokens], room - 1 - len(pending.tokens))
        logits = self.target.feed([self._text[-1], *pending.tokens], range(-1, len(pending.tokens)))
        self.target.wait()
        read = time.perf_counter()
        fresh = self._answer() if asked else EMPTY
        answered = time.perf_counter()
        tree = _chain(pending, fresh, law=self._law)
        beliefs = Beliefs(logits, tree, self._text, self._sampler)
        path, token, whole = self._decide(tree, beliefs, n_read=len(pending.tokens))
        self.target.commit([0, *(node + 1 for node in path)])
        emitted = [*(tree.tokens[node] for node in path), token]
        self._text.extend(emitted)
        self._pending = fresh.behind_first() if whole else EMPTY
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


def _chain(pending: Window, fresh: Window, *, law: Law) -> DraftTree:
    """What is decided about in one round: the pending tokens and the first new one."""
    first = fresh.first(1)
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
