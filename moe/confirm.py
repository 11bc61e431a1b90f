"""Do candidates matter? Each is ablated alone and all together, against random experts of their layers.

A large output alone proves nothing: outliers of the last layers do not matter, and many ordinary
experts see the first token. The loss decides. A candidate is confirmed if taking it out costs more than
taking out any of the random others of its layer that were tried; with n of those, a candidate that is
no different passes with probability 1 / (n + 1).

Data-agnosticism: the same experts should come out whatever the text (arXiv 2507.23279, section on
calibration data).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..probes.errors import OptionError
from ..probes.model import Model
from ..probes.readings import Texts, next_token
from ..probes.results import Result, described
from .ablate import Mode, ablate_experts
from .criterion import CriterionOptions, FewExpertsWarning
from .effects import matched_draws
from .layers import Expert, moe_layers
from .profile import profile_experts

Progress = Callable[[int, int, str], None]

N_RANDOM = 5


@dataclass(frozen=True, kw_only=True)
class Confirmation(Result):
    """What each candidate costs, alone and together."""

    kind: ClassVar[str] = "expert_confirmation"
    experts: np.ndarray = described("candidates, as layer and expert", axes=("candidates", "pair"))
    mode: str = described("what takes an expert's place")
    baseline: float = described("loss of the whole model", unit="nats")
    alone: np.ndarray = described("loss added by taking it out", axes=("candidates",), unit="nats")
    random: np.ndarray = described(
        "loss added by random others of its layer, one at a time",
        axes=("candidates", "draws"),
        unit="nats",
    )
    confirmed: np.ndarray = described(
        "whether it costs more than every random one", axes=("candidates",)
    )
    together: float = described("loss added by taking out all candidates", unit="nats")
    random_together: np.ndarray = described(
        "loss added by as many random others of the same layers", axes=("draws",), unit="nats"
    )
    n_texts: int = described("texts read")
    n_tokens: int = described("predictions per measurement")


@dataclass(frozen=True, kw_only=True)
class Agnosticism(Result):
    """Whether several corpora give the same super experts."""

    kind: ClassVar[str] = "expert_agnosticism"
    corpora: np.ndarray = described("corpus", axes=("corpora",))
    n_tokens: np.ndarray = described("tokens read", axes=("corpora",))
    experts: np.ndarray = described("found in any, as layer and expert", axes=("experts", "pair"))
    found: np.ndarray = described("whether the corpus finds it", axes=("corpora", "experts"))
    maxima: np.ndarray = described("its maximum there", axes=("corpora", "experts"))
    jaccard: np.ndarray = described(
        "experts found by both over experts found by either; 1 where neither finds any",
        axes=("corpora", "corpora"),
    )

    @property
    def everywhere(self) -> list[Expert]:
        """Experts that every corpus finds."""
        return [(int(layer), int(e)) for layer, e in self.experts[self.found.all(0)]]


def confirm_experts(
    model: Model,
    texts: Texts,
    experts: Sequence[Expert],
    *,
    mode: Mode = "zero",
    n_random: int = N_RANDOM,
    seed: int = 0,
    progress: Progress | None = None,
) -> Confirmation:
    """Measure what taking out candidates costs.

    Args:
        model: A mixture-of-experts model.
        texts: What to read.
        experts: Candidates; the first of them are worth measuring, each costs n_random + 1 passes.
        mode: What takes an expert's place.
        n_random: Random others per candidate.
        seed: Seed of the draws.
        progress: Called after every measurement.

    Raises:
        OptionError: No candidates are given, or no draws.
        UnknownExpertError: There is no such expert.
    """
    if not experts or n_random < 1:
        raise OptionError(
            f"Give at least one candidate and one draw, got {len(experts)} and {n_random}."
        )
    layers = moe_layers(model)
    generator = np.random.default_rng(seed)
    done, total = 0, (n_random + 1) * (len(experts) + 1) + 1

    def loss(removed: Sequence[Expert]) -> float:
        nonlocal done
        with ablate_experts(model, removed, mode=mode):
            found = next_token(model, texts).loss
        done += 1
        if progress is not None:
            progress(done, total, "confirmation")
        return found

    baseline = loss([])
    alone, random = [], []
    for expert in experts:
        alone.append(loss([expert]) - baseline)
        peers = matched_draws(layers, [expert], n_random, generator, avoid=experts)
        random.append([loss(peer) - baseline for peer in peers])
    return Confirmation(
        experts=np.array(experts, dtype=np.int64),
        mode=mode,
        baseline=baseline,
        alone=np.array(alone),
        random=np.array(random),
        confirmed=np.array(alone) > np.array(random).max(1),
        together=loss(experts) - baseline,
        random_together=np.array([
            loss(draw) - baseline for draw in matched_draws(layers, experts, n_random, generator)
        ]),
        n_texts=len(texts),
        n_tokens=sum(len(ids) - 1 for ids in texts.ids),
    )


@torch.no_grad()
def data_agnosticism(
    model: Model,
    corpora: Mapping[str, Texts],
    options: CriterionOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Agnosticism:
    """Profile over several corpora and compare what each finds.

    Raises:
        OptionError: Fewer than two corpora.
        NoExpertsError: The model is dense.
    """
    if len(corpora) < 2:
        raise OptionError(f"Give at least two corpora to compare, got {len(corpora)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewExpertsWarning)
        profiles = [
            profile_experts(model, texts, options, progress=progress) for texts in corpora.values()
        ]
    sets = [set(profile.super_experts) for profile in profiles]
    union = sorted(set().union(*sets))
    first = profiles[0]
    rows = {int(layer): row for row, layer in enumerate(first.layers)}
    return Agnosticism(
        corpora=np.array(list(corpora), dtype=str),
        n_tokens=np.array([profile.n_tokens for profile in profiles]),
        experts=np.array(union, dtype=np.int64).reshape(-1, 2),
        found=np.array([[e in s for e in union] for s in sets], dtype=bool).reshape(len(sets), -1),
        maxima=np.array([
            [p.maxima[rows[layer], e] for layer, e in union] for p in profiles
        ]).reshape(len(sets), -1),
        jaccard=np.array([[len(a & b) / len(a | b) if a | b else 1.0 for b in sets] for a in sets]),
    )
