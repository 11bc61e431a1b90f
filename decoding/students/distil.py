"""Teaching a student: its distribution is drawn to the target's on the target's own texts.

The loss is KL(target || student) over the student's tokens, per position (forward KL; 2310.08461
compares divergences for drafting and finds the target's own texts to matter most). The target's final
states, and those its shared layers hand to the student's own, are computed once and kept in memory at
16 bits; its logits are recomputed from them, for the student's tokens only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...probes import Model
from ...probes.errors import OptionError
from ...probes.runfile.atomic import replacing
from .student import CutUnembedding, Student, new_student

Progress = Callable[[int, int, str], None]

READ_AT_ONCE = 16
"""Texts that the target reads in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistilOptions:
    """How a student is taught."""

    layers: tuple[int, ...] | None = None
    """Layers of the target its own begin as; None for the first that is not shared and the last."""
    n_shared: int = 0
    """First layers of the target that run before its own, unchanged."""
    n_kept: int = 8192
    """Tokens it can draft: those most frequent in the texts."""
    steps: int = 300
    """Training steps."""
    batch: int = 12
    """Texts per step."""
    length: int = 224
    """Longest text, tokens; the rest is cut off."""
    learning_rate: float = 1e-3
    """Highest rate; it rises over a twentieth of the steps and falls to zero as a cosine."""
    held_out: int = 24
    """Texts kept from training, to measure with."""
    save_every: int = 25
    """Steps between checkpoints."""
    bfloat16: bool = False
    """Whether products of matrices are taken in bfloat16: twice as fast on processors that have it."""
    seed: int = 0
    """Seed of the order of texts."""

    def __post_init__(self) -> None:
        for name in ("n_kept", "steps", "batch", "length", "held_out", "save_every"):
            if getattr(self, name) < 1:
                raise OptionError(f"{name} must be at least 1, got {getattr(self, name)}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """How good a student is, on texts it was not taught with."""

    kl_nats: float
    """Mean KL(target || student) over the student's tokens."""
    overlap: float
    """Mean sum_x min(p(x), q(x)) over the whole vocabulary: acceptance of sampling at temperature 1."""
    agreement: float
    """How often the two likeliest tokens agree: acceptance of greedy decoding, first position."""
    covered: float
    """Share of the target's probability on tokens the student can draft."""
    n_positions: int


def distil(
    target: Model,
    texts: Sequence[Sequence[int]],
    *,
    options: DistilOptions | None = None,
    checkpoint: Path | None = None,
    progress: Progress = lambda done, total, note: None,
) -> tuple[Student, Distilled]:
    """Make a student of a target.

    Args:
        target: The model to draft for.
        texts: Its own texts, token ids; see `write_texts`. Those that begin alike count once.
        options: How.
        checkpoint: File that takes the state of training every so many steps and from which an
            interrupted call goes on, to the same result.
        progress: Called with steps done, all steps and a few words.

    Returns:
        The student, and how good it is.

    Raises:
        OptionError: There are not enough texts.
    """
    chosen = options or DistilOptions()
    # A text held out must not be taught under another number.
    cut = [list(text) for text in dict.fromkeys(tuple(text[: chosen.length]) for text in texts)]
    if len(cut) <= chosen.held_out:
        raise OptionError(f"{len(cut)} texts are too few to hold {chosen.held_out} out.")
    counts = Counter(token for text in cut for token in text)
    kept = [token for token, _ in counts.most_common(chosen.n_kept)]
    student = new_student(target, layers=chosen.layers, n_shared=chosen.n_shared, kept_ids=kept)
    states: list[_States] = []
    for first in range(0, len(cut), READ_AT_ONCE):
        states += _states(target, cut[first : first + READ_AT_ONCE], chosen)
        progress(0, chosen.steps, f"the target has read {len(states)} of {len(cut)} texts")
    order = torch.Generator().manual_seed(chosen.seed)
    shuffled = torch.randperm(len(cut), generator=order).tolist()
    held, taught = shuffled[: chosen.held_out], shuffled[chosen.held_out :]
    body = student.model.module.model
    everything = body.layers
    body.layers = everything[chosen.n_shared :]  # what comes before them is computed already
    weights = [w for n, w in body.named_parameters() if not n.startswith("embed_tokens.")]
    for weight in weights:
        weight.requires_grad_()
    optimizer = torch.optim.AdamW(weights, lr=chosen.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, chosen.learning_rate, total_steps=chosen.steps + 1, pct_start=0.05
    )
    origin = [target.weights_digest, hashlib.sha256(repr(cut).encode()).hexdigest()]
    made_for = {"options": asdict(chosen), "origin": origin}
    first = _resume(checkpoint, made_for, student, optimizer, schedule, order)
    for step in range(first, chosen.steps):
        rows = [
            taught[i] for i in torch.randint(len(taught), (chosen.batch,), generator=order).tolist()
        ]
        loss = _loss(student, [states[i] for i in rows], bfloat16=chosen.bfloat16)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        progress(step + 1, chosen.steps, f"KL {float(loss.detach()):.3f} nats")
        if checkpoint is not None and (step + 1) % chosen.save_every == 0:
            _keep(checkpoint, made_for, step + 1, student, optimizer, schedule, order)
    for weight in weights:
        weight.requires_grad_(requires_grad=False)
    body.layers = everything
    return student, measure(target, student, [cut[i] for i in held])


@torch.inference_mode()
def measure(target: Model, student: Student, texts: Sequence[Sequence[int]]) -> Distilled:
    """Compare a student with its target, position by position.

    Args:
        target: The target.
        student: Its student.
        texts: Token ids of texts the student was not taught with.
    """
    kl = overlap = agreement = covered = 0.0
    n = 0
    kept = torch.tensor(student.kept_ids, device=target.device)
    for text in texts:
        ids = torch.tensor([list(text)], device=target.device)
        p = target.module(ids).logits[0].float().softmax(-1)
        q = student.model.module(ids).logits[0].float().softmax(-1)
        narrow = p[:, kept] / p[:, kept].sum(-1, keepdim=True)
        gap = narrow.clamp(min=1e-12).log() - q[:, kept].clamp(min=1e-12).log()
        kl += float((narrow * gap).sum())
        overlap += float(torch.minimum(p, q).sum())
        agreement += float((p.argmax(-1) == q.argmax(-1)).sum())
        covered += float(p[:, kept].sum())
        n += len(text)
    return Distilled(
        kl_nats=kl / n,
        overlap=overlap / n,
        agreement=agreement / n,
        covered=covered / n,
        n_positions=n,
    )


class _States(NamedTuple):
    """What the target made of one text, bfloat16."""

    given: Tensor
    """What the student's own layers begin with, (positions, d_model)."""
    final: Tensor
    """What the target unembeds, (positions, d_model)."""


@torch.no_grad()
def _states(target: Model, texts: Sequence[Sequence[int]], options: DistilOptions) -> list[_States]:
    # Padding stands behind the text, where causal attention lets nobody see it.
    ids = pad_sequence([torch.tensor(list(text)) for text in texts], batch_first=True)
    with torch.autocast(target.device.type, torch.bfloat16, enabled=options.bfloat16):
        made = target.module.model(
            ids.to(target.device), use_cache=False, output_hidden_states=True
        )
    given = made.hidden_states[options.n_shared].to(torch.bfloat16)
    final = made.last_hidden_state.to(torch.bfloat16)
    return [
        _States(given[row, : len(text)].clone(), final[row, : len(text)].clone())
        for row, text in enumerate(texts)
    ]


def _loss(student: Student, states: list[_States], *, bfloat16: bool) -> Float[Tensor, ""]:
    """Mean KL(target || student) over the positions of a batch."""
    module = student.model.module
    head = module.lm_head
    assert isinstance(head, CutUnembedding)
    # Padding stands behind the text, where causal attention lets nobody see it.
    given = pad_sequence([text.given for text in states], batch_first=True).to(head.cut)
    real = torch.zeros(given.shape[:2], dtype=torch.bool, device=given.device)
    for row, text in zip(real, states, strict=True):
        row[: len(text.given)] = True
    with torch.autocast(given.device.type, torch.bfloat16, enabled=bfloat16):
        own = module.model(inputs_embeds=given, use_cache=False).last_hidden_state[real]
        logits = head.narrow(own.to(head.cut))
        with torch.no_grad():
            taught = head.narrow(torch.cat([text.final for text in states]).to(head.cut))
    return torch.nn.functional.kl_div(
        logits.float().log_softmax(-1),
        taught.float().log_softmax(-1),
        log_target=True,
        reduction="batchmean",
    )


def _keep(file: Path, made_for: dict[str, Any], step: int, student: Student, *parts: Any) -> None:
    optimizer, schedule, order = parts
    state = made_for | {
        "step": step,
        "student": student.model.module.model.layers.state_dict(),
        "norm": student.model.module.model.norm.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "order": order.get_state(),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as path:
        torch.save(state, path)


def _resume(file: Path | None, made_for: dict[str, Any], student: Student, *parts: Any) -> int:
    """Step to go on from; 0 without a checkpoint of the same options, target and texts."""
    if file is None or not file.exists():
        return 0
    optimizer, schedule, order = parts
    state = torch.load(file, map_location="cpu", weights_only=True)
    if any(state.get(name) != wanted for name, wanted in made_for.items()):
        return 0
    student.model.module.model.layers.load_state_dict(state["student"])
    student.model.module.model.norm.load_state_dict(state["norm"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    order.set_state(state["order"])
    return int(state["step"])
