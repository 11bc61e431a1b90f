"""What a command would do (`--dry-run`): steps, bytes, and an estimate of the time from a measurement.

Bytes are exact but for HDF5's own bookkeeping (under 1 %). Seconds come from one timed forward pass of
the real model on this machine, times how much dearer each reading is than a bare pass, measured on the
embedded model (`RELATIVE_COST`); on a busy machine they are good to about a factor of two.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from .terminal import Terminal

if TYPE_CHECKING:
    from .probes import Model

MEASURED_TOKENS = 128

RELATIVE_COST = {
    "capture": 1.1,
    "layer_stats": 1.0,
    "next_token": 1.2,
    "massive_activations": 4.0,
    "attention_sinks": 1.5,
    "ablation_story": 7.0,
    "logit_lens": 15.0,
}
"""Seconds per token against a bare forward pass with logits, on the embedded model."""

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One thing a command would do."""

    step: str
    work: str
    """How much, in words."""
    n_bytes: int = 0
    """Bytes written."""
    seconds: float = 0.0
    """Estimated."""


def show_plan(terminal: Terminal, steps: Sequence[Planned], *, note: str = "") -> dict[str, Any]:
    """Print a plan; returns it as `--json` prints it.

    Args:
        terminal: Where to.
        steps: What would be done, in order.
        note: What else the reader should know, such as that work would be resumed.
    """
    table = Table("step", "work", "writes", "takes about", title="Would do (nothing is written)")
    for one in steps:
        table.add_row(one.step, one.work, _bytes(one.n_bytes), _seconds(one.seconds))
    total_bytes = sum(one.n_bytes for one in steps)
    total_seconds = sum(one.seconds for one in steps)
    table.add_section()
    table.add_row("all", "", _bytes(total_bytes), _seconds(total_seconds))
    terminal.show(table)
    if note:
        terminal.show(note)
    return {
        "dry_run": True,
        "steps": [asdict(one) for one in steps],
        "n_bytes": total_bytes,
        "seconds": total_seconds,
        "note": note,
    }


def measure_speed(model: Model, n_tokens: int = MEASURED_TOKENS) -> float:
    """Tokens per second of a bare forward pass with logits, after a warm-up."""
    import torch

    limit = model.max_positions or n_tokens
    ids = torch.zeros(1, min(n_tokens, limit), dtype=torch.int64, device=model.device)
    with torch.inference_mode():
        model(ids)
        started = time.perf_counter()
        model(ids)
        seconds = time.perf_counter() - started
    return ids.shape[1] / max(seconds, 1e-9)


def plan_capture(
    model: Model,
    corpus: Any,
    sites: Sequence[str] | str,
    *,
    n_tokens: int,
    context: int | None,
    per_document: int | None,
    store: str,
    speed: float,
) -> Planned:
    """What a capture would read and write; the corpus is tokenised for it, nothing else.

    Raises:
        UnknownSiteError: The model has no such site.
        CorpusError: There is no text.
    """
    from .probes.batching import windows
    from .probes.capture_corpus import CONTEXT

    chosen = model.sites.resolve(sites)
    longest = min(CONTEXT, model.max_positions or CONTEXT) if context is None else context
    found = windows(
        model, corpus, context=longest, bos="auto", n_tokens=n_tokens, per_document=per_document
    )
    tokens = sum(len(window.ids) for window in found)
    widths = [site.width or 0 for site in chosen]
    unknown = sum(width == 0 for width in widths)
    work = f"{tokens:,} tokens in {len(found):,} windows, {len(chosen)} sites"
    if unknown:
        work += f" ({unknown} of unknown width, not counted in the bytes)"
    return Planned(
        step="capture",
        work=work,
        n_bytes=tokens * (sum(widths) * ITEM_BYTES.get(store, 4) + 4),
        seconds=tokens * RELATIVE_COST["capture"] / speed,
    )


def plan_reading(name: str, n_tokens: int, speed: float) -> Planned:
    """What an analysis would read."""
    cost = RELATIVE_COST.get(name, 1.0)
    return Planned(
        step=name.replace("_", " "),
        work=f"{n_tokens:,} tokens",
        seconds=n_tokens * cost / speed,
    )


def plan_decoding(
    model: Model, prompts: Sequence[str], max_new_tokens: int, sites: Sequence[str]
) -> Planned:
    """What a generation would take at most: plain decoding, timed over a few tokens."""
    from .decoding import generate

    made = generate(model, prompts[0], max_new_tokens=4, ignore_eos=True)[0]
    seconds = made.stats.seconds / made.stats.n_forward
    widths = [site.width or 0 for site in model.sites.resolve(sites)] if sites else []
    lengths = [len(model.encode(prompt)) + max_new_tokens for prompt in prompts]
    return Planned(
        step="decode",
        work=f"{len(prompts)} prompts, up to {max_new_tokens} new tokens each (as plain decoding)",
        n_bytes=sum(lengths) * sum(widths) * model.dtype.itemsize,
        seconds=len(prompts) * max_new_tokens * seconds,
    )


def resume_note(path: Path) -> str:
    """What is there already, in words."""
    if not path.exists():
        return ""
    from .probes import open_run

    run = open_run(path)
    rows = sum(entry["n_rows"] for entry in run.shards)
    state = "complete" if run.complete else "incomplete"
    return (
        f"{path} is there ({state}, {rows:,} tokens). With the same model, text, sites and settings "
        "its rows are kept and the rest is added; otherwise the command stops with exit code 3, or "
        "with --overwrite begins afresh."
    )


def _bytes(n: int) -> str:
    if not n:
        return ""
    return f"{n / 1e9:.2f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _seconds(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"
