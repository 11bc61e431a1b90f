"""Finite Markov kernels: the ground truth that every estimator here is tested against.

A kernel from n states to m outcomes is a row-stochastic matrix in float64 (arXiv 2507.19247, sections
2 and 3, with finite sets for measurable spaces). Composition is the matrix product, the tensor
product is Kronecker's, copying sends x to (x, x), discarding sends everything to one point. Pairs
(x, y) are numbered x * n_y + y. For small alphabets: the categorical entropy by its definition
needs laws on pairs; what works on real vocabularies is in `entropy.py`.

Example:
    >>> coin = FinKernel.law([0.5, 0.5])
    >>> float(coin.categorical_entropy(kl)[0])  # log 2
    0.6931471805599453
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from ..errors import OptionError
from .divergences import Divergence

TOLERANCE = 1e-12
"""How far a row may be from summing to one."""


class FinKernel:
    """A Markov kernel between finite sets.

    Args:
        matrix: Probability of each outcome (column) from each state (row).

    Raises:
        OptionError: Not a matrix of probabilities whose rows sum to one.
    """

    def __init__(self, matrix: np.ndarray | Sequence[Sequence[float]]) -> None:
        self.matrix = np.array(matrix, dtype=np.float64)
        if self.matrix.ndim != 2:
            raise OptionError(
                f"A kernel must be a matrix (states, outcomes), got shape {self.matrix.shape}."
            )
        worst = float(np.abs(self.matrix.sum(1) - 1).max(initial=0.0))
        if not worst <= TOLERANCE * max(self.n_outcomes, 1) or (self.matrix < 0).any():
            raise OptionError(
                f"A kernel's rows must be probabilities that sum to 1, got a row off by {worst:.1e} "
                f"and a smallest entry of {self.matrix.min():.1e}. Divide rows by their sums."
            )

    @classmethod
    def law(cls, probs: np.ndarray | Sequence[float]) -> FinKernel:
        """A law as a kernel from one point."""
        return cls(np.asarray(probs, dtype=np.float64)[None])

    @classmethod
    def deterministic(cls, images: np.ndarray | Sequence[int], n_outcomes: int) -> FinKernel:
        """The kernel of a function: state i goes to `images[i]` for certain."""
        return cls(np.eye(n_outcomes)[np.asarray(images, dtype=np.int64)])

    @classmethod
    def identity(cls, n: int) -> FinKernel:
        """Every state to itself."""
        return cls(np.eye(n))

    @classmethod
    def copy(cls, n: int) -> FinKernel:
        """Every state x to the pair (x, x)."""
        return cls.deterministic(np.arange(n) * (n + 1), n * n)

    @classmethod
    def discard(cls, n: int) -> FinKernel:
        """Everything to one point."""
        return cls(np.ones((n, 1)))

    @property
    def n_states(self) -> int:
        """States it starts from."""
        return self.matrix.shape[0]

    @property
    def n_outcomes(self) -> int:
        """Outcomes it ends in."""
        return self.matrix.shape[1]

    def then(self, after: FinKernel) -> FinKernel:
        """This kernel, and `after` on its outcome (`after` composed with this).

        Raises:
            OptionError: Outcomes here are not the states there.
        """
        if self.n_outcomes != after.n_states:
            raise OptionError(
                f"Kernels compose where outcomes are states, got {self.n_outcomes} outcomes and "
                f"{after.n_states} states."
            )
        return FinKernel(_renormalised(self.matrix @ after.matrix))

    def tensor(self, beside: FinKernel) -> FinKernel:
        """Both kernels side by side on pairs, independently."""
        return FinKernel(_renormalised(np.kron(self.matrix, beside.matrix)))

    def divergence(self, other: FinKernel, divergence: Divergence) -> Float[np.ndarray, " states"]:
        """D(this || other) from every state."""
        return divergence(self.matrix, other.matrix)

    def categorical_entropy(self, divergence: Divergence) -> Float[np.ndarray, " states"]:
        """D(copy after k || (k tensor k) after copy), from every state (section 4, definition).

        How far the kernel is from being deterministic; zero exactly where its row is one-hot.
        """
        copied = self.then(FinKernel.copy(self.n_outcomes))
        twice = FinKernel.copy(self.n_states).then(self.tensor(self))
        return copied.divergence(twice, divergence)

    def joint(self, law: Float[np.ndarray, " states"]) -> Float[np.ndarray, "states outcomes"]:
        """Joint law of state and outcome when states follow `law`."""
        return np.asarray(law, dtype=np.float64)[:, None] * self.matrix

    def __repr__(self) -> str:
        return f"FinKernel({self.n_states} states to {self.n_outcomes} outcomes)"


def _renormalised(matrix: np.ndarray) -> np.ndarray:
    """Products of stochastic matrices, without the drift of rounding over long chains."""
    return matrix / matrix.sum(1, keepdims=True)
