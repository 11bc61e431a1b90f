"""Tasks of the experiments: multi-task sparse parity and modular addition.

Multi-task sparse parity: each of three tasks owns four bits, three control bits say in one-hot
which task is asked, and the label is the parity of that task's bits (arXiv 2512.13568, after the
parity tasks of arXiv 2303.13506). Every pattern of the 12 bits occurs with every task; a fifth of
each task's patterns and labels is kept for testing. Rows are shuffled, which the authors' loader
does not do.

Modular addition: a + b mod 53 from two one-hot numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...probes.errors import OptionError


@dataclass(frozen=True)
class Task:
    """A finite task, whole: every input there is."""

    x: Float[Tensor, "rows inputs"]
    labels: Int[Tensor, " rows"]
    stratum: Int[Tensor, " rows"]
    """Rows of one stratum are split in the same proportion."""
    n_outputs: int
    """Logits a network needs; 1 for a yes or no."""

    def split(
        self, seeds: Int[Tensor, " models"], *, train_share: float
    ) -> tuple[Int[Tensor, "models train"], Int[Tensor, "models test"]]:
        """Training and test rows of each model, stratified; equal seeds give equal rows."""
        train, test = [], []
        for seed in seeds.tolist():
            generator = torch.Generator().manual_seed(seed)
            for value in self.stratum.unique().tolist():
                rows = (self.stratum == value).nonzero()[:, 0]
                rows = rows[torch.randperm(len(rows), generator=generator)]
                n_train = round(len(rows) * train_share)
                train.append(rows[:n_train])
                test.append(rows[n_train:])
        n_models = len(seeds)
        return torch.cat(train).view(n_models, -1), torch.cat(test).view(n_models, -1)


def sparse_parity(n_tasks: int = 3, bits_per_task: int = 4) -> Task:
    """Multi-task sparse parity, every pattern under every task.

    Raises:
        OptionError: More than 2^16 rows would come out, or a count is below 1.
    """
    n_bits = n_tasks * bits_per_task
    if min(n_tasks, bits_per_task) < 1 or n_tasks * 2**n_bits > 2**16:
        raise OptionError(
            f"n_tasks 2^(n_tasks bits_per_task) must be 2 to 65,536 rows, got {n_tasks} tasks of "
            f"{bits_per_task} bits; take fewer."
        )
    patterns = torch.arange(2**n_bits)[:, None] >> torch.arange(n_bits) & 1
    control = torch.eye(n_tasks).repeat_interleave(2**n_bits, dim=0)
    x = torch.cat([patterns.repeat(n_tasks, 1).float(), control], dim=1)
    parities = patterns.view(-1, n_tasks, bits_per_task).sum(2) % 2
    labels = parities.T.reshape(-1)
    task = torch.arange(n_tasks).repeat_interleave(2**n_bits)
    return Task(x, labels, task * 2 + labels, 1)


def modular_addition(modulus: int = 53) -> Task:
    """(a + b) mod `modulus` for every pair, both numbers as one-hot vectors side by side.

    Raises:
        OptionError: The modulus is below 2.
    """
    if modulus < 2:
        raise OptionError(f"modulus must be at least 2, got {modulus}.")
    numbers = torch.arange(modulus)
    a, b = numbers.repeat_interleave(modulus), numbers.repeat(modulus)
    one_hot = torch.eye(modulus)
    x = torch.cat([one_hot[a], one_hot[b]], dim=1)
    return Task(x, (a + b) % modulus, torch.zeros_like(a), modulus)
