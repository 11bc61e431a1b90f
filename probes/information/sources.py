"""Synthetic sources whose information is known in closed form: chains, XOR, hidden Markov models.

With H the context and W_0, W_1, ... the tokens after it, every source gives I(H; W_0), the
unconditional I(H; W_k), the conditional surplus I(H; W_1..W_{K-1} | W_0) and its own entropy per
token. They test the estimators and train the small transformers of `toys.py`.

A first-order chain has no surplus for any K; in the XOR chain each informative bit is useless alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64

from ..errors import OptionError
from .joints import entropy, mutual_information, surplus
from .kernel import FinKernel


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What a source holds about its future, in nats."""

    next: float
    """I(H; W_0)."""
    futures: tuple[float, ...]
    """I(H; W_k) for k = 0, 1, ..., not conditioned on anything."""
    surplus: tuple[float, ...]
    """I(H; W_1..W_k | W_0) for k = 1, 2, ...: Surplus_{k+1} of the paper."""
    step_surplus: tuple[float, ...]
    """I(H; W_k | W_0..W_{k-1}) for k = 1, 2, ...; `surplus` is their running sum."""
    entropy: float
    """Entropy of W_0 given the whole past: the loss no model can beat."""


@runtime_checkable
class Source(Protocol):
    """A stationary source of tokens."""

    @property
    def n_tokens(self) -> int:
        """Size of its vocabulary."""
        ...

    def sample(
        self, n_documents: int, length: int, *, seed: int = 0
    ) -> Int64[np.ndarray, "documents length"]:
        """Documents drawn from the stationary law."""
        ...


def truth_of(joint: Float[np.ndarray, "*axes"]) -> Truth:
    """Every quantity off the joint law of (H, W_0, W_1, ..., W_K)."""
    last = joint.ndim - 2
    marginals = [joint.sum(axis=tuple(range(k + 2, joint.ndim))) for k in range(last + 1)]
    return Truth(
        next=mutual_information(joint, [0], [1]),
        futures=tuple(mutual_information(joint, [0], [k + 1]) for k in range(last + 1)),
        surplus=tuple(surplus(marginals[k]) for k in range(1, last + 1)),
        step_surplus=tuple(
            mutual_information(joint, [0], [k + 1], list(range(1, k + 1)))
            for k in range(1, last + 1)
        ),
        entropy=entropy(joint, [0, 1]) - entropy(joint, [0]),
    )


class Chain:
    """A stationary Markov chain of any order.

    Args:
        transition: Probability of the next token; axes: tokens from the oldest to the newest of the
            context, then the next token.

    Raises:
        OptionError: Axes of different lengths, or rows that are no probabilities.
    """

    def __init__(self, transition: Float[np.ndarray, "*axes"]) -> None:
        self.transition = np.array(transition, dtype=np.float64)
        if self.transition.ndim < 2 or len(set(self.transition.shape)) != 1:
            raise OptionError(
                "transition must have one axis per token of context and one for the next, all of one "
                f"length, got shape {self.transition.shape}."
            )
        FinKernel(self.transition.reshape(-1, self.n_tokens))  # checks the rows

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.transition.shape[-1]

    @property
    def order(self) -> int:
        """Tokens of context that matter."""
        return self.transition.ndim - 1

    def lifted(self) -> FinKernel:
        """The chain as a first-order one over contexts."""
        n, states = self.n_tokens, self.n_tokens**self.order
        rows = self.transition.reshape(states, n)
        matrix = np.zeros((states, states))
        state = np.arange(states)
        for token in range(n):
            matrix[state, (state * n + token) % states] += rows[:, token]
        return FinKernel(matrix)

    def stationary(self) -> Float[np.ndarray, " contexts"]:
        """Stationary law of contexts: the leading left eigenvector of the lift."""
        values, vectors = np.linalg.eig(self.lifted().matrix.T)
        leading = np.abs(np.real(vectors[:, int(np.argmax(np.real(values)))]))
        return leading / leading.sum()

    def joint(self, n_futures: int) -> Float[np.ndarray, "*axes"]:
        """Joint law of the context and the `n_futures` tokens after it, one axis each."""
        n, contexts = self.n_tokens, self.n_tokens**self.order
        rows = self.transition.reshape(contexts, n)
        law = self.stationary()
        start = state = np.arange(contexts)
        for _ in range(n_futures):
            law = (law[:, None] * rows[state]).ravel()
            state = (state[:, None] * n + np.arange(n)).ravel() % contexts
        return law.reshape(len(start), *(n,) * n_futures)

    def truth(self, n_futures: int = 3) -> Truth:
        """Closed forms for W_0..W_{n_futures - 1}."""
        return truth_of(self.joint(n_futures))

    def sample(
        self, n_documents: int, length: int, *, seed: int = 0
    ) -> Int64[np.ndarray, "documents length"]:
        """Documents drawn from the stationary law."""
        generator = np.random.default_rng(seed)
        n, contexts = self.n_tokens, self.n_tokens**self.order
        state = generator.choice(contexts, size=n_documents, p=self.stationary())
        steps = np.cumsum(self.transition.reshape(contexts, n), axis=1)
        drawn = np.empty((n_documents, self.order + length), dtype=np.int64)
        for place in range(self.order):
            drawn[:, place] = state // n ** (self.order - 1 - place) % n
        uniform = generator.random((n_documents, length))
        for place in range(length):
            token = (uniform[:, place, None] > steps[state, :-1]).sum(1)
            drawn[:, self.order + place] = token
            state = (state * n + token) % contexts
        return drawn[:, :length]

    def contexts(
        self, tokens: Int64[np.ndarray, "documents length"]
    ) -> Int64[np.ndarray, "documents length"]:
        """Number of the context that ends at each position; -1 where it began before the text."""
        n = self.n_tokens
        found = np.full(tokens.shape, -1)
        whole = sum(
            tokens[:, i : tokens.shape[1] - self.order + 1 + i] * n ** (self.order - 1 - i)
            for i in range(self.order)
        )
        found[:, self.order - 1 :] = whole
        return found


def xor_chain(noise: float = 0.1) -> Chain:
    """W_t = W_{t-1} xor W_{t-2} xor Bernoulli(noise): all of its surplus is synergy."""
    transition = np.empty((2, 2, 2))
    for older, newer, token in np.ndindex(2, 2, 2):
        transition[older, newer, token] = 1 - noise if token == older ^ newer else noise
    return Chain(transition)


def random_chain(n_tokens: int, order: int, *, concentration: float = 0.5, seed: int = 0) -> Chain:
    """A chain whose rows are drawn from a symmetric Dirichlet law."""
    generator = np.random.default_rng(seed)
    rows = generator.dirichlet(np.full(n_tokens, concentration), size=n_tokens**order)
    return Chain(rows.reshape((n_tokens,) * (order + 1)))


class HiddenMarkov:
    """A hidden Markov model with exact filtering; H is the belief over hidden states.

    Args:
        transition: Probability of the next hidden state, from each.
        emission: Probability of each token, from each hidden state.
    """

    def __init__(
        self,
        transition: Float[np.ndarray, "states states"],
        emission: Float[np.ndarray, "states vocab"],
    ) -> None:
        self.transition, self.emission = FinKernel(transition), FinKernel(emission)
        self.law = Chain(self.transition.matrix).stationary()

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary."""
        return self.emission.n_outcomes

    def sample(
        self, n_documents: int, length: int, *, seed: int = 0
    ) -> Int64[np.ndarray, "documents length"]:
        """Documents drawn from the stationary law."""
        hidden = Chain(self.transition.matrix).sample(n_documents, length, seed=seed)
        steps = np.cumsum(self.emission.matrix, axis=1)
        uniform = np.random.default_rng([seed, 1]).random(hidden.shape)
        return (uniform[..., None] > steps[hidden][..., :-1]).sum(-1)

    def beliefs(
        self, tokens: Int64[np.ndarray, "documents length"]
    ) -> Float[np.ndarray, "documents length states"]:
        """Law of the hidden state of the *next* token, after each position (exact filtering)."""
        belief = np.broadcast_to(self.law, (len(tokens), len(self.law)))
        found = []
        for place in range(tokens.shape[1]):
            seen = belief * self.emission.matrix[:, tokens[:, place]].T
            belief = (seen / seen.sum(1, keepdims=True)) @ self.transition.matrix
            found.append(belief)
        return np.stack(found, axis=1)

    def next_two(
        self, beliefs: Float[np.ndarray, "rows states"]
    ) -> Float[np.ndarray, "rows vocab vocab"]:
        """J_b(v, w) = sum_ij b_i B_iv A_ij B_jw: law of the next two tokens from each belief."""
        after = self.transition.matrix @ self.emission.matrix
        return np.einsum("ri,iv,iw->rvw", beliefs, self.emission.matrix, after, optimize=True)

    def truth(self, *, n_documents: int = 200, length: int = 1000, seed: int = 0) -> Truth:
        """Truth over the beliefs of a long sample; mixed laws in closed form from the stationary law.

        Only the law of beliefs is sampled; the first 20 positions, where filtering still forgets its
        start, are left out.
        """
        beliefs = self.beliefs(self.sample(n_documents, length, seed=seed))[:, 20:]
        joint = self.next_two(beliefs.reshape(-1, len(self.law)))
        mixed = self.next_two(self.law[None])[0]
        own_next = float(np.mean(_entropies(joint.sum(2))))
        own_later = float(np.mean(_entropies(joint.sum(1))))
        own_both = float(np.mean(_entropies(joint.reshape(len(joint), -1))))
        later = entropy(mixed) - entropy(mixed, [0])
        return Truth(
            next=entropy(mixed, [0]) - own_next,
            futures=(entropy(mixed, [0]) - own_next, entropy(mixed, [1]) - own_later),
            surplus=(later - (own_both - own_next),),
            step_surplus=(later - (own_both - own_next),),
            entropy=own_next,
        )


def _entropies(laws: Float[np.ndarray, "rows outcomes"]) -> Float[np.ndarray, " rows"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return -np.where(laws > 0, laws * np.log(laws), 0.0).sum(-1)
