"""How many features do compressed programs carry (arXiv 2512.13568, Tracr models)?

Compiled transformers that reverse or sort a sequence (`programs.py`; compiled by hand, not trained)
have one dimension per variable's value. Their residual stream is squeezed through a matrix W of d
rows by relu(W^T W x) after every write, and W alone is trained to keep answers and streams, all
widths and seeds in one tensor. The squeezed states W x are read through dictionaries of one size.
The paper: both programs sit at about 12 (reverse) and 10 (sort) features, psi rises from 0.3 to
about 1 as d shrinks from 45, then the task collapses: psi never passes 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ....probes.errors import OptionError
from ..claims import Claim
from ..journal import Progress, Rows
from ..programs import Program, Squeeze, compile_program
from ..reading import read_tied
from ..study import Study, over_seeds
from ..tied import TiedOptions, train_tied

WORKS = 0.95
"""Share of right answers from which on a compressed program still works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SortOptions:
    """Size of the experiment."""

    programs: tuple[Literal["reverse", "sort"], ...] = ("reverse", "sort")
    """Which programs."""
    widths: tuple[int, ...] = (4, 6, 8, 12, 16, 24, 32, 45)
    """d, dimensions of the squeezed stream (paper: from 45 down); wider is cut to the program's."""
    n_seeds: int = 3
    """Matrices per width."""
    n_steps: int = 800
    """Steps that train the matrices."""
    batch_rows: int = 32
    """Sequences per step."""
    learning_rate: float = 3e-3
    """Of Adam, falling linearly to zero."""
    n_latents: int = 128
    """Latents of every dictionary."""
    l1: float = 0.1
    """Penalty of the dictionaries (paper)."""
    sae_epochs: int = 30
    """Of the dictionaries."""
    n_sequences: int = 256
    """Sequences a dictionary is trained and read on, all positions and layers."""

    def __post_init__(self) -> None:
        if not self.programs or not self.widths or min(self.widths) < 1 or self.n_seeds < 1:
            raise OptionError(
                "programs and widths must not be empty, widths and n_seeds at least 1, got "
                + repr(self)
            )


def _program(options: SortOptions, name: str, progress: Progress) -> Rows:
    program = compile_program("reverse" if name == "reverse" else "sort")
    widths = sorted({min(width, program.size) for width in options.widths})
    each = [width for width in widths for _ in range(options.n_seeds)]
    matrices = compress(
        program, each, n_steps=options.n_steps, batch_rows=options.batch_rows,
        learning_rate=options.learning_rate,
        progress=lambda done, total, note: progress(done, 2 * total, note),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    tokens, answers = program.sequences(options.n_sequences, generator)
    with torch.no_grad():
        logits, stream = program.run(tokens, squeeze_by(matrices))
        right = (logits.argmax(-1) == answers)[:, answers >= 0].float().mean(1)
        states = torch.stack(stream, 1)[:, :, tokens >= 0].flatten(1, 2)
    found: Rows = []
    for part, width in enumerate(widths):
        models = [i for i, of in enumerate(each) if of == width]
        hidden = states[models] @ matrices[models, :width].transpose(1, 2)
        recipe = TiedOptions(
            n_latents=options.n_latents,
            l1=options.l1,
            max_epochs=options.sae_epochs,
            batch_rows=256,
        )
        for seed, reading in enumerate(read_tied(train_tied(hidden, recipe), hidden)):
            score = right[models[seed]].item()
            found.append(
                reading.as_dict() | {"x": width, "group": name, "seed": seed, "score": score}
            )
        progress(len(widths) + part + 1, 2 * len(widths), "dictionaries")
    return found


def squeeze_by(matrices: Float[Tensor, "models width size"]) -> Squeeze:
    """relu(W^T W x) per model; streams get the model axis at the first write."""

    def squeeze(x: Tensor) -> Tensor:
        wide = x if x.ndim == 4 else x.expand(len(matrices), *x.shape)
        flat = wide.flatten(1, 2)
        return (flat @ matrices.transpose(1, 2) @ matrices).relu().view(wide.shape)

    return squeeze


def compress(
    program: Program,
    widths: list[int],
    *,
    n_steps: int,
    batch_rows: int = 64,
    learning_rate: float = 3e-3,
    seed: int = 0,
    progress: Progress | None = None,
) -> Float[Tensor, "models width size"]:
    """Train matrices that squeeze a program's stream, one per entry of `widths`.

    The loss is cross-entropy of the answers plus the squared error of all streams against the program's
    own (as in Tracr's compression). Narrower matrices are padded with rows of zeros.

    Args:
        program: Its weights stay as they are.
        widths: Rows of each matrix.
        n_steps: Adam steps.
        batch_rows: Sequences per step.
        learning_rate: Falls linearly to zero.
        seed: Fixes initial matrices and sequences.
        progress: Called now and then.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(len(widths), program.size, program.size, generator=generator)
    # Orthonormal rows: at full width nothing is lost from the beginning.
    weight = torch.linalg.qr(drawn).Q[:, : max(widths)].contiguous().requires_grad_()
    used = (torch.arange(max(widths)) < torch.tensor(widths)[:, None])[..., None]
    optimiser = torch.optim.Adam([weight], lr=learning_rate)
    for step in range(n_steps):
        tokens, answers = program.sequences(batch_rows, generator)
        _, truth = program.run(tokens)
        logits, stream = program.run(tokens, squeeze_by(weight * used))
        asked = answers >= 0
        # One-hot answers become logits by a factor, as in the compiled model's own unembedding.
        chosen = (10 * logits[:, asked]).flatten(0, 1)
        wanted = answers[asked].repeat(len(widths))
        loss = nn.functional.cross_entropy(chosen, wanted)
        for mine, theirs in zip(stream, truth, strict=True):
            loss = loss + (mine - theirs).square().sum(-1)[:, tokens >= 0].mean()
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / n_steps)
        optimiser.zero_grad(set_to_none=True)
        (loss * len(widths)).backward()
        optimiser.step()
        if progress is not None and (step + 1) % 10 == 0:
            progress(step + 1, n_steps, f"compressing {program.name}")
    return (weight * used).detach()


def _claims(rows: Rows, name: str) -> list[Claim]:
    mine = [row for row in rows if row["group"] == name]
    widths = sorted({row["x"] for row in mine})
    scores = {w: np.mean([row["score"] for row in mine if row["x"] == w]) for w in widths}
    working = [w for w in widths if scores[w] >= WORKS]
    if not working:
        return []
    narrow, wide = min(working), max(working)
    psi, features = (
        {w: np.array([row[key] for row in mine if row["x"] == w]) for w in widths}
        for key in ("psi", "features")
    )
    levels = np.stack([features[w] for w in working])
    return [
        Claim.over_seeds(
            psi[narrow] - psi[wide],
            text=f"{name}: psi rises as the stream narrows ({wide:g} to {narrow:g}, while it works)",
            paper="0.3 to about 1",
            side="above",
        ),
        Claim.over_seeds(
            psi[narrow],
            text=f"{name}: psi stays at or below 1 while it works (width {narrow:g})",
            paper="never above 1",
            side="below",
            bound=1.0,
        ),
        Claim.over_seeds(
            levels.max(0) / levels.min(0),
            text=f"{name}: F keeps its level over working widths (largest over smallest below 1.5)",
            paper=f"about {12 if name == 'reverse' else 10} features throughout",
            side="below",
            bound=1.5,
        ),
    ]


sort = Study(
    name="sort",
    Options=SortOptions,
    question="How many features do compressed algorithms carry?",
    x_name="width of the squeezed stream",
    score_name="share of right answers",
    units=lambda options: options.programs,
    measure=lambda options: partial(_program, options),
    claims=lambda rows, options: [c for name in options.programs for c in _claims(rows, name)],
    interval=over_seeds("matrices"),
    notes=lambda _: (
        "The transformers are compiled by hand in Tracr's manner (Tracr needs JAX), not trained.",
        "Only the compression is trained.",
        f"A width works where {WORKS:.0%} of the answers are right, on average over seeds.",
    ),
)
"""Squeeze compiled programs and count the features of what is left."""
