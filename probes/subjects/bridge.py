"""MindBridge (arXiv 2404.07850): one decoder for subjects whose signals have different widths.

    signal --aggregate--> fixed width --Embedder_s--> embedding --Translator--> --Head--> meaning
                               ^---------Builder_s--------'

Embedders and builders belong to a subject, translator and head are shared. An embedding built back into
another subject's signal and embedded again should be the same embedding (the cycle), which ties
subjects together without any stimulus both have seen.

Deviations: sizes are options (the paper's 8,192 and 2,048 suit 15,000 voxels); images and texts are
replaced by one semantic vector; neighbouring units of a language model carry unrelated signals, so
pooling them loses most of it, and `aggregate="linear"` (no pooling, a learned map per subject, a
builder that ends linearly, since a rectified end cannot make symmetric signals) is the default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from .data import Subject

Aggregate = Literal["max", "average", "linear", "pad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeOptions:
    """Architecture of a bridge."""

    aggregate: Aggregate = "linear"
    """How signals come to one width: pooled by largest (the paper's, for voxels) or mean, not at all
    (a learned map per subject), or cut and padded with zeros."""
    width: int = 512
    """That width; `linear` has none."""
    d_embedding: int = 256
    """Width of the shared embedding (paper: 2048)."""
    n_blocks: int = 2
    """Blocks of the translator (paper: 4)."""
    d_adapter: int = 32
    """Inner width of the adapters beside pooled signals (paper: 128)."""
    dropout: float = 0.15
    """In the translator; the embedder's is 0.5 for pooled signals (paper)."""
    seed: int = 0
    """Draws the initial weights."""

    def __post_init__(self) -> None:
        if min(self.width, self.d_embedding, self.d_adapter) < 1 or self.n_blocks < 0:
            raise OptionError(
                "width, d_embedding and d_adapter must be at least 1 and n_blocks at least 0, got "
                f"{self.width}, {self.d_embedding}, {self.d_adapter}, {self.n_blocks}."
            )
        if not 0 <= self.dropout < 1:
            raise OptionError(f"dropout must be in [0, 1), got {self.dropout}.")


def aggregate(
    signal: Float[Tensor, "items any"], how: Aggregate, width: int
) -> Float[Tensor, "items width"]:
    """Bring signals to one width.

    Args:
        signal: Signals of any width; `linear` returns them as they are.
        how: "max" and "average" pool windows that overlap where widths do not divide.
        width: The width to come to.
    """
    if how == "linear":
        return signal
    if how == "pad":
        return F.pad(signal[:, :width], (0, max(width - signal.shape[1], 0)))
    pool = F.adaptive_max_pool1d if how == "max" else F.adaptive_avg_pool1d
    return pool(signal[:, None], width)[:, 0]


class Adapter(nn.Module):
    """A residual bottleneck that begins as the identity."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, signal: Float[Tensor, "items width"]) -> Float[Tensor, "items width"]:
        """The signal and what the bottleneck adds."""
        return signal + self.up(F.relu(self.down(signal)))


class Port(nn.Module):
    """What belongs to one subject: from its signal to an embedding, and back."""

    def __init__(self, width: int, options: BridgeOptions) -> None:
        super().__init__()
        self.options, h = options, options.d_embedding
        if options.aggregate == "linear":
            self.embedder = nn.Sequential(
                nn.Linear(width, h), nn.LayerNorm(h), nn.GELU(), nn.Dropout(options.dropout)
            )
            self.builder = nn.Sequential(nn.Linear(h, h), nn.GELU(), nn.Linear(h, width))
        else:
            pooled = options.width
            self.embedder = nn.Sequential(
                Adapter(pooled, options.d_adapter),
                nn.Linear(pooled, h),
                nn.LayerNorm(h),
                nn.GELU(),
                nn.Dropout(0.5),
            )
            self.builder = nn.Sequential(
                nn.Linear(h, pooled),
                nn.LayerNorm(pooled),
                nn.GELU(),
                Adapter(pooled, options.d_adapter),
            )

    def pool(self, signal: Float[Tensor, "items any"]) -> Float[Tensor, "items pooled"]:
        """The signal at the width that the builder makes."""
        return aggregate(signal, self.options.aggregate, self.options.width)

    def embed(self, pooled: Float[Tensor, "items pooled"]) -> Float[Tensor, "items d_embedding"]:
        """Embedding of a pooled signal."""
        return self.embedder(pooled)

    def build(self, embedding: Float[Tensor, "items d_embedding"]) -> Float[Tensor, "items pooled"]:
        """A pooled signal of this subject that would have this embedding."""
        return self.builder(embedding)


def port_key(name: str) -> str:
    """A subject's name as a module's, which may hold no dot."""
    return name.replace(".", "/")


class Translator(nn.Module):
    """What all subjects share: residual blocks, then the semantic head."""

    def __init__(self, d_semantic: int, options: BridgeOptions) -> None:
        super().__init__()
        h = options.d_embedding
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(h, h), nn.LayerNorm(h), nn.GELU(), nn.Dropout(options.dropout))
            for _ in range(options.n_blocks)
        )
        self.head = nn.Linear(h, d_semantic)

    def forward(
        self, embedding: Float[Tensor, "items d_embedding"]
    ) -> Float[Tensor, "items d_semantic"]:
        """The meaning, unit norm not yet taken."""
        for block in self.blocks:
            embedding = embedding + block(embedding)
        return self.head(embedding)


class Bridge(nn.Module):
    """Ports of several subjects around one translator.

    Args:
        subjects: Who takes part; names and widths are taken from them.
        options: Architecture.

    Raises:
        OptionError: Two subjects share a name, or targets have different widths.
    """

    def __init__(self, subjects: Sequence[Subject], options: BridgeOptions | None = None) -> None:
        super().__init__()
        self.options = options or BridgeOptions()
        widths = {subject.train_targets.shape[1] for subject in subjects}
        if len(widths) != 1:
            raise OptionError(f"all subjects must share one semantic space, got widths {widths}.")
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed)
            self.translator = Translator(widths.pop(), self.options)
        self.ports = nn.ModuleDict()
        for subject in subjects:
            self.join(subject)

    def join(self, subject: Subject) -> None:
        """Give a new subject ports of its own, freshly initialised.

        Raises:
            OptionError: The name is taken.
        """
        if port_key(subject.name) in self.ports:
            raise OptionError(f"subject names must differ, got {subject.name!r} twice.")
        with torch.random.fork_rng():
            torch.manual_seed(self.options.seed + 1 + len(self.ports))
            self.ports[port_key(subject.name)] = Port(subject.width, self.options)

    def port(self, name: str) -> Port:
        """A subject's port.

        Raises:
            OptionError: Nobody of that name takes part.
        """
        if port_key(name) not in self.ports:
            raise OptionError(f"subjects here are {list(self.ports)}, got {name!r}.")
        port = self.ports[port_key(name)]
        assert isinstance(port, Port)
        return port

    def embed(
        self, name: str, signal: Float[Tensor, "items any"]
    ) -> Float[Tensor, "items d_embedding"]:
        """Shared embedding of a subject's signals."""
        port = self.port(name)
        return port.embed(port.pool(signal))

    def read(
        self, name: str, signal: Float[Tensor, "items any"]
    ) -> Float[Tensor, "items d_semantic"]:
        """What a subject's signals mean."""
        return self.translator(self.embed(name, signal))

    def synthesise(
        self, source: str, target: str, signal: Float[Tensor, "items any"]
    ) -> Float[Tensor, "items pooled"]:
        """The target subject's pooled signals for stimuli only the source has seen."""
        return self.port(target).build(self.embed(source, signal))
