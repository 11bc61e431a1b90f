"""Does a model lose sight of its source while it goes on? Measured over a growing continuation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from ..attention import pattern_source
from ..errors import OptionError
from ..model import Model
from ..readings.bootstrap import mean_with_interval
from ..readings.texts import Texts
from ..results import Result, described
from .mass import SourceMass, measure_mass
from .options import DegenerationOptions
from .sensitivity import jacobian_norms, swapped_source_divergence

Progress = Callable[[int, int, str], None]

FEWEST = 4
"""Texts needed: an interval over fewer says nothing."""


@dataclass(frozen=True, kw_only=True)
class AttentionDegeneration(Result):
    """Attention on the source, sensitivity to it and information from it, by step."""

    kind: ClassVar[str] = "attention_degeneration"
    source: str = described("where the attention probabilities come from")
    n_texts: int = described("texts read")
    n_documents: int | None = described("documents they were cut from", default=None)
    n_source: int = described("tokens of the source", unit="tokens")
    n_target: int = described("forced tokens that follow", unit="tokens")
    n_sinks: int = described("first positions that count as sinks", unit="tokens")
    steps: np.ndarray = described("target tokens the query has seen", axes=("steps",))
    uniform: np.ndarray = described("mass on the source under even attention", axes=("steps",))
    mass: np.ndarray = described(
        "attention on the source, mean over texts, layers and heads", axes=("steps",)
    )
    mass_low: np.ndarray = described("lower 95 % bound over documents", axes=("steps",))
    mass_high: np.ndarray = described("upper bound", axes=("steps",))
    corrected: np.ndarray = described(
        "the same without sinks, as a share of what sinks leave", axes=("steps",)
    )
    corrected_low: np.ndarray = described("lower bound", axes=("steps",))
    corrected_high: np.ndarray = described("upper bound", axes=("steps",))
    corrected_uniform: np.ndarray = described(
        "that share under even attention beside the sinks", axes=("steps",)
    )
    weighted: np.ndarray | None = described(
        "source's share of p |W_O (v - o)|, sinks left out, mean over texts, layers and heads",
        axes=("steps",),
        default=None,
    )
    weighted_low: np.ndarray | None = described("lower bound", axes=("steps",), default=None)
    weighted_high: np.ndarray | None = described("upper bound", axes=("steps",), default=None)
    sink: np.ndarray = described("attention on the sinks", axes=("steps",))
    head_ratio: np.ndarray = described(
        "each head's corrected mass over the even one, mean over texts",
        axes=("layers", "heads", "steps"),
    )
    entropy: np.ndarray = described(
        "entropy of attention within the source, mean over texts and heads",
        axes=("layers", "steps"),
        unit="nats",
    )
    jacobian: np.ndarray = described(
        "squared norm of d logits / d embedding, mean over positions of source, sinks, target so far; "
        "geometric mean over texts",
        axes=("parts", "steps"),
    )
    jacobian_low: np.ndarray = described("lower bound", axes=("parts", "steps"))
    jacobian_high: np.ndarray = described("upper bound", axes=("parts", "steps"))
    divergence: np.ndarray = described(
        "KL from the prediction after the true source to that after another document's",
        axes=("steps",),
        unit="nats",
    )
    divergence_low: np.ndarray = described("lower bound", axes=("steps",), unit="nats")
    divergence_high: np.ndarray = described("upper bound", axes=("steps",), unit="nats")
    options: dict[str, Any] = described("all options")

    @property
    def ratio(self) -> np.ndarray:
        """Corrected mass over the even one: below 1 and falling is degeneration proper."""
        return self.corrected / self.corrected_uniform


def attention_degeneration(
    model: Model,
    texts: Texts,
    options: DegenerationOptions | None = None,
    *,
    progress: Progress | None = None,
) -> AttentionDegeneration:
    """Measure how attention, sensitivity and information from a source change over a continuation.

    The source of a text are its first tokens; what follows is forced.

    Args:
        model: An opened model with attention.
        texts: Texts of at least `options.length` tokens; longer ones are cut, shorter ones left out.
            Intervals are over the documents they were cut from: better many than long
            (`varied_texts`).
        options: Lengths, sinks, random directions.
        progress: Called after every text.

    Raises:
        OptionError: Fewer than four texts are long enough.
        UnknownSiteError: The model has no attention whose probabilities could be read.
    """
    chosen = options or DegenerationOptions()
    kept = long_enough(texts, chosen.length)
    rows = torch.from_numpy(np.stack(kept.ids))
    others = other_documents(kept.documents)
    n_texts = len(rows)
    masses, norms, divergences = [], [], []
    for number in range(n_texts):
        ids = rows[number : number + 1]
        other = rows[others[number]][: chosen.n_source]
        masses.append(measure_mass(model, ids, chosen))
        norms.append(jacobian_norms(model, ids[0], chosen))
        divergences.append(swapped_source_divergence(model, ids, other[None], chosen.n_source)[0])
        if progress is not None:
            progress(number + 1, n_texts, "attention on the source")
    found = (masses, torch.stack(norms), torch.stack(divergences))
    return _summary(model, chosen, *found, kept.documents)


def long_enough(texts: Texts, length: int) -> Texts:
    """The texts of at least `length` tokens, cut to it.

    Raises:
        OptionError: Fewer than `FEWEST`.
    """
    kept = [
        (ids[:length], name)
        for ids, name in zip(texts.ids, texts.names, strict=True)
        if len(ids) >= length
    ]
    if len(kept) < FEWEST:
        raise OptionError(
            f"looking back at a source needs at least {FEWEST} texts of {length} tokens (source and "
            f"target), got {len(kept)} of {len(texts)}; capture longer documents (--context), "
            "or ask for a shorter source or target."
        )
    ids, names = zip(*kept, strict=True)
    return Texts(ids, names)


def other_documents(documents: Int64[np.ndarray, " texts"]) -> Int64[np.ndarray, " texts"]:
    """For each text the next one of another document, or merely the next where there is but one."""
    n, found = len(documents), []
    for text in range(n):
        later = (text + 1 + np.arange(n - 1)) % n
        apart = later[documents[later] != documents[text]]
        found.append(np.append(apart, later)[0])
    return np.array(found)


def _summary(
    model: Model,
    options: DegenerationOptions,
    masses: list[SourceMass],
    norms: Tensor,
    divergences: Tensor,
    documents: Int64[np.ndarray, " texts"],
) -> AttentionDegeneration:
    def bounded(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return mean_with_interval(values, np.ones(len(values), dtype=np.int64), documents)

    whole = torch.cat([found.mass for found in masses])
    corrected = torch.cat([found.corrected for found in masses])
    entropy = torch.cat([found.entropy for found in masses])
    moved = torch.cat([found.weighted for found in masses]).mean((1, 2)).numpy()
    sink = torch.cat([found.sink for found in masses])
    steps = np.array(options.steps)
    even = options.n_source / (options.n_source + steps)
    kept = options.n_source - options.n_sinks
    corrected_even = kept / (kept + steps)
    mass = bounded(whole.mean((1, 2)).numpy())
    without = bounded(corrected.mean((1, 2)).numpy())
    weighted = bounded(moved) if np.isfinite(moved).all() else (None,) * 3
    nats = bounded(divergences[:, steps - 1].numpy())
    size = bounded(norms.transpose(1, 2).log().numpy())
    return AttentionDegeneration(
        source=pattern_source(model.module),
        n_texts=len(masses),
        n_documents=len(np.unique(documents)),
        n_source=options.n_source,
        n_target=options.n_target,
        n_sinks=options.n_sinks,
        steps=steps,
        uniform=even,
        mass=mass[0],
        mass_low=mass[1],
        mass_high=mass[2],
        corrected=without[0],
        corrected_low=without[1],
        corrected_high=without[2],
        corrected_uniform=corrected_even,
        weighted=weighted[0],
        weighted_low=weighted[1],
        weighted_high=weighted[2],
        sink=sink.mean((0, 1, 2)).numpy(),
        head_ratio=(corrected.mean(0).numpy() / corrected_even).astype(np.float32),
        entropy=entropy.mean((0, 2)).numpy(),
        jacobian=np.exp(size[0]),
        jacobian_low=np.exp(size[1]),
        jacobian_high=np.exp(size[2]),
        divergence=nats[0],
        divergence_low=nats[1],
        divergence_high=nats[2],
        options={
            "n_probes": options.n_probes,
            "seed": options.seed,
            "other_source": "the next document's",
        },
    )
