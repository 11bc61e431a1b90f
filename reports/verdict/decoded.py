"""What engines did, from their traces: tokens per pass, speed beside plain decoding, what was expected.

Expected tokens per pass assume that every drafted token is accepted alike, with the trace's own rate,
and each depth is drafted as often as it was: 1 + sum over depths of the product of (share of steps that
draft on there) x rate. For chains of one length this is the law of Leviathan et al. (arXiv 2211.17192,
Eq. 1), (1 - a^(g+1)) / (1 - a). What is measured beyond it comes from acceptance that runs in streaks.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from jaxtyping import Bool, Float, Int

from ...probes.runfile.h5 import array, members
from .statement import Interval

LEVEL, N_RESAMPLES, SEED = 0.95, 1000, 0
"""Intervals as those of readings."""
MIN_PROMPTS = 5
"""Prompts from which on intervals are over prompts; below they are over steps, and say so."""


COLUMNS = {
    "steps": ("prompt", "n_drafted", "n_emitted", "seconds", "seconds_verify"),
    "nodes": ("step", "parent", "depth", "accepted"),
}
"""What the verdict reads of a trace's tables."""
FEWEST_PASSES = 5
"""Passes over one row from which on their mean says how fast the machine was."""


@dataclass(frozen=True)
class Decoded:
    """One engine's trace."""

    name: str
    lossless: bool | None
    """What the engine claims of its output; None where the trace does not tell."""
    options: dict[str, Any]
    ids: tuple[Int[np.ndarray, " tokens"], ...]
    """Emitted tokens of each prompt."""
    n_forward: Int[np.ndarray, " prompts"]
    seconds: Float[np.ndarray, " prompts"]
    steps: dict[str, np.ndarray]
    nodes: dict[str, np.ndarray]

    @property
    def n_tokens(self) -> Int[np.ndarray, " prompts"]:
        """Tokens emitted for each prompt."""
        return np.array([len(ids) for ids in self.ids], dtype=np.int64)

    @property
    def n_prompts(self) -> int:
        """Prompts decoded."""
        return len(self.ids)

    @property
    def unit(self) -> str:
        """What an interval of this trace is over."""
        if self.n_prompts >= MIN_PROMPTS:
            return f"95 % bootstrap over {self.n_prompts} prompts"
        prompts = "one prompt" if self.n_prompts == 1 else f"{self.n_prompts} prompts"
        return (
            f"n = {self.n_prompts}: 95 % bootstrap over the {len(self.steps['seconds'])} steps of "
            f"{prompts}, as if they were independent; other prompts may differ"
        )


def read_decoded(name: str, group: h5py.Group) -> Decoded:
    """Read a trace.

    Raises:
        KeyError: It lacks a table or a column.
        ValueError: The columns of a table differ in length.
    """
    prompt, ids = array(group, "tokens/prompt"), array(group, "tokens/id")
    n_forward = array(group, "generations/n_forward")
    lossless = group.attrs.get("lossless")
    return Decoded(
        name,
        None if lossless is None else bool(lossless),
        json.loads(str(group.attrs.get("options", "{}"))),
        tuple(ids[prompt == number] for number in range(len(n_forward))),
        n_forward.astype(np.int64),
        array(group, "generations/seconds").astype(float),
        _table(group, "steps"),
        _table(group, "nodes"),
    )


def _table(group: h5py.Group, name: str) -> dict[str, np.ndarray]:
    found = {key: array(group, f"{name}/{key}") for key in members(group, name)}
    if name == "nodes" and not found:  # nothing was drafted
        return {}
    lengths = {key: len(found[key]) for key in COLUMNS[name]}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of {name} differ in length: {lengths}")
    return found


def tokens_per_pass(run: Decoded) -> Interval:
    """Emitted tokens per forward pass of the target, the prompt's pass included."""
    value = run.n_tokens.sum() / max(int(run.n_forward.sum()), 1)
    if run.n_prompts >= MIN_PROMPTS:
        return _bounded(float(value), _drawn(run.n_tokens, run.n_forward))
    emitted = run.steps["n_emitted"].astype(float)
    passes = np.full(len(emitted), run.n_forward.sum() / max(len(emitted), 1))
    return _bounded(float(value), _drawn(emitted, passes))


def speed_ratio(run: Decoded, plain: Decoded) -> Interval:
    """Tokens per second over those of plain decoding; paired by prompt where there are enough."""
    speeds = [float(one.n_tokens.sum() / max(one.seconds.sum(), 1e-9)) for one in (run, plain)]
    value = speeds[0] / max(speeds[1], 1e-9)
    if run.n_prompts == plain.n_prompts and run.n_prompts >= MIN_PROMPTS:
        mine, theirs = (_drawn(one.n_tokens, one.seconds) for one in (run, plain))
        return _bounded(value, mine / np.maximum(theirs, 1e-12))
    mine, theirs = (
        _drawn(one.steps["n_emitted"], _step_seconds(one), seed=SEED + number)
        for number, one in enumerate((run, plain))
    )
    return _bounded(value, mine / np.maximum(theirs, 1e-12))


def step_cost(run: Decoded, plain: Decoded) -> float:
    """Mean seconds of a step over the mean of a plain step, first steps (prompts) left out."""
    mine, theirs = (_step_seconds(one)[_later(one)] for one in (run, plain))
    if not len(mine) or not len(theirs) or theirs.mean() <= 0:
        return float("nan")
    return float(mine.mean() / theirs.mean())


def one_row_pass(run: Decoded) -> float | None:
    """Mean seconds of a pass over one row: the same work in every engine, so a gauge of the machine.

    None with fewer than `FEWEST_PASSES` of them; the prompt's pass is left out.
    """
    single = (run.steps["n_drafted"] == 0) & (run.steps["n_emitted"] == 1)
    alone = _later(run) & single & (run.steps["seconds_verify"] > 0)
    found = run.steps["seconds_verify"][alone]
    return float(found.mean()) if len(found) >= FEWEST_PASSES else None


def cost_curve(runs: list[Decoded], plain: Decoded) -> dict[str, Any]:
    """Median seconds of the target's pass by rows verified, in doublings, over a plain pass.

    Returns:
        Columns: rows from, rows to, passes, times a plain pass. Empty where nothing was drafted.
    """
    base = plain.steps["seconds_verify"][_later(plain)]
    base = base[base > 0]
    parts = [_later(run) & (run.steps["seconds_verify"] > 0) for run in runs]
    rows = np.concatenate([
        np.zeros(0), *(1 + r.steps["n_drafted"][p] for r, p in zip(runs, parts, strict=True))
    ])  # fmt: skip
    times = np.concatenate([
        np.zeros(0), *(r.steps["seconds_verify"][p] for r, p in zip(runs, parts, strict=True))
    ])  # fmt: skip
    found: dict[str, Any] = {"from": [], "to": [], "passes": [], "ratio": []}
    if not len(base):
        return found
    for power in range(1, 9):
        low, high = 2**power, 2 ** (power + 1) - 1
        here = times[(rows >= low) & (rows <= high)]
        if len(here):
            cells = (low, high, len(here), float(np.median(here) / np.median(base)))
            for column, cell in zip(found.values(), cells, strict=True):
                column.append(cell)
    return found


@dataclass(frozen=True)
class Acceptance:
    """How drafts fared along the accepted path, by depth."""

    depth: Int[np.ndarray, " depths"]
    tried: Int[np.ndarray, " depths"]
    """Steps in which the accepted path had drafted tokens to go on with there."""
    accepted: Int[np.ndarray, " depths"]
    """Of those, steps in which one was accepted."""
    n_steps: int

    @property
    def rate(self) -> float:
        """Share accepted, over all depths."""
        return float(self.accepted.sum() / max(int(self.tried.sum()), 1))

    @property
    def expected(self) -> float:
        """Tokens per step if every depth accepted with one rate; see the module's docstring."""
        reached = np.concatenate([[self.n_steps], self.accepted[:-1]])
        goes_on = self.tried / np.maximum(reached, 1)
        return float(1 + np.cumprod(goes_on * self.rate).sum())


def acceptance(run: Decoded) -> Acceptance | None:
    """Acceptance by depth; None where nothing was drafted."""
    nodes = run.nodes
    if not len(nodes.get("step", ())):
        return None
    ok = nodes["accepted"].astype(bool)
    tried_here = tried(nodes)
    depths = np.arange(1, int(nodes["depth"][tried_here].max()) + 1)
    counts = [
        (
            len(np.unique(nodes["step"][tried_here & (nodes["depth"] == depth)])),
            len(np.unique(nodes["step"][tried_here & ok & (nodes["depth"] == depth)])),
        )
        for depth in depths
    ]
    columns = np.array(counts, dtype=np.int64)
    return Acceptance(depths, columns[:, 0], columns[:, 1], len(run.steps["n_drafted"]))


def tried(nodes: dict[str, np.ndarray]) -> Bool[np.ndarray, " nodes"]:
    """Nodes about which something was decided: their parent is text."""
    first = np.searchsorted(nodes["step"], nodes["step"])
    at = np.where(nodes["parent"] < 0, 0, first + nodes["parent"])
    return (nodes["parent"] < 0) | nodes["accepted"].astype(bool)[at]


def first_difference(run: Decoded, other: Decoded) -> int | None:
    """Prompts' first place where two engines wrote different tokens; None where they agree.

    Only prompts that both have are compared, over the tokens that both wrote.
    """
    for mine, theirs in zip(run.ids, other.ids, strict=False):
        shared = min(len(mine), len(theirs))
        unlike = np.flatnonzero(mine[:shared] != theirs[:shared])
        if len(unlike):
            return int(unlike[0])
    return None


def _step_seconds(run: Decoded) -> Float[np.ndarray, " steps"]:
    """Seconds of steps, scaled to what generations took in all."""
    steps = run.steps["seconds"].astype(float)
    return steps * (run.seconds.sum() / max(steps.sum(), 1e-12))


def _later(run: Decoded) -> Bool[np.ndarray, " steps"]:
    """All but each prompt's first step, which reads the prompt."""
    prompt = run.steps["prompt"]
    return np.concatenate([[False], prompt[1:] == prompt[:-1]]) if len(prompt) else prompt > 0


def _drawn(
    numerator: np.ndarray, denominator: np.ndarray, *, seed: int = SEED
) -> Float[np.ndarray, " resamples"]:
    """Ratio of sums over units drawn with replacement; equal seeds draw equal units."""
    n = len(numerator)
    if n < 2:
        return np.full(1, np.nan)
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES).astype(float)
    return (weights @ numerator.astype(float)) / np.maximum(
        weights @ denominator.astype(float), 1e-12
    )


def _bounded(value: float, drawn: Float[np.ndarray, " resamples"]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(low), float(high))
