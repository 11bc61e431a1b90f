"""What an engine did, row by row: emitted tokens, steps, drafted nodes.

The same tables for every engine. They live in /trace/<engine> of a run file (see docs/run-file.md)
and feed the report's viewer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.storable import text_array

KINDS = (
    "prompt",
    "plain",
    "accepted",
    "bonus",
    "correction",
    "rejected",
    "forced",
    "steered",
    "backtracked",
    "unmasked",
)
"""How a token came about; tables store the index."""

N_CANDIDATES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitted:
    """One emitted token."""

    id: int
    kind: str
    """One of `KINDS`."""
    prob: float
    """Probability under the target's own distribution, before any processor."""
    entropy: float
    """Entropy of that distribution, nats."""
    rank: int
    """Rank of the token in it; 0 is the likeliest."""
    top_ids: tuple[int, ...]
    """Likeliest tokens."""
    top_probs: tuple[float, ...]
    """Their probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One drafted token."""

    token: int
    parent: int
    """Index among the step's nodes; -1 for the root."""
    depth: int
    """1 right after the text."""
    draft_prob: float
    """The drafter's confidence in it once its parent is accepted."""
    target_prob: float
    """Probability under the target's own distribution after its parent, before any processor."""
    entropy: float
    """Entropy of the target's distribution after this node, nats."""
    accepted: bool
    source: str = ""
    """Which drafter, or which part of one, made it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One cycle of an engine: what was drafted, what was emitted, what it took."""

    emitted: tuple[Emitted, ...]
    nodes: tuple[Node, ...] = ()
    seconds: float
    """Wall time of the whole step."""
    seconds_draft: float = 0.0
    seconds_verify: float = 0.0

    @property
    def n_accepted(self) -> int:
        """Drafted tokens that were accepted."""
        return sum(node.accepted for node in self.nodes)


def describe(
    log_probs: Float[Tensor, "n d_vocab"], tokens: Sequence[int], *, kinds: Sequence[str]
) -> tuple[Emitted, ...]:
    """Tokens with the target's own view of them.

    Args:
        log_probs: The target's log-probabilities at their places, before any processor.
        tokens: The tokens emitted.
        kinds: How they came about, each one of `KINDS`.
    """
    probs = log_probs.exp()
    top = probs.topk(min(N_CANDIDATES, probs.shape[-1]))
    own = log_probs[range(len(tokens)), list(tokens)]
    rank = (log_probs > own[:, None]).sum(-1)
    columns = zip(
        tokens,
        kinds,
        own.exp().tolist(),
        torch.special.entr(probs).sum(-1).tolist(),
        rank.tolist(),
        top.indices.tolist(),
        top.values.tolist(),
        strict=True,
    )
    return tuple(
        Emitted(
            id=token,
            kind=kind,
            prob=prob,
            entropy=nats,
            rank=place,
            top_ids=tuple(top_ids),
            top_probs=tuple(top_probs),
        )
        for token, kind, prob, nats, place, top_ids, top_probs in columns
    )


@dataclass
class Trace:
    """Steps of one prompt, in order."""

    steps: list[Step] = field(default_factory=list)

    @property
    def tokens(self) -> list[Emitted]:
        """All emitted tokens."""
        return [token for step in self.steps for token in step.emitted]


def save_traces(
    group: h5py.Group,
    prompts: Sequence[str],
    prompt_ids: Sequence[np.ndarray],
    traces: Sequence[Trace],
    about: dict[str, Any],
) -> None:
    """Write the traces of several prompts into an empty group.

    Args:
        group: /trace/<engine>.
        prompts: Their texts.
        prompt_ids: Their token ids.
        traces: One per prompt.
        about: Attributes: engine, options, paper, ...
    """
    for key, value in about.items():
        group.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    group.attrs["kinds"] = json.dumps(KINDS)
    group["prompts/text"] = text_array(prompts)
    lengths = [len(ids) for ids in prompt_ids]
    group["prompts/offsets"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    group["prompts/ids"] = np.concatenate([*prompt_ids, np.zeros(0, int)]).astype(np.int32)
    _save_tokens(group.create_group("tokens"), lengths, traces)
    _save_steps(group.create_group("steps"), traces)
    _save_nodes(group.create_group("nodes"), traces)


def load_traces(group: Any) -> list[Trace]:
    """Read back what `save_traces` wrote; probabilities come back in the file's single precision.

    Args:
        group: /trace/<engine>.
    """
    tokens, steps, nodes = (
        {name: column[()] for name, column in group[table].items()}
        for table in ("tokens", "steps", "nodes")
    )
    kinds, sources = json.loads(group.attrs["kinds"]), json.loads(group["nodes"].attrs["sources"])
    n_steps = len(steps["prompt"])
    emitted: list[list[Emitted]] = [[] for _ in range(n_steps)]
    for row, step in enumerate(tokens["step"].tolist()):
        emitted[step].append(
            Emitted(
                id=int(tokens["id"][row]),
                kind=kinds[tokens["kind"][row]],
                prob=float(tokens["prob"][row]),
                entropy=float(tokens["entropy"][row]),
                rank=int(tokens["rank"][row]),
                top_ids=tuple(tokens["top_ids"][row].tolist()),
                top_probs=tuple(tokens["top_probs"][row].tolist()),
            )
        )
    drafted: list[list[Node]] = [[] for _ in range(n_steps)]
    for row, step in enumerate(nodes["step"].tolist()):
        drafted[step].append(
            Node(
                token=int(nodes["token"][row]),
                parent=int(nodes["parent"][row]),
                depth=int(nodes["depth"][row]),
                draft_prob=float(nodes["draft_prob"][row]),
                target_prob=float(nodes["target_prob"][row]),
                entropy=float(nodes["entropy"][row]),
                accepted=bool(nodes["accepted"][row]),
                source=sources[nodes["source"][row]],
            )
        )
    traces = [Trace() for _ in range(len(group["prompts/text"]))]
    for number, prompt in enumerate(steps["prompt"].tolist()):
        seconds = {k: float(v[number]) for k, v in steps.items() if k.startswith("seconds")}
        step = Step(emitted=tuple(emitted[number]), nodes=tuple(drafted[number]), **seconds)
        traces[prompt].steps.append(step)
    return traces


def _save_tokens(group: h5py.Group, lengths: Sequence[int], traces: Sequence[Trace]) -> None:
    rows = []
    step_number = 0
    for prompt, (trace, length) in enumerate(zip(traces, lengths, strict=True)):
        position = length
        for step in trace.steps:
            share = step.seconds / max(len(step.emitted), 1)
            for token in step.emitted:
                rows.append((prompt, step_number, position, token, share))
                position += 1
            step_number += 1
    tokens = [token for _, _, _, token, _ in rows]
    group["prompt"] = np.array([row[0] for row in rows], dtype=np.int32)
    group["step"] = np.array([row[1] for row in rows], dtype=np.int32)
    group["position"] = np.array([row[2] for row in rows], dtype=np.int32)
    group["seconds"] = np.array([row[4] for row in rows], dtype=np.float64)
    group["id"] = np.array([t.id for t in tokens], dtype=np.int32)
    group["kind"] = np.array([KINDS.index(t.kind) for t in tokens], dtype=np.uint8)
    group["prob"] = np.array([t.prob for t in tokens], dtype=np.float32)
    group["entropy"] = np.array([t.entropy for t in tokens], dtype=np.float32)
    group["rank"] = np.array([t.rank for t in tokens], dtype=np.int32)
    shape = (len(tokens), N_CANDIDATES)
    group["top_ids"] = np.array([t.top_ids for t in tokens], dtype=np.int32).reshape(shape)
    group["top_probs"] = np.array([t.top_probs for t in tokens], dtype=np.float32).reshape(shape)
    for name, unit in (("entropy", "nats"), ("seconds", "s")):
        group[name].attrs["unit"] = unit


def _save_steps(group: h5py.Group, traces: Sequence[Trace]) -> None:
    rows = [(prompt, step) for prompt, trace in enumerate(traces) for step in trace.steps]
    group["prompt"] = np.array([prompt for prompt, _ in rows], dtype=np.int32)
    columns = {
        "n_drafted": [len(step.nodes) for _, step in rows],
        "n_accepted": [step.n_accepted for _, step in rows],
        "n_emitted": [len(step.emitted) for _, step in rows],
    }
    for name, values in columns.items():
        group[name] = np.array(values, dtype=np.int32)
    for name in ("seconds", "seconds_draft", "seconds_verify"):
        group[name] = np.array([getattr(step, name) for _, step in rows], dtype=np.float64)
        group[name].attrs["unit"] = "s"


def _save_nodes(group: h5py.Group, traces: Sequence[Trace]) -> None:
    steps = [step for trace in traces for step in trace.steps]
    rows = [(number, node) for number, step in enumerate(steps) for node in step.nodes]
    group["step"] = np.array([number for number, _ in rows], dtype=np.int32)
    kinds = {
        "token": np.int32,
        "parent": np.int32,
        "depth": np.int32,
        "draft_prob": np.float32,
        "target_prob": np.float32,
        "entropy": np.float32,
        "accepted": np.bool_,
    }
    for name, kind in kinds.items():
        group[name] = np.array([getattr(node, name) for _, node in rows], dtype=kind)
    sources = sorted({node.source for _, node in rows})
    group.attrs["sources"] = json.dumps(sources)
    group["source"] = np.array([sources.index(node.source) for _, node in rows], dtype=np.uint8)
    group["entropy"].attrs["unit"] = "nats"
