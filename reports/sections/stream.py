"""The token stream as it stands in the page before any script runs."""

from __future__ import annotations

import json
from typing import Any

import h5py
import numpy as np

from ...probes.runfile.h5 import array, texts
from ..section import Context
from ..tokens import plain, visible

MARKS = {
    "plain": "n",
    "accepted": "a",
    "bonus": "b",
    "correction": "c",
    "rejected": "r",
    "forced": "f",
    "steered": "s",
    "backtracked": "k",
    "unmasked": "u",
}
"""One letter per kind, so that no kind is told by colour alone."""

MEANINGS = {
    "plain": "one pass, nothing drafted",
    "accepted": "drafted, and the target would have said so too",
    "bonus": "the target's own token after a wholly accepted draft",
    "correction": "the target's own token where a draft was refused",
    "rejected": "drafted and refused; never text",
    "forced": "the grammar left one choice",
    "steered": "an edit of the distribution changed the choice",
    "backtracked": "withdrawn later",
    "unmasked": "a mask became this token",
}
"""What a kind means, shown on focus."""

N_LEVELS = 8
MOST_NATS = 6.0
"""Entropy with the deepest background, nats."""
MAX_TOKENS = 20_000
BLOCK = 500
"""Tokens of a block; blocks out of sight are not laid out."""
SEEK = 100
"""How far a block waits for a line break."""
LONG_PROMPT = 400
"""Tokens from which a prompt scrolls in a box of its own."""


def streams(name: str, group: h5py.Group, context: Context) -> list[dict[str, Any]]:
    """One engine's streams, prompt by prompt, for the template."""
    kinds = json.loads(str(group.attrs["kinds"]))
    keys = ("id", "kind", "entropy", "step", "prompt")
    columns = {key: array(group, f"tokens/{key}") for key in keys}
    offsets, ids = array(group, "prompts/offsets"), array(group, "prompts/ids")
    found = []
    for number, reason in enumerate(texts(group, "generations/stop_reason")):
        mine = np.flatnonzero(columns["prompt"] == number)
        prompt = ids[offsets[number] : offsets[number + 1]]
        found.append({
            "engine": name,
            "number": number,
            "prompt": [_lines(context, int(token)) for token in prompt],
            "long": len(prompt) >= LONG_PROMPT,
            "blocks": _blocks(columns, mine[:MAX_TOKENS], kinds, context),
            "n_tokens": len(mine),
            "stop": reason.replace("_", " "),
            "cut": len(mine[MAX_TOKENS:]),
        })
    return found


def used_kinds(groups: dict[str, h5py.Group]) -> list[str]:
    """Kinds of token that occur, in the order of `MARKS`; refused ones where anything was refused."""
    found = set()
    for group in groups.values():
        kinds = json.loads(str(group.attrs["kinds"]))
        found |= {kinds[kind] for kind in np.unique(array(group, "tokens/kind")).tolist()}
        if not array(group, "nodes/accepted").all():
            found.add("rejected")
    return [kind for kind in MARKS if kind in found]


def _blocks(
    columns: dict[str, np.ndarray], rows: np.ndarray, kinds: list[str], context: Context
) -> list[list[dict[str, Any]]]:
    """Tokens in blocks that end at a line break where one is near."""
    blocks: list[list[dict[str, Any]]] = [[]]
    step = -1
    for row in rows.tolist():
        lines = _lines(context, int(columns["id"][row]))
        nats = float(columns["entropy"][row])
        blocks[-1].append({
            "lines": lines,
            "kind": kinds[int(columns["kind"][row])],
            "level": round(min(nats / MOST_NATS, 1.0) * N_LEVELS) if np.isfinite(nats) else 0,
            "begins": int(columns["step"][row]) != step,
        })
        step = int(columns["step"][row])
        size = len(blocks[-1])
        if size >= BLOCK + SEEK or (size >= BLOCK and len(lines) > 1):
            blocks.append([])
    return [block for block in blocks if block]


def _lines(context: Context, token: int) -> list[str]:
    """A token's text between its line breaks, everything invisible written out."""
    vocabulary = context.vocabulary
    if vocabulary is None or not 0 <= token < len(vocabulary):
        return [f"#{token}"]
    data = vocabulary.token_bytes[token]
    if token in vocabulary.special:
        return [visible(data)]
    return (plain(data.decode("utf-8", errors="backslashreplace")) or "∅").split("\n")
