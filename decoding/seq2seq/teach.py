"""Teaching small encoder-decoder targets, and block writers from what a target says.

A block writer learns as 2205.10350 (section 4.2) and GLAT (2008.07905) describe: an output is cut at a
random place, the rest becomes masks; the writer guesses once without a gradient, and is shown some of
the masked tokens at random, a share of as many as it got wrong; it is taught on those still hidden. The
share falls from 0.5 to 0.3. Outputs are the target's own greedy ones, since those are to be matched.

Deviations: small data sets of pairs in memory; one learning rate that rises and falls (there: inverse
square root, checkpoints averaged); the encoder begins at random, not from the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from ...probes import Model
from ...probes.errors import OptionError
from .causal import AsCausal
from .nar import MASK, PAD, BlockWriter

Progress = Callable[[int, int, str], None]
Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
HIDDEN = -100
"""Label of places that are not taught."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeachOptions:
    """How a target or a block writer is taught."""

    steps: int = 400
    """Training steps."""
    batch: int = 64
    """Pairs per step."""
    learning_rate: float = 3e-3
    """Highest rate; it rises over a twentieth of the steps and falls to zero as a cosine."""
    block: int = 16
    """Masks that a writer is taught to fill at once (the paper: 25)."""
    smoothing: float = 0.1
    """Label smoothing of the writer's loss."""
    reveal: tuple[float, float] = (0.5, 0.3)
    """Share of the wrong tokens that is shown, at the first and at the last step."""
    seed: int = 0
    """Seed of the order of pairs, of cuts and of what is shown."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "block"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if not all(0 <= share <= 1 for share in self.reveal):
            raise OptionError(f"reveal must be two shares in [0, 1], got {self.reveal}.")


def teach_target(
    module: PreTrainedModel,
    pairs: Pairs,
    *,
    options: TeachOptions | None = None,
    progress: Progress = lambda done, total, note: None,
) -> float:
    """Teach an encoder-decoder module to turn sources into outputs.

    Args:
        module: Changed in place; in evaluation mode afterwards.
        pairs: Token ids of sources and outputs, end tokens included.
        options: How.
        progress: Called with steps done, all steps and a few words.

    Returns:
        The last loss, nats per token.
    """
    rules = options or TeachOptions()
    model: Any = module

    def loss(chosen: Pairs, share: float) -> Float[Tensor, ""]:
        sources = _rows([source for source, _ in chosen], PAD).to(module.device)
        labels = _rows([output for _, output in chosen], HIDDEN).to(module.device)
        known = sources.clamp(min=0)
        return model(input_ids=known, attention_mask=(sources != PAD).long(), labels=labels).loss

    return _teach(module, pairs, rules, loss, torch.Generator().manual_seed(rules.seed), progress)


def teach_block_writer(
    target: Model,
    sources: Sequence[Sequence[int]],
    *,
    writer: BlockWriter | None = None,
    options: TeachOptions | None = None,
    max_new_tokens: int = 64,
    progress: Progress = lambda done, total, note: None,
) -> BlockWriter:
    """Teach a block writer to foresee a target's greedy outputs.

    Args:
        target: An encoder-decoder model, opened by `open_seq2seq`.
        sources: Token ids; the target answers each of them first.
        writer: Taught on; None for a new one.
        options: How.
        max_new_tokens: Longest answer.
        progress: Called with steps done, all steps and a few words.

    Raises:
        OptionError: The target is no encoder-decoder model, or there are no sources.
    """
    if not isinstance(target.module, AsCausal) or not sources:
        raise OptionError("A block writer needs an encoder-decoder model and at least one source.")
    rules = options or TeachOptions()
    with torch.random.fork_rng():
        torch.manual_seed(rules.seed)
        taught = (writer or BlockWriter(target.d_vocab)).to(target.device)
    outputs = target_outputs(target.module, sources, max_new_tokens=max_new_tokens)
    longest = taught.options.max_positions
    pairs = [
        (source, output)
        for source, output in zip(sources, outputs, strict=True)
        if output and len(source) <= longest and len(output) + rules.block <= longest
    ]
    draw = torch.Generator().manual_seed(rules.seed)

    def loss(chosen: Pairs, progressed: float) -> Float[Tensor, ""]:
        given, labels = cut_pairs([output for _, output in chosen], rules.block, draw)
        given, labels = given.to(target.device), labels.to(target.device)
        memory = taught.encode(_rows([source for source, _ in chosen], PAD).to(target.device))
        with torch.no_grad():
            guess = taught(memory, given).argmax(-1)
        first, last = rules.reveal
        shown = reveal(labels, guess, first + (last - first) * progressed, draw)
        given = torch.where(shown, labels, given)
        logits = taught(memory, given)
        return nn.functional.cross_entropy(
            logits.transpose(1, 2),
            labels.masked_fill(shown, HIDDEN),
            ignore_index=HIDDEN,
            label_smoothing=rules.smoothing,
        )

    _teach(taught, pairs, rules, loss, draw, progress)
    return taught


@torch.inference_mode()
def target_outputs(
    face: AsCausal, sources: Sequence[Sequence[int]], *, max_new_tokens: int, batch: int = 64
) -> list[list[int]]:
    """A target's greedy outputs, end tokens included."""
    inner: Any = face.inner
    found: list[list[int]] = []
    end = inner.generation_config.eos_token_id
    for start in range(0, len(sources), batch):
        rows = _rows(sources[start : start + batch], PAD).to(face.device)
        made = inner.generate(
            rows.clamp(min=0),
            attention_mask=(rows != PAD).long(),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
        )[:, 1:].tolist()
        found += [row[: row.index(end) + 1] if end in row else row for row in made]
    return found


def cut_pairs(
    outputs: Sequence[Sequence[int]], block: int, draw: torch.Generator
) -> tuple[Int64[Tensor, "batch places"], Int64[Tensor, "batch places"]]:
    """Outputs cut at a random place with at least one token behind it; masks follow.

    Args:
        outputs: Token ids.
        block: Masks behind the cut, also beyond the output's end, where nothing is taught.
        draw: Of the cuts.

    Returns:
        What the writer is given, and the labels at its masks.
    """
    given, labels = [], []
    for output in outputs:
        cut = int(torch.randint(len(output), (), generator=draw))
        rest = list(output[cut : cut + block])
        given.append([*output[:cut], *[MASK] * block])
        labels.append([*[HIDDEN] * cut, *rest, *[HIDDEN] * (block - len(rest))])
    return _rows(given, PAD), _rows(labels, HIDDEN)


def reveal(
    labels: Int64[Tensor, "batch places"],
    guess: Int64[Tensor, "batch places"],
    share: float,
    draw: torch.Generator,
) -> Tensor:
    """Which masked tokens are shown: of each row at random, `share` times as many as it got wrong.

    Args:
        labels: At the masks; `HIDDEN` elsewhere.
        guess: What the writer made of them.
        share: Of the wrong ones.
        draw: Which.
    """
    masked = labels != HIDDEN
    wrong = ((guess != labels) & masked).sum(1)
    order = torch.rand(labels.shape, generator=draw).to(labels.device)
    order = order.masked_fill(~masked, 2.0).argsort(1).argsort(1)
    return (order < (wrong * share).long()[:, None]) & masked


def _teach(
    module: nn.Module,
    pairs: Pairs,
    rules: TeachOptions,
    loss: Callable[[Pairs, float], Tensor],
    draw: torch.Generator,
    progress: Progress,
) -> float:
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=rules.learning_rate, weight_decay=0.01, eps=1e-6
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rules.learning_rate, total_steps=rules.steps + 1, pct_start=0.05
    )
    value = float("nan")
    module.train()
    with torch.random.fork_rng():
        torch.manual_seed(rules.seed)  # of dropout
        for step in range(rules.steps):
            rows = torch.randint(len(pairs), (rules.batch,), generator=draw).tolist()
            found = loss([pairs[row] for row in rows], step / rules.steps)
            optimizer.zero_grad()
            found.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            value = float(found.detach())
            progress(step + 1, rules.steps, f"loss {value:.3f}")
    module.eval()
    return value


def _rows(sequences: Sequence[Sequence[int]], fill: int) -> Int64[Tensor, "batch places"]:
    rows = [torch.tensor(list(sequence), dtype=torch.int64) for sequence in sequences]
    return pad_sequence(rows, batch_first=True, padding_value=fill)
