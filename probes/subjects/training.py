"""Training a bridge, and letting a new subject join with few items (arXiv 2404.07850, section 3).

    loss = soft_clip(meaning) + cosine_weight (1 - cos) + |signal - rebuilt|^2 + |e_a - e_ab|^2

Predictions and targets have unit norm in the first two. Every step takes one batch of each subject;
the cycle takes two of them, drawn. Joining ("reset-tuning") trains the newcomer's port alone, beside
one source subject in turn; everything else stays bit for bit.

Deviations: the paper's 1e4 x MSE of unit vectors depends on their width (it is 2e4 / d x (1 - cos)), so
the weight here is that of 1 - cos; norms inside blocks are spared weight decay, as is meant there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from .bridge import Bridge, BridgeOptions, port_key
from .data import Subject

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeTraining:
    """The recipe."""

    n_steps: int = 600
    """Optimiser steps."""
    batch: int = 64
    """Items of each subject per step (paper: 50)."""
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule."""
    weight_decay: float = 1e-2
    """On weight matrices only (paper)."""
    temperature: float = 0.005
    """Of the soft contrastive loss (paper)."""
    cosine_weight: float = 0.2
    """Weight of 1 - cos (paper's constants come to 0.10 and 0.34)."""
    rebuild_weight: float = 1.0
    """Weight of rebuilding a subject's own signal (paper's scripts)."""
    cycle_weight: float = 1.0
    """Weight of the cycle (paper's scripts)."""
    seed: int = 0
    """Order of items and pairs, dropout."""

    def __post_init__(self) -> None:
        if self.n_steps < 1 or self.batch < 2 or self.learning_rate <= 0 or self.temperature <= 0:
            raise OptionError(
                "n_steps must be at least 1, batch at least 2, learning_rate and temperature "
                f"positive, got {self.n_steps}, {self.batch}, {self.learning_rate}, "
                f"{self.temperature}."
            )


def soft_clip(
    meaning: Float[Tensor, "items d"], target: Float[Tensor, "items d"], temperature: float
) -> Float[Tensor, ""]:
    """Contrast among items, with the targets' own similarities as soft labels, both ways.

    At least the mean entropy of the labels, reached where `meaning` equals `target`.

    Args:
        meaning: Predictions of unit norm.
        target: Targets of unit norm.
        temperature: Divides all similarities.
    """
    labels = (target @ target.T / temperature).softmax(-1)
    forward = F.cross_entropy(meaning @ target.T / temperature, labels)
    backward = F.cross_entropy(target @ meaning.T / temperature, labels)
    return (forward + backward) / 2


def train_bridge(
    subjects: Sequence[Subject],
    architecture: BridgeOptions | None = None,
    recipe: BridgeTraining | None = None,
    *,
    progress: Progress | None = None,
) -> Bridge:
    """Train a bridge between subjects, from scratch; with one subject, a decoder of its own.

    Args:
        subjects: Who takes part.
        architecture: The bridge's options.
        recipe: How it is trained.
        progress: Called after every step.
    """
    recipe = recipe or BridgeTraining()
    bridge = Bridge(subjects, architecture)
    named = bridge.named_parameters()
    _train(bridge, named, lambda _: list(subjects), recipe, progress, towards_last=False)
    return bridge


def reset_tune(
    bridge: Bridge,
    newcomer: Subject,
    others: Sequence[Subject],
    recipe: BridgeTraining | None = None,
    *,
    progress: Progress | None = None,
) -> Bridge:
    """Let a subject join: its port is made and trained, nothing else moves.

    Args:
        bridge: A trained bridge; gets the newcomer's port.
        newcomer: Who joins, with however few items.
        others: Subjects of the bridge, one of which each step takes part in the cycle.
        recipe: How the port is trained.
        progress: Called after every step.

    Raises:
        OptionError: The newcomer's name is taken, or there are no others.
    """
    if not others:
        raise OptionError("reset_tune needs at least one subject of the bridge for the cycle.")
    bridge.join(newcomer)
    own = f"ports.{port_key(newcomer.name)}."
    named = [(k, p) for k, p in bridge.named_parameters() if k.startswith(own)]
    _train(
        bridge,
        named,
        lambda step: [others[step % len(others)], newcomer],
        recipe or BridgeTraining(),
        progress,
        towards_last=True,
    )
    return bridge


def _train(
    bridge: Bridge,
    named: Iterable[tuple[str, nn.Parameter]],
    taking_part: Callable[[int], list[Subject]],
    recipe: BridgeTraining,
    progress: Progress | None,
    *,
    towards_last: bool,
) -> None:
    named = list(named)
    chosen = {id(parameter) for _, parameter in named}
    frozen = [p for p in bridge.parameters() if id(p) not in chosen and p.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for _, p in named if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for _, p in named if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.learning_rate, total_steps=recipe.n_steps + 1, final_div_factor=100
    )
    generator = torch.Generator().manual_seed(recipe.seed)
    for parameter in frozen:
        parameter.requires_grad = False
    bridge.train()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(recipe.seed)
            for step in range(recipe.n_steps):
                part = taking_part(step)
                loss = _loss(bridge, part, recipe, generator, towards_last=towards_last)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
                optimiser.step()
                schedule.step()
                if progress is not None:
                    progress(step + 1, recipe.n_steps, f"loss {loss.item():.2f}")
    finally:
        for parameter in frozen:
            parameter.requires_grad = True
        bridge.eval()


def _loss(
    bridge: Bridge, subjects: list[Subject], recipe: BridgeTraining, generator: torch.Generator,
    *, towards_last: bool,
) -> Tensor:  # fmt: skip
    """One batch of every subject; the cycle goes between two that are drawn, or from first to last."""
    embeddings, losses = [], []
    for subject in subjects:
        n = min(recipe.batch, len(subject.train))
        rows = torch.randperm(len(subject.train), generator=generator)[:n]
        port = bridge.port(subject.name)
        pooled = port.pool(subject.train[rows])
        embedding = port.embed(pooled)
        embeddings.append(embedding)
        meaning = F.normalize(bridge.translator(embedding), dim=-1)
        target = F.normalize(subject.train_targets[rows], dim=-1)
        losses.append(
            soft_clip(meaning, target, recipe.temperature)
            + recipe.cosine_weight * (1 - (meaning * target).sum(-1)).mean()
            + recipe.rebuild_weight * F.mse_loss(port.build(embedding), pooled)
        )
    loss = torch.stack(losses).mean()
    if len(subjects) > 1 and recipe.cycle_weight:
        first, second = torch.randperm(len(subjects), generator=generator)[:2].tolist()
        if towards_last:
            first, second = 0, len(subjects) - 1
        port = bridge.port(subjects[second].name)
        again = port.embed(port.build(embeddings[first]))
        loss = loss + recipe.cycle_weight * F.mse_loss(again, embeddings[first])
    return loss
