"""Training small language models on rows of token ids, so that an interrupted run goes on exactly.

AdamW with a cosine from the peak to a tenth of it after a warm-up, as in arXiv 2503.07639's table; the
weight decay and betas the paper leaves out are nanoGPT's. Batches depend on seed and step alone.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor
from transformers import PreTrainedModel

from ...probes.errors import OptionError, RunMismatchError
from .network import IGNORED

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How a model is trained."""

    steps: int = 500
    """Optimiser steps of the whole schedule."""
    n_rows: int = 16
    """Rows of a batch."""
    peak: float = 3e-3
    """Largest learning rate; small models bear ten times the paper's 3e-4."""
    warmup: int = 50
    """Steps to reach it."""
    weight_decay: float = 0.1
    """AdamW's, on matrices."""
    clip: float = 1.0
    """Largest gradient norm."""
    seed: int = 0
    """Seed of batches."""
    keep_every: int = 50
    """Steps between checkpoints."""

    def __post_init__(self) -> None:
        if min(self.steps, self.n_rows, self.keep_every) < 1 or self.warmup < 0 or self.peak <= 0:
            raise OptionError(
                "steps, n_rows and keep_every must be at least 1, warmup at least 0 and peak above 0."
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.peak * (0.1 + 0.45 * (1 + math.cos(math.pi * min(done, 1.0))))


def train(
    model: PreTrainedModel,
    rows: Int64[Tensor, "rows positions"],
    options: TrainOptions,
    *,
    first: int = 0,
    last: int | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> list[float]:
    """Train in place.

    Args:
        model: A causal language model that returns a loss when given labels.
        rows: Token ids; IGNORED pads the end of a row.
        options: How.
        first: Step to begin with; later ones continue a schedule begun elsewhere.
        last: Step to end before; None for the schedule's end.
        checkpoint: Where to keep weights and optimiser; where it exists, training goes on from it. It
            is left at the end.
        progress: Called after every step.

    Returns:
        Loss of each step from `first`, nats.

    Raises:
        RunMismatchError: The checkpoint was made with other options.
    """
    last = options.steps if last is None else last
    optimizer = _optimizer(model, options)
    losses: list[float] = []
    plan = {**asdict(options), "first": first, "n_rows_of_data": len(rows)}
    if checkpoint is not None and checkpoint.exists():
        held = torch.load(checkpoint, map_location="cpu", weights_only=True)
        if held["plan"] != plan:
            raise RunMismatchError(
                f"{checkpoint.name} was made with other options or data; delete it or give the same."
            )
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
        losses = held["losses"]

    def keep() -> None:
        if checkpoint is not None:
            _save(
                checkpoint,
                {"plan": plan, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                 "losses": losses},
            )  # fmt: skip

    model.loss_type = "ForCausalLM"  # transformers does not tell GPT-2's from its class' name
    model.train()
    for step in range(first + len(losses), last):
        batch = rows[_drawn(len(rows), options, step)].to(model.device)
        for group in optimizer.param_groups:
            group["lr"] = options.rate(step)
        padding = batch == IGNORED
        out: Any = model(
            batch.masked_fill(padding, 0), labels=batch, use_cache=False
        )  # causal: padding at the end changes nothing before it
        optimizer.zero_grad(set_to_none=True)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        optimizer.step()
        losses.append(float(out.loss.detach()))
        if (step + 1) % options.keep_every == 0:
            keep()
        if progress is not None:
            progress(step + 1 - first, last - first, f"loss {losses[-1]:.3f}")
    keep()
    model.eval()
    return losses


def _drawn(n: int, options: TrainOptions, step: int) -> Tensor:
    """Rows of a step: epochs of shuffled rows, one after the other."""
    per_epoch = max(n // options.n_rows, 1)
    epoch, number = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + epoch)
    order = torch.randperm(n, generator=generator)
    return order[number * options.n_rows : (number + 1) * options.n_rows]


def _optimizer(model: PreTrainedModel, options: TrainOptions) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    # Fused experts keep biases as matrices; no bias decays, whatever its shape.
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    decayed = [p for p in parameters if p.ndim > 1 and id(p) not in biases]
    chosen = {id(p) for p in decayed}
    rest = [p for p in parameters if id(p) not in chosen]
    groups = [
        {"params": decayed, "weight_decay": options.weight_decay},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.peak, betas=(0.9, 0.95))


def _save(path: Path, state: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)  # noqa: PTH105 - atomic on all systems
