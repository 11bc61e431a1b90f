"""What every layer said at the rows of a generation: norms, and the logit lens of rows that count.

Hooks see committed and refused rows alike, and so does the report's viewer: for a token it shows how
the choice came about through the layers of the row that made it (logit lens, nostalgebraist 2020),
for a refused draft what the model would have gone on with. Reading a row through the unembedding costs
n_layers x d_model x d_vocab multiplications, so a bounded number of rows is read, those first that
decided about text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int32, UInt8
from torch import Tensor

from ..probes import Model
from .generation import Generation
from .rowlog import ROW_KINDS

Progress = Callable[[int, int, str], None]

SITE = re.compile(r"^layers\.(\d+)\.resid_post$")
TOP = 3
MAX_ROWS = 512
"""Rows read per generation; of the embedded model they take about fifteen seconds on one core."""
CHUNK = 128
"""Rows unembedded at once."""


@dataclass(frozen=True, kw_only=True)
class RowReadings:
    """Rows of one generation, layer by layer. Axes: rows, layers, candidates."""

    layers: Int[np.ndarray, " layers"]
    """Layers whose output was captured, ascending."""
    position: Int32[np.ndarray, " rows"]
    """Position in the text that the row stands, or would have stood, at."""
    kind: UInt8[np.ndarray, " rows"]
    """What became of the row: index into `ROW_KINDS`."""
    node: Int32[np.ndarray, " rows"]
    """Which drafted token of the generation it belongs to; -1 for a token of the text."""
    norm: Float32[np.ndarray, "rows layers"]
    """L2 norm of the residual stream."""
    entropy: Float32[np.ndarray, "rows layers"]
    """Entropy of the lens' prediction, nats."""
    top_ids: Int32[np.ndarray, "rows layers candidates"]
    """Tokens that lead in it."""
    top_probs: Float32[np.ndarray, "rows layers candidates"]
    """Their probabilities."""
    n_left_out: int
    """Rows of the text's continuation that were not read."""


@torch.inference_mode()
def read_rows(
    model: Model,
    generation: Generation,
    *,
    max_rows: int = MAX_ROWS,
    progress: Progress | None = None,
) -> RowReadings | None:
    """Read the rows that decided about a generation's text through every captured layer.

    Rows of the text come first (from the prompt's last token on), then refused drafts whose parent is
    text, since those were decided about, then the other refused drafts; each in order of time.

    Args:
        model: The model that decoded.
        generation: Made with sites "layers.*.resid_post".
        max_rows: At most this many rows.
        progress: Told of layers done.

    Returns:
        None where no residual stream was captured, or its rows are not those of the text.
    """
    sites = sorted(
        (site for site in generation.captured if SITE.match(site)),
        key=lambda site: int(site.split(".")[1]),
    )
    log = generation.rows
    if not sites or any(len(generation.captured[site]) != len(log) for site in sites):
        return None
    wanted, node = _rows_in_order(generation)
    rows = np.sort(wanted[:max_rows])
    place = torch.from_numpy(rows)
    columns: dict[str, list[np.ndarray]] = {"norm": [], "entropy": [], "ids": [], "probs": []}
    for done, site in enumerate(sites):
        resid = generation.captured[site][place]
        columns["norm"].append(resid.float().norm(dim=-1).cpu().numpy())
        for name, values in zip(("entropy", "ids", "probs"), _lens(model, resid), strict=True):
            columns[name].append(values)
        if progress is not None:
            progress(done + 1, len(sites), "lens")
    kinds = np.array([ROW_KINDS.index(kind) for kind in log.kinds], dtype=np.uint8)
    return RowReadings(
        layers=np.array([int(site.split(".")[1]) for site in sites]),
        position=log.positions[rows].astype(np.int32),
        kind=kinds[rows],
        node=node[rows],
        norm=np.stack(columns["norm"], axis=1),
        entropy=np.stack(columns["entropy"], axis=1),
        top_ids=np.stack(columns["ids"], axis=1),
        top_probs=np.stack(columns["probs"], axis=1),
        n_left_out=len(wanted) - len(rows),
    )


def save_row_readings(
    group: h5py.Group, readings: Sequence[RowReadings], n_nodes: Sequence[int]
) -> None:
    """Write the readings of several prompts into an empty group.

    Args:
        group: /trace/<engine>/rows.
        readings: One per prompt.
        n_nodes: Drafted tokens of each prompt, by which the next ones' are counted on.
    """
    first = np.concatenate([[0], np.cumsum(n_nodes)[:-1]]).astype(np.int32)
    group.attrs["kinds"] = json.dumps(ROW_KINDS)
    group.attrs["n_left_out"] = sum(one.n_left_out for one in readings)
    group["layers"] = readings[0].layers
    group["left_out"] = np.array([one.n_left_out for one in readings], dtype=np.int32)
    group["prompt"] = np.repeat(
        np.arange(len(readings), dtype=np.int32), [len(one.position) for one in readings]
    )
    shifted = [
        np.where(one.node < 0, -1, one.node + start)
        for one, start in zip(readings, first, strict=True)
    ]
    group["node"] = np.concatenate(shifted).astype(np.int32)
    for name in ("position", "kind", "norm", "entropy", "top_ids", "top_probs"):
        group[name] = np.concatenate([getattr(one, name) for one in readings])
    group["entropy"].attrs["unit"] = "nats"


def load_row_readings(group: Any, n_nodes: Sequence[int]) -> list[RowReadings]:
    """Read back what `save_row_readings` wrote, one per prompt.

    Args:
        group: /trace/<engine>/rows.
        n_nodes: Drafted tokens of each prompt.
    """
    held = {name: item[()] for name, item in group.items()}
    first = np.concatenate([[0], np.cumsum(n_nodes)[:-1]]).astype(np.int32)
    found = []
    for number, start in enumerate(first.tolist()):
        own = held["prompt"] == number
        node = held["node"][own]
        columns = {
            name: held[name][own]
            for name in ("position", "kind", "norm", "entropy", "top_ids", "top_probs")
        }
        found.append(
            RowReadings(
                layers=held["layers"],
                node=np.where(node < 0, -1, node - start).astype(np.int32),
                n_left_out=int(held["left_out"][number]),
                **columns,
            )
        )
    return found


def node_rows(generation: Generation) -> Int[np.ndarray, " nodes"]:
    """The row of every drafted token; -1 for all where rows and steps do not tell.

    A step's pass reads the last token of the text, then its nodes in order; the first step's token
    comes from the prompt's pass. Engines that read otherwise are told by positions that do not fit.
    """
    steps, positions = generation.trace.steps, generation.rows.positions
    found: list[int] = []
    unknown = np.full(sum(len(step.nodes) for step in steps), -1)
    if not steps or steps[0].nodes:
        return unknown
    row = len(generation.prompt_ids)
    for step in steps[1:]:
        block = positions[row : row + 1 + len(step.nodes)]
        depths = [0, *(node.depth for node in step.nodes)]
        if len(block) != len(depths) or (block - block[0] != depths).any():
            return unknown
        found.extend(range(row + 1, row + len(depths)))
        row += len(depths)
    return np.array(found, dtype=np.int64)


def _rows_in_order(
    generation: Generation,
) -> tuple[Int[np.ndarray, " wanted"], Int32[np.ndarray, " rows"]]:
    """Rows worth reading, most telling first, and the node of every row."""
    log, n_prompt = generation.rows, len(generation.prompt_ids)
    nodes = [
        (node, step.nodes[node.parent].accepted if node.parent >= 0 else True)
        for step in generation.trace.steps
        for node in step.nodes
    ]
    refused = np.full(len(log), -1, dtype=np.int32)
    decided = np.zeros(len(log), dtype=bool)
    for number, (row, (node, tried)) in enumerate(zip(node_rows(generation), nodes, strict=True)):
        if row >= 0 and not node.accepted:
            refused[row] = number
            decided[row] = tried
    text = np.flatnonzero(log.is_text & (log.positions >= n_prompt - 1))
    first, last = (np.flatnonzero((refused >= 0) & which) for which in (decided, ~decided))
    return np.concatenate([text, first, last]), refused


def _lens(model: Model, resid: Float[Tensor, "rows d_model"]) -> tuple[np.ndarray, ...]:
    """Entropy, leading tokens and their probabilities of each row's lens prediction."""
    entropy, ids, probs = [], [], []
    for part in resid.to(model.device, model.dtype).split(CHUNK):
        shares = model.unembed(part).float().softmax(-1)
        top = shares.topk(min(TOP, shares.shape[-1]), dim=-1)
        entropy.append(torch.special.entr(shares).sum(-1).cpu())
        ids.append(top.indices.to(torch.int32).cpu())
        probs.append(top.values.cpu())
    return tuple(torch.cat(part).numpy() for part in (entropy, ids, probs))
