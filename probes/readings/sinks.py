"""Attention sinks (arXiv 2410.10781): positions many heads look at whatever the text says.

With attention A, causal, over T tokens, the importance of key k is
alpha_k = sum_{i >= k} A[i, k] / (T - k), and Sink_k(eps) is the share of samples, layers and heads
with alpha_k > eps (strictly; eps = 0.3, T = 64). It is a share of heads, not attention mass; the
mass is reported beside it. Late keys have few queries, so secondary sinks are looked for in
k < T - 8 only.

Norms of keys and values by position (mean over heads and texts) are recorded as Gu et al. do: a sink's
key and value are small while its residual state is large. Rotary embedding leaves norms as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..attention import AttentionPort, pattern_source
from ..capture import capture
from ..errors import OptionError
from ..model import Model
from ..results import Result, described
from ..sites import Site
from .bootstrap import mean_with_interval
from .texts import Texts

Progress = Callable[[int, int, str], None]

WINDOW = 64
EPSILON = 0.3
LATE = 8


@dataclass(frozen=True, kw_only=True)
class AttentionSinks(Result):
    """Which positions heads sink to."""

    kind: ClassVar[str] = "attention_sinks"
    epsilon: float = described("importance above which a head counts as sinking")
    window: int = described("length of the texts", unit="tokens")
    source: str = described("where the attention probabilities come from")
    sink_rate: np.ndarray = described("Sink_k: share of heads sinking to key k", axes=("keys",))
    first_token: np.ndarray = described(
        "importance of the first token, mean over texts", axes=("layers", "heads")
    )
    mass: np.ndarray = described(
        "attention to the first token, mean over later queries, heads and texts", axes=("layers",)
    )
    mass_low: np.ndarray = described("lower 95 % bound over documents", axes=("layers",))
    mass_high: np.ndarray = described("upper bound", axes=("layers",))
    virtual: np.ndarray = described(
        "attention that goes to no token (1 - row sum; learned sinks)", axes=("layers",)
    )
    entropy: np.ndarray = described("mean entropy of attention", axes=("layers",), unit="nats")
    norm_first: np.ndarray = described("residual norm at the first token", axes=("layers",))
    norm_rest: np.ndarray = described("mean residual norm elsewhere", axes=("layers",))
    n_texts: int = described("texts read")
    sinks: np.ndarray | None = described(
        "positions counted as sinks: the first, and those more than a quarter of the heads sink to",
        axes=("sinks",),
        default=None,
    )
    key_norm: np.ndarray | None = described(
        "L2 norm of keys, mean over heads and texts; none where attention does not show them",
        axes=("layers", "keys"),
        default=None,
    )
    value_norm: np.ndarray | None = described(
        "L2 norm of values, likewise", axes=("layers", "keys"), default=None
    )


def importance(
    attention: Float[Tensor, "*heads query key"],
) -> Float[Tensor, "*heads key"]:
    """alpha_k: mean attention key k gets from the queries that can see it."""
    n_keys = attention.shape[-1]
    seen_by = torch.arange(n_keys, 0, -1, device=attention.device)
    return attention.tril().sum(-2) / seen_by


def sink_rate(
    alpha: Float[Tensor, "*heads key"], *, epsilon: float = EPSILON
) -> Float[Tensor, " key"]:
    """Sink_k: share of heads (and layers, and samples) whose importance of key k exceeds epsilon."""
    return (alpha.flatten(0, -2) > epsilon).double().mean(0)


def secondary_sinks(rates: Float[np.ndarray, " key"], *, threshold: float = 0.25) -> list[int]:
    """Keys, the first included, that more than `threshold` of the heads sink to."""
    early = rates[: max(len(rates) - LATE, 1)]
    return sorted({0, *np.flatnonzero(early > threshold).tolist()})


def attention_entropy(
    attention: Float[Tensor, "*heads query key"],
) -> Float[Tensor, "*heads query"]:
    """Entropy of each query's attention, nats."""
    return -torch.special.xlogy(attention, attention).sum(-1)


@torch.no_grad()
def attention_sinks(
    model: Model,
    texts: Texts,
    *,
    epsilon: float = EPSILON,
    progress: Progress | None = None,
) -> AttentionSinks:
    """Measure a model's sinks.

    Args:
        model: An opened model with attention.
        texts: Texts of one length; the definition's is 64 tokens.
        epsilon: Importance above which a head counts.
        progress: Called after every batch.

    Raises:
        OptionError: The texts have different lengths.
        UnknownSiteError: The model has no attention whose probabilities could be read.
    """
    lengths = {len(ids) for ids in texts.ids}
    if len(lengths) != 1:
        raise OptionError(f"texts must have one length, got {sorted(lengths)[:5]}; cut them.")
    window = lengths.pop()
    sites = model.sites.resolve("layers.*.attn.pattern")
    layers = [site.layer for site in sites if site.layer is not None]
    alphas, masses, virtual, entropy, norms = [], [], [], [], []
    kept = _KeyValueNorms()
    for numbers, ids in texts.batches(8 * window):
        with kept.listening(sites), capture(
            model, *(s.name for s in sites), *(f"layers.{n}.resid_post" for n in layers),
            stop_early=True,
        ) as acts:  # fmt: skip
            model(ids, use_cache=False)
        patterns = [acts[site.name].float() for site in sites]
        alphas.append(torch.stack([importance(p) for p in patterns], dim=1).cpu())
        masses.append(torch.stack([p[..., 1:, 0].mean((1, 2)) for p in patterns], 1).cpu())
        virtual.append(torch.stack([1 - p.sum(-1).mean((1, 2)) for p in patterns], 1).cpu())
        entropy.append(torch.stack([attention_entropy(p).mean((1, 2)) for p in patterns], 1).cpu())
        norms.append(torch.stack([_norms(acts[f"layers.{n}.resid_post"]) for n in layers], 1).cpu())
        if progress is not None:
            progress(numbers[-1] + 1, len(texts), "attention")
    alpha = torch.cat(alphas)
    mass, low, high = mean_with_interval(
        torch.cat(masses).double().numpy(), np.ones(len(texts), dtype=np.int64), texts.documents
    )
    norm = torch.cat(norms).double().mean(0).numpy()
    rates = sink_rate(alpha, epsilon=epsilon).numpy()
    key_norm, value_norm = kept.means()
    return AttentionSinks(
        epsilon=epsilon,
        window=window,
        source=pattern_source(model.module),
        sink_rate=rates,
        first_token=alpha[..., 0].double().mean(0).numpy(),
        mass=mass,
        mass_low=low,
        mass_high=high,
        virtual=torch.cat(virtual).double().mean(0).clamp(min=0).numpy(),
        entropy=torch.cat(entropy).double().mean(0).numpy(),
        norm_first=norm[:, 0],
        norm_rest=norm[:, 1],
        n_texts=len(texts),
        sinks=np.array(secondary_sinks(rates)),
        key_norm=key_norm,
        value_norm=value_norm,
    )


class _KeyValueNorms:
    """Norms of keys and values by position, summed over texts and averaged over heads."""

    def __init__(self) -> None:
        self._n_texts = 0
        self._sums: dict[int, Float[Tensor, "2 keys"]] = {}

    @contextmanager
    def listening(self, sites: Sequence[Site]) -> Iterator[None]:
        """Hear every attention that shows its keys and values, in the passes inside the block."""
        with ExitStack() as stack:
            for number, site in enumerate(sites):
                if isinstance(site.port, AttentionPort):
                    stack.callback(site.port.listen(partial(self._hear, number)))
            yield

    def means(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Mean norms of keys and of values, (layers, keys); None where nothing was heard."""
        if not self._sums:
            return None, None
        means = torch.stack([self._sums[n] for n in sorted(self._sums)]) / self._n_texts
        return means[:, 0].numpy(), means[:, 1].numpy()

    def _hear(self, number: int, key: Tensor, value: Tensor) -> None:
        if number == 0:
            self._n_texts += len(key)
        norms = [torch.linalg.vector_norm(x.double(), dim=-1) for x in (key, value)]
        both = [norm.mean(1).sum(0).cpu() for norm in norms]
        self._sums[number] = self._sums.get(number, 0) + torch.stack(both)


def _norms(resid: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(resid.float(), dim=-1)
    return torch.stack([norms[:, 0], norms[:, 1:].mean(1)], dim=-1)
