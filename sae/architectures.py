"""All architectures by name."""

from __future__ import annotations

from ..probes.errors import OptionError
from .base import SparseAutoencoder
from .batchtopk import BatchTopKSae
from .gated import GatedSae
from .jumprelu import JumpReluSae
from .matryoshka import MatryoshkaSae
from .mp import MpSae
from .omp import OmpSae
from .options import SaeOptions
from .relu import ReluSae
from .topk import TopKSae

ARCHITECTURES: dict[str, type[SparseAutoencoder]] = {
    kind.architecture: kind
    for kind in (
        ReluSae,
        GatedSae,
        TopKSae,
        BatchTopKSae,
        JumpReluSae,
        MatryoshkaSae,
        MpSae,
        OmpSae,
    )
}


def make_sae(architecture: str, *, seed: int = 0, **options: object) -> SparseAutoencoder:
    """A new autoencoder by the name of its architecture.

    Args:
        architecture: One of `ARCHITECTURES`.
        seed: Fixes the initial weights.
        **options: Fields of the architecture's options.

    Raises:
        OptionError: No such architecture or option.
    """
    kind = sae_class(architecture)
    known = kind.Options.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise OptionError(
            f"{architecture} has no option {', '.join(unknown)}; it has: {', '.join(known)}."
        )
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}  # JSON's
    made: SaeOptions = kind.Options(**given)  # pyright: ignore[reportArgumentType]
    return kind(made, seed=seed)


def sae_class(architecture: str) -> type[SparseAutoencoder]:
    """The class of an architecture.

    Raises:
        OptionError: No such architecture.
    """
    if architecture not in ARCHITECTURES:
        raise OptionError(
            f"Unknown architecture {architecture!r}; known: {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[architecture]
