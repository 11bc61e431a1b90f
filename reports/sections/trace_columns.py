"""A trace as columns for the viewer's script, and the words its numbers stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from ...probes.runfile.h5 import array, members, texts
from ..columns import packed, smallest
from ..section import Context
from ..tokens import label

MAX_NODES = 200_000
"""Drafted tokens of one engine that the page holds; at 64 a step this is 3,000 steps."""
REFUSED_ROWS = 256
"""Refused drafts of one engine whose layers the page holds; the run file has more."""
SHARES = 65_535
"""Lens probabilities are sent as multiples of 1/65,535."""


@dataclass(frozen=True)
class Words:
    """The tokens a page speaks of, each shown once."""

    ids: np.ndarray
    """Token ids, ascending."""

    @classmethod
    def of(cls, groups: Mapping[str, h5py.Group]) -> Words:
        """All tokens of these traces."""
        names = ("prompts/ids", "tokens/id", "tokens/top_ids", "nodes/token", "rows/top_ids")
        held = [array(group, name).ravel() for group in groups.values() for name in names
                if name in group]  # fmt: skip
        return cls(np.unique(np.concatenate([*held, np.zeros(0, int)])))

    def at(self, ids: np.ndarray) -> np.ndarray:
        """Where tokens stand among the words."""
        return np.searchsorted(self.ids, ids)

    def shown(self, context: Context) -> dict[str, Any]:
        """Ids and how they are written, ready for JSON."""
        return {"ids": self.ids.tolist(), "words": [context.token(one) for one in self.ids]}


def trace_columns(name: str, group: h5py.Group, words: Words) -> dict[str, Any]:
    """One engine's trace, ready for JSON: what it is, its prompts, and its rows as columns."""
    tokens = {key: array(group, f"tokens/{key}") for key in members(group, "tokens")}
    steps = {key: array(group, f"steps/{key}") for key in members(group, "steps")}
    nodes = {key: array(group, f"nodes/{key}") for key in members(group, "nodes")}
    n_steps = len(steps["prompt"])
    first_node = np.searchsorted(nodes["step"], np.arange(n_steps + 1))
    n_whole = int(np.searchsorted(first_node, MAX_NODES, side="right")) - 1
    kept = min(int(first_node[n_whole]), len(nodes["step"]))
    columns = {
        "token_word": smallest(words.at(tokens["id"])),
        "token_kind": smallest(tokens["kind"]),
        "token_rank": smallest(tokens["rank"]),
        "token_prob": tokens["prob"].astype("f4"),
        "token_entropy": tokens["entropy"].astype("f4"),
        "top_word": smallest(words.at(tokens["top_ids"])),
        "top_prob": tokens["top_probs"].astype("f4"),
        "step_token": smallest(np.searchsorted(tokens["step"], np.arange(n_steps + 1))),
        "step_node": smallest(np.minimum(first_node, kept)),
        "step_drafted": smallest(steps["n_drafted"]),
        "step_accepted": smallest(steps["n_accepted"]),
        **{
            f"step_{key}": steps[key].astype("f4")
            for key in ("seconds", "seconds_draft", "seconds_verify")
        },
        "node_word": smallest(words.at(nodes["token"][:kept])),
        "node_parent": smallest(nodes["parent"][:kept]),
        "node_source": smallest(nodes["source"][:kept]),
        "node_accepted": nodes["accepted"][:kept].astype("u1"),
        "node_q": nodes["draft_prob"][:kept].astype("f4"),
        "node_p": nodes["target_prob"][:kept].astype("f4"),
        "node_entropy": nodes["entropy"][:kept].astype("f4"),
    }
    rows, about = _rows(group, words)
    fired, firing = _features(group)
    return {
        "engine": name,
        "source": str(group.name),
        "kinds": json.loads(str(group.attrs["kinds"])),
        "sources": json.loads(str(group["nodes"].attrs.get("sources", "[]"))),
        "n_top": int(tokens["top_ids"].shape[1]) if tokens["top_ids"].ndim == 2 else 0,
        "prompts": _prompts(group, tokens, steps, words),
        "nodes_left_out": len(nodes["step"]) - kept,
        "rows": about,
        "features": firing,
        **packed(columns | rows | fired),
    }


def _prompts(
    group: h5py.Group,
    tokens: dict[str, np.ndarray],
    steps: dict[str, np.ndarray],
    words: Words,
) -> list[dict[str, int]]:
    """Where each prompt's tokens and steps begin, how long it is, and its last token."""
    offsets, ids = array(group, "prompts/offsets"), array(group, "prompts/ids")
    found = []
    for number in range(len(texts(group, "prompts/text"))):
        start, stop = int(offsets[number]), int(offsets[number + 1])
        last = int(words.at(ids[stop - 1 : stop])[0]) if stop > start else -1
        token, step = (np.searchsorted(held["prompt"], [number, number + 1]).tolist()
                       for held in (tokens, steps))  # fmt: skip
        found.append({"length": stop - start, "last": last, "tokens": token, "steps": step})
    return found


def _features(group: h5py.Group) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """What fires at every token of prompts and texts, dictionary by dictionary."""
    columns: dict[str, np.ndarray] = {}
    about = []
    for number, name in enumerate(members(group, "features")):
        latents = array(group, f"features/{name}/latents")
        columns[f"fired_latent_{number}"] = smallest(latents)
        columns[f"fired_value_{number}"] = array(group, f"features/{name}/values").astype("f4")
        about.append({
            "name": label(name, longest=40),
            "site": str(group[f"features/{name}"].attrs["site"]),
            "n": int(latents.shape[1]),
            "first": array(group, "states/offsets").tolist(),
        })
    return columns, about


def _rows(group: h5py.Group, words: Words) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Rows read through the layers: all of the text, and the first refused drafts."""
    if "rows" not in group:
        return {}, None
    rows = {key: array(group, f"rows/{key}") for key in members(group, "rows")}
    refused = np.flatnonzero(rows["node"] >= 0)
    kept = np.sort(np.concatenate([np.flatnonzero(rows["node"] < 0), refused[:REFUSED_ROWS]]))
    about = {
        "layers": rows["layers"].tolist(),
        "n_top": int(rows["top_ids"].shape[2]),
        "kinds": json.loads(str(group["rows"].attrs["kinds"])),
        "left_out": int(np.asarray(group["rows"].attrs["n_left_out"]))
        + len(rows["node"])
        - len(kept),
    }
    shares = np.rint(np.clip(rows["top_probs"][kept], 0, 1) * SHARES)
    return {
        "row_prompt": smallest(rows["prompt"][kept]),
        "row_position": smallest(rows["position"][kept]),
        "row_kind": smallest(rows["kind"][kept]),
        "row_node": rows["node"][kept].astype("i4"),
        "row_norm": rows["norm"][kept].astype("f4"),
        "row_entropy": rows["entropy"][kept].astype("f4"),
        "row_word": smallest(words.at(rows["top_ids"][kept])),
        "row_share": shares.astype("u2"),
    }, about
