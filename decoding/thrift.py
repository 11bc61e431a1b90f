"""How much of a draft is worth verifying.

Every row that passes the target costs time and pays only if it is accepted. Thrift keeps the part of a
tree that gives most tokens per second: it corrects the drafter's confidence by what was accepted of
late, and weighs it against the target's own cost curve, which it corrects by what passes took of late
(a curve measured beside other work is too flat). The idea of choosing size by measured cost is
Sequoia's (2402.12374); the calibrations are ours.

Drafting itself takes time too. Where steps with drafts gave fewer tokens per second of late than
plain decoding would have, drafting rests, for longer every time it is found not to pay, and is tried
again for a few steps in between; so a drafter that never pays costs next to nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

from .tree import ROOT, DraftTree

N_BINS = 10
PRIOR = 6.0
"""Observations that the drafter's own word counts for."""
DECAY = 0.98
"""What an observation still counts for after the next one in its bin."""
TRIAL, MEMORY = 12, 0.95
"""Steps after which drafting is judged, and what a step still counts for after the next one."""
WORTHWHILE = 0.98
"""Tokens per plain pass's time from which on drafting goes on; a little below one, since a drafter that
finds nothing for a while costs little."""
SHORTEST_REST, LONGEST_REST = 16, 128
"""Steps that drafting rests: the first time, and at most."""
MISJUDGED, N_JUDGED = 2.0, 16
"""A cost curve is wrong if it is off by this factor more at one size than at another, each measured at
least this often."""
PRIOR_PASSES = 2.0
"""Passes that the correction of all sizes counts for in that of one."""


class Calibration:
    """How often drafted tokens are accepted, by source and confidence.

    A bin starts from the drafter's own word and moves to what is observed; old observations fade.
    """

    def __init__(self) -> None:
        self._accepted: dict[tuple[str, int], float] = defaultdict(float)
        self._seen: dict[tuple[str, int], float] = defaultdict(float)

    def probability(self, source: str, confidence: float) -> float:
        """Chance that a node is accepted once its parent is."""
        key = _bin(source, confidence)
        return (self._accepted[key] + PRIOR * confidence) / (self._seen[key] + PRIOR)

    def observe(self, source: str, confidence: float, *, accepted: bool) -> None:
        """A node whose parent is text was, or was not, the next token."""
        key = _bin(source, confidence)
        self._accepted[key] = DECAY * self._accepted[key] + accepted
        self._seen[key] = DECAY * self._seen[key] + 1.0


class PassCosts:
    """What passes cost here and now: a curve, corrected by what passes of about that size took.

    Args:
        curve: Seconds of a pass over so many rows, measured once.
    """

    def __init__(self, curve: Callable[[int], float]) -> None:
        self._curve = curve
        self._overall = (0, 0.0)
        self._by_size: dict[int, tuple[int, float]] = {}

    def seconds(self, rows: int) -> float:
        """Seconds of a pass over so many rows."""
        n, off = self._by_size.get(rows.bit_length(), (0, 0.0))
        correction = (n * off + PRIOR_PASSES * self._overall[1]) / (n + PRIOR_PASSES)
        return self._curve(rows) * math.exp(correction)

    def observe(self, rows: int, seconds: float) -> None:
        """A pass took so long."""
        log_ratio = math.log(seconds / self._curve(rows))
        self._overall = _moved(self._overall, log_ratio)
        size = rows.bit_length()
        self._by_size[size] = _moved(self._by_size.get(size, (0, 0.0)), log_ratio)

    @property
    def misjudged(self) -> bool:
        """Whether passes of different sizes differ otherwise than the curve says."""
        known = [off for n, off in self._by_size.values() if n >= N_JUDGED]
        return len(known) > 1 and max(known) - min(known) > math.log(MISJUDGED)


class Thrift:
    """Cuts trees of chosen tokens to the size that pays.

    Args:
        seconds: What a forward pass over so many rows takes.
    """

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._costs = PassCosts(seconds)
        self._calibration = Calibration()
        self._tokens = self._passes = 0.0
        self._n_tried, self._left, self._length = 0, 0, SHORTEST_REST

    def trim(self, tree: DraftTree) -> DraftTree:
        """The nodes that together give most tokens per second; drawn trees are left alone."""
        if not len(tree) or tree.law != "point":
            return tree
        reach = self._reach(tree)
        order = sorted(range(len(tree)), key=lambda node: -reach[node])
        expected, best_rate, best_n = 1.0, 1.0 / self._costs.seconds(1), 0
        for n, node in enumerate(order, start=1):
            expected += reach[node]
            rate = expected / self._costs.seconds(1 + n)
            if rate > best_rate:
                best_rate, best_n = rate, n
        return tree if best_n == len(tree) else tree.keep(order[:best_n])

    def rests(self) -> bool:
        """Whether nothing is to be drafted in this step; to be asked once a step."""
        if not self._left:
            return False
        self._left -= 1
        return True

    def settle(self, n_nodes: int, n_emitted: int, drafting: float, verifying: float) -> None:
        """Judge a step in which something was, or could have been, drafted.

        Args:
            n_nodes: Drafted tokens that passed the target.
            n_emitted: Tokens the step gave.
            drafting: Seconds the drafter took.
            verifying: Seconds the target's pass took.
        """
        verifying, costs = max(verifying, 1e-9), self._costs
        costs.observe(1 + n_nodes, verifying)
        plain_passes = costs.seconds(1 + n_nodes) / costs.seconds(1) * (1 + drafting / verifying)
        self._tokens = MEMORY * self._tokens + n_emitted
        self._passes = MEMORY * self._passes + plain_passes
        self._n_tried += 1
        if self._n_tried < TRIAL:
            return
        if self._tokens >= WORTHWHILE * self._passes:
            self._length = SHORTEST_REST
            return
        self._left, self._length = self._length, min(2 * self._length, LONGEST_REST)
        self._tokens = self._passes = 0.0
        self._n_tried = 0

    @property
    def misjudges(self) -> bool:
        """Whether passes of different sizes differ otherwise than the cost curve says."""
        return self._costs.misjudged

    def observe(self, tree: DraftTree, emitted: Sequence[int]) -> None:
        """Learn from what became text, also about nodes that were cut off before the pass."""
        node = ROOT
        for token in emitted:
            following = None
            for child in tree.children.get(node, []):
                accepted = tree.tokens[child] == token
                self._calibration.observe(
                    tree.source(child), tree.confidence[child], accepted=accepted
                )
                following = child if accepted else following
            if following is None:
                return
            node = following

    def _reach(self, tree: DraftTree) -> list[float]:
        found: list[float] = []
        for node, parent in enumerate(tree.parents):
            own = self._calibration.probability(tree.source(node), tree.confidence[node])
            found.append(own if parent == ROOT else found[parent] * own)
        return found


def _moved(mean: tuple[int, float], value: float) -> tuple[int, float]:
    """A count and a mean over about the last `N_JUDGED` values, with one more value."""
    n, held = mean
    return n + 1, held + (value - held) / min(n + 1, N_JUDGED)


def _bin(source: str, confidence: float) -> tuple[str, int]:
    """Bins are finer where confidence is small: wide trees live there."""
    return source, min(int(confidence**0.5 * N_BINS), N_BINS - 1)
