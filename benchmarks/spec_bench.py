"""Decoding engines on Spec-Bench-format questions: tokens per pass and tokens per second, by subtask.

    python benchmarks/spec_bench.py [--questions FILE.jsonl] [--per-subtask N] [--engines a,b,...]

Every engine answers every question (first turn, the model's chat template, greedy, one at a time, the
prompt's pass included); the order of engines rotates from question to question, so that a busy machine
slows all alike. Peers: `model.generate` plain and with transformers' own prompt lookup, in float32 on a
module of their own. Engines keep what they learn across questions. Texts that differ from our plain
engine's are counted: rounding decides between near-equal tokens (see "lossless" in CONTRIBUTING).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import console, header
from rich.table import Table

from fluoroscope.decoding import Stopping, make_engine
from fluoroscope.probes import open_model

OWN = Path(__file__).with_name("prompts.jsonl")
ENGINES = "plain,prompt-lookup,token-recycling,suffix,hybrid"


class Run(NamedTuple):
    """One answer."""

    subtask: str
    seconds: float
    n_tokens: int
    n_forward: int
    differs: bool


def main() -> None:
    """Run all contestants and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, default=OWN)
    parser.add_argument("--per-subtask", type=int, default=0, help="0 for all")
    parser.add_argument("--engines", default=ENGINES)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--no-peers", action="store_true")
    given = parser.parse_args()
    questions = read(given.questions, given.per_subtask)
    model, peer = open_model(), open_model().module
    rules = Stopping(max_new_tokens=given.max_new_tokens)
    made = {name: make_engine(model, name) for name in given.engines.split(",")}

    def ours(name: str, text: str) -> tuple[float, list[int], int]:
        started = time.perf_counter()
        answer = made[name].generate(text, stopping=rules, chat=True)[0]
        return time.perf_counter() - started, list(answer.token_ids), answer.stats.n_forward

    def theirs(text: str, **options: Any) -> tuple[float, list[int], int]:
        prompt = made["plain"].encode(text, chat=True)
        started = time.perf_counter()
        with torch.no_grad():
            out = peer.generate(
                prompt[None], max_new_tokens=given.max_new_tokens, do_sample=False, **options
            )
        return time.perf_counter() - started, out[0, len(prompt) :].tolist(), 0

    contestants: dict[str, Callable[[str], tuple[float, list[int], int]]] = {
        name: partial(ours, name) for name in made
    }
    if not given.no_peers:
        contestants["model.generate"] = theirs
        contestants["generate, prompt lookup"] = partial(theirs, prompt_lookup_num_tokens=10)
    for run in contestants.values():
        run("Say hello.")
    runs: dict[str, list[Run]] = defaultdict(list)
    names = list(contestants)
    for number, question in enumerate(questions):
        turn = number % len(names)
        answers = {
            name: contestants[name](question["turns"][0]) for name in names[turn:] + names[:turn]
        }
        for name, (seconds, tokens, n_forward) in answers.items():
            differs = tokens != answers["plain"][1]
            runs[name].append(Run(question["subtask"], seconds, len(tokens), n_forward, differs))
        console.print(f"{number + 1} of {len(questions)}", end="\r")
    header(
        "Engines", questions=f"{len(questions)} of {given.questions.name}", dtype="float32", batch=1,
        new=given.max_new_tokens, decoding="greedy",
    )  # fmt: skip
    against = "model.generate" if "model.generate" in runs else "plain"
    show(runs, against)


def read(path: Path, per_subtask: int) -> list[dict[str, Any]]:
    """Questions, at most so many of each subtask."""
    taken: dict[str, int] = defaultdict(int)
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        taken[question["subtask"]] += 1
        if not per_subtask or taken[question["subtask"]] <= per_subtask:
            found.append(question)
    return found


def show(runs: dict[str, list[Run]], against: str) -> None:
    """Tokens per second against one contestant (median over questions of ratios), and per pass."""
    subtasks = sorted({run.subtask for run in runs[against]})
    table = Table("engine", "tokens/s", "tokens per pass", f"x {against}", *subtasks, "differ")
    base = dict(enumerate(runs[against]))
    for name, mine in runs.items():
        ratios: dict[str, list[float]] = defaultdict(list)
        for number, run in enumerate(mine):
            rate = run.n_tokens / run.seconds
            ratio = rate / (base[number].n_tokens / base[number].seconds)
            ratios[run.subtask].append(ratio)
            ratios["all"].append(ratio)
        passes = sum(run.n_forward for run in mine)
        n_tokens = sum(run.n_tokens for run in mine)
        table.add_row(
            name,
            f"{n_tokens / sum(run.seconds for run in mine):.1f}",
            f"{n_tokens / passes:.2f}" if passes else "",
            f"{statistics.median(ratios['all']):.2f}",
            *(f"{statistics.median(ratios[subtask]):.2f}" for subtask in subtasks),
            f"{sum(run.differs for run in mine)}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
