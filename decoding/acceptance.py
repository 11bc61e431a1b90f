"""Acceptance rules: which drafted tokens become text, and which token the target adds.

A rule walks down from the root. All of them are lossless: what is emitted is distributed as plain
decoding would have it, whatever was drafted, as long as the tree's `law` says truly how siblings came
about. Deciding whether another sibling is drawn may depend on everything but that sibling itself.

Match: 2304.04487 and others (exact match); SpeculativeSampling and RecursiveRejection: 2211.17192,
2302.01318, 2305.09781, 2402.14160; ended uniformly 2402.12374; KSequence: 2310.15141.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.errors import OptionError
from .beliefs import Beliefs
from .errors import DraftError
from .tree import ROOT, DraftTree, Law, Proposal, SparseProbs

TINY = 1e-12


class Verdict(NamedTuple):
    """What a rule decided about one draft."""

    path: list[int]
    """Accepted nodes, from the first level down."""
    token: int
    """The token after them, the target's own."""


class AcceptanceRule(ABC):
    """Decides about a draft. Rules keep nothing between drafts."""

    name: ClassVar[str]
    laws: ClassVar[frozenset[Law]]
    """Kinds of drafts that the rule is exact for."""

    def verify(self, tree: DraftTree, beliefs: Beliefs) -> Verdict:
        """The accepted path and the token after it.

        Raises:
            DraftError: The rule is not exact for drafts made as this one was.
        """
        if len(tree) and tree.law not in self.laws:
            raise DraftError(
                f"The rule {self.name!r} is exact for drafts that are {', '.join(sorted(self.laws))}, "
                f"not {tree.law}."
            )
        path: list[int] = []
        node = ROOT
        while True:
            siblings = tree.children.get(node, [])
            accepted, token = self.choose(tree, node, siblings, beliefs)
            if accepted is None:
                return Verdict(path, token)
            path.append(accepted)
            node = accepted

    @abstractmethod
    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """The child of `node` that is accepted and its token, or None and the target's own token."""


class Match(AcceptanceRule):
    """Let the target choose as in plain decoding; a drafted token is accepted if it is the one.

    Greedy: the child that equals the likeliest token. Sampled: one draw per visited node (never one
    per path, which would be biased), the same draws that plain decoding makes: with equal seeds the
    texts are identical. Exact for every tree that was made without looking at those draws.
    """

    name = "match"
    laws = frozenset({"point", "iid", "without_replacement"})

    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """See `AcceptanceRule`."""
        token = beliefs.choice(node)
        for child in siblings:
            if tree.tokens[child] == token:
                return child, token
        return None, token


class PointMass(AcceptanceRule):
    """Accept chosen siblings one after the other, each with the probability that is left for it.

    Speculative sampling where the draft distribution is a point mass; the law, and the chance of
    acceptance, of `Match` (2406.16858 verifies its top-k trees so).
    """

    name = "point-mass"
    laws = frozenset({"point"})

    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """See `AcceptanceRule`."""
        left = beliefs.probs(node).clone()
        for child in siblings:
            token = tree.tokens[child]
            if beliefs.chance() * float(left.sum()) < float(left[token]):
                return child, token
            left[token] = 0.0
        return None, _emit(left, beliefs, node)


@dataclass(frozen=True)
class RecursiveRejection(AcceptanceRule):
    """Try drawn siblings in the order they were drawn, each against what is left of the target.

    A sibling drawn from q is accepted with probability min(1, p(x) / q(x)); else p becomes
    norm(max(p - q, 0)) and the next one is tried. With one child this is speculative sampling.

    Why it is exact: a step emits x with mass min(p, q)(x) and hands on, with the remaining mass, just
    the normalised rest of p; so whatever happens next emits from the current p, and stopping at any
    sibling, however that was decided before it was drawn, does too.

    Args:
        replacement: Whether siblings were drawn with replacement. Without, what was drawn leaves q.
        uniform_rest: Without replacement: what siblings are drawn from once q is used up, the tokens
            not drawn yet (as in Sequoia), or none.
    """

    replacement: bool = False
    uniform_rest: bool = False

    @property
    def name(self) -> str:  # type: ignore[override]
        """The rule's name."""
        if self.replacement:
            return "recursive-rejection-iid"
        return "sequoia" if self.uniform_rest else "recursive-rejection"

    @property
    def laws(self) -> frozenset[Law]:  # type: ignore[override]
        """What the rule is exact for."""
        return frozenset({"iid"} if self.replacement else {"without_replacement"})

    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """See `AcceptanceRule`."""
        left = beliefs.probs(node)
        if not siblings:
            return None, beliefs.draw(left)
        q = as_row(tree.proposals[node], left)
        for number, child in enumerate(siblings):
            token = tree.tokens[child]
            if not float(q[token]) > 0:
                break  # it cannot have been drawn, so nothing follows from its rejection
            if beliefs.chance() * float(q[token]) < float(left[token]):
                return child, token
            rest = (left - q).clamp_(min=0)
            total = float(rest.sum())
            if total < TINY:
                break
            left = rest / total
            if not self.replacement:
                q = without(q, token)
                mass = float(q.sum())
                if mass >= TINY:
                    q = q / mass
                elif self.uniform_rest:
                    gone = [tree.tokens[done] for done in siblings[: number + 1]]
                    q = uniform_over_rest(q, gone)
                else:
                    break
        return None, _emit(left, beliefs, node)


class KSequence(AcceptanceRule):
    """Accept each of K independently drawn siblings with min(1, p(x) / (rho q(x))) (2310.15141).

    rho in [1, K] solves 1 - (1 - beta)^K = rho beta with beta = sum_x min(q(x), p(x) / rho).
    """

    name = "k-sequence"
    laws = frozenset({"iid"})

    def choose(
        self, tree: DraftTree, node: int, siblings: list[int], beliefs: Beliefs
    ) -> tuple[int | None, int]:
        """See `AcceptanceRule`."""
        p = beliefs.probs(node)
        if not siblings:
            return None, beliefs.draw(p)
        q = as_row(tree.proposals[node], p)
        rho, beta = _solve_rho(p, q, len(siblings))
        for child in siblings:
            token = tree.tokens[child]
            if beliefs.chance() * rho * float(q[token]) < float(p[token]) and float(q[token]) > 0:
                return child, token
        accepted = 1 - (1 - beta) ** len(siblings)
        rest = (p - torch.minimum(q, p / rho) * (accepted / max(beta, TINY))).clamp_(min=0)
        return None, _emit(rest, beliefs, node)


RULES: dict[str, AcceptanceRule] = {
    rule.name: rule
    for rule in (
        Match(),
        PointMass(),
        RecursiveRejection(),
        RecursiveRejection(replacement=True),
        RecursiveRejection(uniform_rest=True),
        KSequence(),
    )
}


def default_rule(law: Law, *, greedy: bool) -> AcceptanceRule:
    """The rule that accepts most of drafts of a law, among those that are exact for it."""
    if greedy or law == "point":
        return RULES["match"]
    return RULES["recursive-rejection-iid" if law == "iid" else "recursive-rejection"]


def exact_rule(name: str | None, law: Law, *, greedy: bool, asker: str) -> AcceptanceRule:
    """The rule of a name, or the default one.

    Args:
        name: What was asked for; None for the default.
        law: Of the drafts.
        greedy: Whether the likeliest token is chosen.
        asker: Engine that asks, for the message.

    Raises:
        OptionError: It is not exact for such drafts.
    """
    if name is None:
        return default_rule(law, greedy=greedy)
    rule = RULES[name]
    if law not in rule.laws:
        fitting = ", ".join(known for known, r in RULES.items() if law in r.laws)
        raise OptionError(
            f"The rule {name!r} is not exact for drafts of {asker!r} ({law}); use one of: {fitting}."
        )
    return rule


def as_row(proposal: Proposal, like: Float[Tensor, " d_vocab"]) -> Float[Tensor, " d_vocab"]:
    """A proposal as a dense row in `like`'s data type."""
    return proposal.dense(like) if isinstance(proposal, SparseProbs) else proposal.to(like)


def without(probs: Float[Tensor, " d_vocab"], token: int) -> Float[Tensor, " d_vocab"]:
    """A copy with one token's probability zero; not renormalised."""
    found = probs.clone()
    found[token] = 0.0
    return found


def uniform_over_rest(like: Float[Tensor, " d_vocab"], gone: list[int]) -> Tensor:
    """Equal probabilities for all tokens but those that were drawn."""
    row = torch.ones_like(like)
    row[gone] = 0.0
    return row / row.sum().clamp(min=1.0)


def _emit(left: Float[Tensor, " d_vocab"], beliefs: Beliefs, node: int) -> int:
    """A token of what is left; of the whole where rounding left nothing (it then never happens)."""
    return beliefs.draw(left if float(left.sum()) >= TINY else beliefs.probs(node))


def _solve_rho(p: Tensor, q: Tensor, k: int) -> tuple[float, float]:
    low, high = 1.0, float(k)
    beta = 0.0
    for _ in range(60):
        rho = (low + high) / 2
        beta = float(torch.minimum(q, p / rho).sum())
        if 1 - (1 - beta) ** k > rho * beta:
            low = rho
        else:
            high = rho
    return (low + high) / 2, beta
