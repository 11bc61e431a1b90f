"""Which construction still finds its source late in a target? Trained and compared on one task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import OptionError
from ..results import Result, described
from .layers import Seq2Seq, Seq2SeqOptions
from .lm import CausalLM
from .palm import PartialAttentionLM
from .red import CONSTRAINTS, RegularisedEncoderDecoder
from .tasks import Batch, TaskOptions, draw

Progress = Callable[[int, int, str], None]

CONSTRUCTIONS: dict[str, Callable[[Seq2SeqOptions], Seq2Seq]] = {
    "lm": CausalLM,
    "palm": PartialAttentionLM,
    "palm-no-partial": lambda options: PartialAttentionLM(options, "none"),
    **{
        f"red-no-{left}": lambda options, left=left: RegularisedEncoderDecoder(
            options, CONSTRAINTS - {left}
        )
        for left in sorted(CONSTRAINTS)
    },
}
"""Models by name: the two ends, PALM without its point, and the encoder-decoder with one constraint
left out (with none left out it is the language model)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """How each model is trained and asked; the recipe is ours (the paper's could not be read)."""

    n_steps: int = 1500
    """Optimiser steps."""
    n_rows: int = 32
    """Sources per step."""
    learning_rate: float = 2e-3
    """AdamW's, after a warm-up over the first twentieth, falling as a cosine to a tenth."""
    n_test: int = 512
    """Held-out sources."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Initial weights and data of the runs."""

    def __post_init__(self) -> None:
        if min(self.n_steps, self.n_rows, self.n_test, len(self.seeds)) < 1:
            raise OptionError(
                "n_steps, n_rows, n_test and the number of seeds must be at least 1, got "
                f"{self.n_steps}, {self.n_rows}, {self.n_test}, {len(self.seeds)}."
            )


@dataclass(frozen=True, kw_only=True)
class SourceRecall(Result):
    """Accuracy on answers that stand in the source, by how much target lies between."""

    kind: ClassVar[str] = "source_recall"
    task: str = described("which task")
    models: np.ndarray = described("names of the constructions", axes=("models",))
    parameters: np.ndarray = described("trained numbers", axes=("models",))
    bins: np.ndarray = described("target tokens before the answer, mean of the bin", axes=("bins",))
    accuracy: np.ndarray = described(
        "share of answers right, held out", axes=("models", "seeds", "bins")
    )
    loss: np.ndarray = described(
        "held-out loss on the answers", axes=("models", "seeds"), unit="nats"
    )
    chance: float = described("accuracy of guessing")
    options: dict[str, Any] = described("task, size and training")


def train(
    model: Seq2Seq,
    task: TaskOptions,
    options: TrainingOptions,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Seq2Seq:
    """Train a model on freshly drawn batches of a task.

    Args:
        model: Trained in place.
        task: What it learns.
        options: The recipe.
        seed: Draws the data.
        progress: Called after every step.
    """
    generator = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
    warm = max(options.n_steps // 20, 1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimiser, max(options.n_steps - warm, 1), options.learning_rate / 10
    )
    rising = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / warm, total_iters=warm)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [rising, falling], [warm])
    for step in range(options.n_steps):
        batch = draw(task, options.n_rows, generator)
        logits, memory = model(batch.source, batch.lengths, batch.fed)
        loss = answer_loss(logits, batch)
        if model.options.source_weight:
            loss = loss + model.options.source_weight * model.source_loss(memory, batch.source)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, options.n_steps, f"loss {loss.item():.2f}")
    return model


def answer_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the answers, nats."""
    return F.cross_entropy(logits[batch.scored], batch.wanted[batch.scored])


def compare_constructions(
    task: TaskOptions | None = None,
    size: Seq2SeqOptions | None = None,
    options: TrainingOptions | None = None,
    *,
    models: Sequence[str] = tuple(CONSTRUCTIONS),
    n_bins: int | None = None,
    progress: Progress | None = None,
) -> SourceRecall:
    """Train every construction on one task, with every seed, and test where answers are found.

    Args:
        task: What is learnt.
        size: Size of the models; vocabulary and positions follow the task.
        options: Training.
        models: Names out of `CONSTRUCTIONS`.
        n_bins: Parts of the target in which accuracy is given; None for eight, or one per question
            where there are fewer.
        progress: Called after every optimiser step.

    Raises:
        OptionError: A model of another name.
    """
    task, options = task or TaskOptions(), options or TrainingOptions()
    unknown = sorted(set(models) - set(CONSTRUCTIONS))
    if unknown:
        raise OptionError(f"models must be among {list(CONSTRUCTIONS)}, got {unknown}.")
    test = draw(task, options.n_test, torch.Generator().manual_seed(1))
    places = test.scored.nonzero()[:, 1]
    n_bins = n_bins or min(8, task.n_items)
    edges = torch.linspace(0, task.n_target, n_bins + 1)
    bins = torch.bucketize(places, edges[1:-1], right=True)
    accuracy = np.full((len(models), len(options.seeds), n_bins), np.nan)
    losses = np.zeros(accuracy.shape[:2])
    parameters = np.zeros(len(models), dtype=np.int64)
    total = len(models) * len(options.seeds) * options.n_steps
    for i, name in enumerate(models):
        for j, seed in enumerate(options.seeds):
            begun = (i * len(options.seeds) + j) * options.n_steps

            def told(step: int, _: int, note: str, begun: int = begun, name: str = name) -> None:
                if progress is not None:
                    progress(begun + step, total, f"{name}: {note}")

            model = CONSTRUCTIONS[name](_sized(size, task, seed))
            train(model, task, options, seed=seed, progress=told)
            right, losses[i, j] = _test(model, test)
            counts = torch.bincount(bins, minlength=n_bins)
            accuracy[i, j] = (torch.bincount(bins, right.double(), n_bins) / counts).numpy()
            parameters[i] = sum(p.numel() for p in model.parameters())
    centres = torch.bincount(bins, places.double(), n_bins) / torch.bincount(bins, minlength=n_bins)
    return SourceRecall(
        task=task.kind,
        models=np.array(models),
        parameters=parameters,
        bins=centres.numpy(),
        accuracy=accuracy,
        loss=losses,
        chance=1 / task.n_symbols,
        options={"task": asdict(task), "training": asdict(options)}
        | {"size": asdict(_sized(size, task, options.seeds[0]))},
    )


def _sized(size: Seq2SeqOptions | None, task: TaskOptions, seed: int) -> Seq2SeqOptions:
    chosen = asdict(size) if size is not None else {"d_vocab": 0}
    fitting = {
        "d_vocab": task.d_vocab,
        "max_positions": task.n_source + task.n_target,
        "seed": seed,
    }
    return Seq2SeqOptions(**(chosen | fitting))


@torch.no_grad()
def _test(model: Seq2Seq, test: Batch) -> tuple[Tensor, float]:
    logits = model(test.source, test.lengths, test.fed)[0]
    right = logits.argmax(-1)[test.scored] == test.wanted[test.scored]
    return right, answer_loss(logits, test).item()
