"""PEARL against drafting and verifying in turn, with the student of the embedded model as draft.

    python benchmarks/pearl.py [--questions FILE.jsonl] [--max-new-tokens 64] [--window N]

Greedy, drafts verified whole, the engines interleaved question by question. PEARL runs its draft in a
second process with one thread; the target keeps this one's threads. What `Pearl.explain` expects from
the measured costs is printed beneath, to be compared with what came about: both models on one processor
share its memory bandwidth, which the expectation leaves out.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from common import console, header
from rich.table import Table

from fluoroscope.decoding import Pearl, Stopping, make_engine
from fluoroscope.probes import open_model


def main() -> None:
    """Run the engines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=Path, default=Path(__file__).with_name("prompts.jsonl"))
    parser.add_argument("--n-questions", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--window", type=int, default=None, help="left out: by measured costs")
    given = parser.parse_args()
    lines = given.questions.read_text(encoding="utf-8").splitlines()[: given.n_questions]
    questions = [json.loads(line)["turns"][0] for line in lines]
    model, rules = open_model(), Stopping(max_new_tokens=given.max_new_tokens)
    pearl = make_engine(model, "pearl", window=given.window, where="process")
    assert isinstance(pearl, Pearl)
    engines = {
        "plain": make_engine(model, "plain"),
        "draft-chain": make_engine(model, "draft-chain", thrifty=False),
        "pearl": pearl,
        "pearl, inline": make_engine(model, "pearl", window=given.window, where="inline"),
    }
    seconds = dict.fromkeys(engines, 0.0)
    tokens = dict.fromkeys(engines, 0)
    passes = dict.fromkeys(engines, 0)
    waited = overlapped = 0.0
    for engine in engines.values():
        engine.generate("Say hello.", stopping=Stopping(max_new_tokens=4), chat=True)
    for question in questions:
        for name, engine in engines.items():
            made = engine.generate(question, stopping=rules, chat=True)[0]
            seconds[name] += made.stats.seconds
            tokens[name] += made.stats.n_emitted
            passes[name] += made.stats.n_forward
            if name == "pearl":
                waited += sum(r.seconds_waited for r in pearl.rounds)
                overlapped += sum(r.seconds_draft - r.seconds_waited for r in pearl.rounds)
    header(
        "PEARL", questions=len(questions), window=pearl.window, threads=torch.get_num_threads(),
        dtype="float32", decoding="greedy",
    )  # fmt: skip
    table = Table("engine", "tokens/s", "x plain", "tokens per pass")
    rate = tokens["plain"] / seconds["plain"]
    for name in engines:
        mine = tokens[name] / seconds[name]
        table.add_row(
            name, f"{mine:.1f}", f"{mine / rate:.2f}", f"{tokens[name] / passes[name]:.2f}"
        )
    console.print(table)
    console.print(f"Drafting: {overlapped:.1f} s beside the target, {waited:.1f} s waited for.")
    console.print(pearl.explain())
    pearl.close()


if __name__ == "__main__":
    main()
