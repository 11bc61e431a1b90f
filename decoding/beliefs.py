"""What the target believes comes after the text and after every node of a draft tree.

One forward pass over root and tree gives a row of logits for each. Processors, temperature and
truncation are applied only where somebody looks, along that node's own path, as they would be in
plain decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from .sampling import Sampler
from .tree import DraftTree


class Beliefs:
    """The target's next-token distributions along one draft tree.

    Args:
        logits: One row for the root, then one per node of the tree.
        tree: The draft.
        text: Token ids up to and including the root.
        sampler: How tokens are chosen.
    """

    def __init__(
        self,
        logits: Float[Tensor, "rows d_vocab"],
        tree: DraftTree,
        text: Sequence[int],
        sampler: Sampler,
    ) -> None:
        self.logits, self.tree, self.sampler = logits, tree, sampler
        self._text = text
        self._likeliest: list[int] | None = None

    @cached_property
    def _norms(self) -> Float[Tensor, " rows"]:
        """Log of the sum of exponentials of each row."""
        return self.logits.float().logsumexp(-1)

    def log_prob(self, nodes: Sequence[int], tokens: Sequence[int]) -> Float[Tensor, " n"]:
        """The target's own log-probability of one token after each of some nodes."""
        rows = [node + 1 for node in nodes]
        return self.logits[rows, list(tokens)].float() - self._norms[rows]

    def likeliest(
        self, nodes: Sequence[int], n: int
    ) -> tuple[Int64[Tensor, "nodes n"], Float[Tensor, "nodes n"]]:
        """The n likeliest tokens after each of some nodes, and their probabilities, best first.

        The target's own probabilities, before any processor.
        """
        rows = [node + 1 for node in nodes]
        top = self.logits[rows].float().topk(min(n, self.d_vocab), dim=-1)
        return top.indices, (top.values - self._norms[rows, None]).exp().clamp(max=1.0)

    @cached_property
    def entropies(self) -> Float[Tensor, " rows"]:
        """Entropy of the target's own distribution in each row, nats; impossible tokens add nothing."""
        logits = self.logits.float()
        probs = logits.softmax(-1)
        mean = (probs * logits.clamp(min=torch.finfo(logits.dtype).min)).sum(-1)
        return (self._norms - mean).clamp(min=0)

    @cached_property
    def log_probs(self) -> Float[Tensor, "rows d_vocab"]:
        """The target's own log-probabilities, before any processor."""
        return self.logits.float().log_softmax(-1)

    @property
    def d_vocab(self) -> int:
        """Width of a row."""
        return self.logits.shape[-1]

    def scores(self, node: int) -> Float[Tensor, " d_vocab"]:
        """Logits after `node` (or `ROOT`) and after all processors."""
        if not self.sampler.looks_back:
            return self.sampler.scores(None, self.logits[node + 1])
        path = [self.tree.tokens[step] for step in self.tree.path(node)]
        context = torch.tensor([*self._text, *path], device=self.logits.device)
        return self.sampler.scores(context, self.logits[node + 1])

    def probs(self, node: int) -> Float[Tensor, " d_vocab"]:
        """Probabilities after `node`, after all processors; the likeliest token's is 1 if greedy."""
        scores = self.scores(node)
        if not self.sampler.greedy:
            return scores.float().softmax(-1)
        return torch.zeros_like(scores, dtype=torch.float32).index_fill_(0, scores.argmax(), 1.0)

    def choice(self, node: int) -> int:
        """The token plain decoding would put after `node`: the likeliest, or one drawn now."""
        if not self.sampler.is_argmax:
            return self.sampler.choose(self.scores(node))
        if self._likeliest is None:
            self._likeliest = self.logits.argmax(-1).tolist()
        return self._likeliest[node + 1]

    def draw(self, probs: Float[Tensor, " d_vocab"]) -> int:
        """A token drawn from `probs` (need not sum to one)."""
        return self.sampler.draw(probs)

    def chance(self) -> float:
        """A fresh uniform number in [0, 1)."""
        return self.sampler.uniform()
