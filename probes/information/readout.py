"""Small trained readouts: the predictive families in which a layer's usable information is measured.

One module serves them all: inputs -> `rank` directions -> logits over classes, with or without a
SiLU on the directions in between. Without it the family is softmax-linear of low rank (a probe);
with it, and with the embedding of W_0 beside the state, it is a one-layer draft head that can hold
interactions between both, as Medusa heads made sequential do (Hydra, 2402.05109), and its held-out
cross-entropy is estimator E3b of the surplus. Deviations from such heads: the output is learned and
of low rank over a reduced vocabulary instead of the frozen unembedding (on the embedded model the
losses are alike and training is faster), and states are scaled to unit root mean square.

Trained by AdamW for a few epochs, more of them where the rows are few (see `ReadoutOptions.passes`);
the epoch with the least loss on other documents is kept, so that more of them cannot flatter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from ..errors import OptionError
from .resampling import require
from .softmax_probe import class_law

EVALUATED = 2048
"""Rows evaluated at a time."""
ROWS_PER_FREEDOM = 4
"""Training rows a readout wants per input and per class; below, its held-out loss shows
overfitting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadoutOptions:
    """Size and training of a readout."""

    rank: int = 128
    """Directions between inputs and classes."""
    interacts: bool = False
    """Whether a SiLU stands between, so that inputs can interact (a draft head) or not (a probe)."""
    epochs: int = 2
    """Passes over the training rows, at least."""
    min_steps: int = 150
    """Steps at least: few rows are passed over more often than `epochs`. As many as two epochs of
    40,000 rows take; with far fewer a readout is hardly trained, and its bound is loose."""
    batch: int = 512
    """Rows per step."""
    learning_rate: float = 3e-3
    """Peak learning rate; it rises over a tenth of the steps and falls to zero."""
    weight_decay: float = 0.01
    """AdamW's decay of weights."""
    seed: int = 0
    """Fixes initial weights and the order of rows."""

    def __post_init__(self) -> None:
        sizes = (self.rank, self.epochs, self.batch)
        if min(sizes) < 1 or self.min_steps < 0 or self.learning_rate <= 0:
            raise OptionError(
                "rank, epochs and batch must be at least 1, min_steps at least 0 and learning_rate "
                f"positive, got {sizes}, {self.min_steps}, {self.learning_rate}."
            )

    def passes(self, n_rows: int) -> tuple[int, int]:
        """Passes over so many training rows, and steps of each (of full batches)."""
        steps = max(n_rows // self.batch, 1)
        return max(self.epochs, -(-self.min_steps // steps)), steps


@dataclass(frozen=True)
class Inputs:
    """What a readout sees of each row: its state (or zeros) and the embeddings of tokens after it."""

    states: Float[Tensor, "rows d_model"] | None
    """Scaled states; None for zeros, the family without H."""
    d_model: int
    """Width of a state."""
    table: Float[Tensor, "vocab d_embedding"]
    """Scaled embeddings."""
    given: Int64[Tensor, "rows given"]
    """Tokens W_0, ... that are known; no columns where none is."""

    @property
    def width(self) -> int:
        """Inputs per row."""
        return self.d_model + self.given.shape[1] * self.table.shape[1]

    def __len__(self) -> int:
        return len(self.given)

    def at(self, rows: Tensor | slice) -> Float[Tensor, "chosen inputs"]:
        """Inputs of some rows, side by side."""
        given = self.given[rows]
        states = torch.zeros(len(given), self.d_model) if self.states is None else self.states[rows]
        return torch.cat([states, self.table[given].flatten(1)], dim=1)

    def without_states(self) -> Inputs:
        """The same rows with zeros for states."""
        return Inputs(None, self.d_model, self.table, self.given)

    def __repr__(self) -> str:
        what = "zeros" if self.states is None else "states"
        return f"Inputs({len(self)} rows: {what}, {self.given.shape[1]} tokens)"


def scaled(rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_model"]:
    """Rows at unit root mean square in float32: massive activations would drown everything else."""
    rows = rows.float()
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True) + 1e-12)


class Readout(nn.Module):
    """Logits over the classes of several targets at once.

    Args:
        n_inputs: Width of the inputs.
        law: Class frequencies of each target, where training starts.
        options: Size.
    """

    def __init__(
        self, n_inputs: int, law: Float[Tensor, "targets classes"], options: ReadoutOptions
    ) -> None:
        super().__init__()
        self.n_targets, self.n_classes = law.shape
        self.interacts = options.interacts
        generator = torch.Generator().manual_seed(options.seed)
        start = torch.randn(n_inputs, options.rank, generator=generator) * n_inputs**-0.5
        self.inward = nn.Parameter(start)
        self.offset = nn.Parameter(torch.zeros(options.rank))
        self.outward = nn.Parameter(torch.zeros(options.rank, law.numel()))
        self.bias = nn.Parameter(law.log().float().flatten())

    def forward(
        self, inputs: Float[Tensor, "rows inputs"]
    ) -> Float[Tensor, "rows targets classes"]:
        """Logits."""
        directions = inputs @ self.inward + self.offset
        if self.interacts:
            directions = functional.silu(directions)
        logits = torch.addmm(self.bias, directions, self.outward)
        return logits.unflatten(1, (self.n_targets, self.n_classes))

    @torch.no_grad()
    def losses(
        self, inputs: Inputs, classes: Int64[Tensor, "rows targets"]
    ) -> Float[Tensor, "rows targets"]:
        """Cross-entropy of each row and target, nats."""
        found = [
            functional.cross_entropy(self(rows).transpose(1, 2), classes[part], reduction="none")
            for part, rows in _parts(inputs)
        ]
        return torch.cat(found)

    @torch.no_grad()
    def choices(self, inputs: Inputs, *, n_kept: int) -> Int64[Tensor, "rows targets"]:
        """Likeliest class among the first `n_kept` (those that stand for one token)."""
        return torch.cat([self(rows)[..., :n_kept].argmax(-1) for _, rows in _parts(inputs)])


def _parts(inputs: Inputs) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(inputs), EVALUATED):
        part = slice(start, start + EVALUATED)
        yield part, inputs.at(part)


@dataclass(frozen=True)
class Split:
    """The same inputs and classes on three sets of documents."""

    train: tuple[Inputs, Tensor]
    choose: tuple[Inputs, Tensor]
    test: tuple[Inputs, Tensor]

    def without_states(self) -> Split:
        """The same with zeros for states."""
        parts = (self.train, self.choose, self.test)
        return Split(*((inputs.without_states(), classes) for inputs, classes in parts))


def fit_readout(
    split: Split, n_classes: int, options: ReadoutOptions | None = None, *, name: str = "A readout"
) -> Readout:
    """Train a readout.

    Args:
        split: Inputs and classes (rows, targets), by part.
        n_classes: Classes of every target.
        options: Size and training.
        name: What to call it in a refusal.

    Raises:
        TooFewTokensError: Fewer training rows than `ROWS_PER_FREEDOM` per input and class.
    """
    chosen = options or ReadoutOptions()
    inputs, classes = split.train
    need = ROWS_PER_FREEDOM * (inputs.width + n_classes)
    require(name, "tokens to train on", have=len(inputs), need=need)
    law = torch.stack([class_law(column, n_classes) for column in classes.T])
    readout = Readout(inputs.width, law, chosen)
    epochs, steps = chosen.passes(len(inputs))
    optimiser = torch.optim.AdamW(
        readout.parameters(), lr=chosen.learning_rate, weight_decay=chosen.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, chosen.learning_rate, total_steps=epochs * steps + 1, pct_start=0.1
    )
    generator = torch.Generator().manual_seed(chosen.seed)
    best, least = copy.deepcopy(readout.state_dict()), float(readout.losses(*split.choose).sum())
    for _ in range(epochs):
        order = torch.randperm(len(inputs), generator=generator)
        for rows in order.split(chosen.batch)[:steps]:
            with torch.enable_grad():
                logits = readout(inputs.at(rows)).transpose(1, 2)
                loss = functional.cross_entropy(logits, classes[rows]) * classes.shape[1]
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
            optimiser.step()
            schedule.step()
        now = float(readout.losses(*split.choose).sum())
        if now < least:
            best, least = copy.deepcopy(readout.state_dict()), now
    readout.load_state_dict(best)
    return readout.requires_grad_(requires_grad=False)
