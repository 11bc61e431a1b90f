"""Aggressive Decoding on encoder-decoder models: passes saved, and what strictness costs.

    python benchmarks/seq2seq.py [--steps 600] [--pairs 4000] [--questions 100]

Teaches a small BART numbers in words to digits (`decoding.seq2seq.Numerals`), and a block writer
its outputs; minutes on one core, nothing is downloaded. Every engine answers the same held-out
sources, greedy, one at a time; drafts are verified whole. GAD++ (beta 5, tau 3, the published script's
values) is not lossless: the share of its texts that differ is printed.
"""

from __future__ import annotations

import argparse
import time

import torch
from common import console, header
from rich.table import Table
from transformers import BartConfig, BartForConditionalGeneration

from fluoroscope.decoding import Generation, Stopping, make_engine
from fluoroscope.decoding.seq2seq import (
    Numerals,
    TeachOptions,
    open_seq2seq,
    teach_block_writer,
    teach_target,
)
from fluoroscope.probes import Model


def main() -> None:
    """Teach both models, run the engines and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=4000)
    parser.add_argument("--questions", type=int, default=100)
    given = parser.parse_args()
    task, rules = Numerals(), TeachOptions(steps=given.steps)
    started = time.perf_counter()
    module = small_bart(task)
    pairs = task.pairs(given.pairs, seed=0)
    teach_target(module, pairs, options=rules, progress=show_step)
    model = open_seq2seq(module, name="BART of number words")
    writer = teach_block_writer(
        model, [source for source, _ in pairs], options=rules, progress=show_step
    )
    questions = task.pairs(given.questions, seed=1)
    header(
        "Encoder-decoder engines", questions=f"{len(questions)} of numbers in words",
        taught=f"{time.perf_counter() - started:.0f} s", dtype="float32", decoding="greedy",
    )  # fmt: skip
    settings = {
        "plain": {},
        "aggressive": {"thrifty": False},
        "gad": {"thrifty": False, "writer": writer},
        "gad, two rounds": {"thrifty": False, "writer": writer, "rounds": 2},
        "gad, beta 5, tau 3": {"thrifty": False, "writer": writer, "beta": 5, "tau": 3.0},
    }
    table = Table("engine", "right", "tokens per pass", "tokens/s", "texts that differ from plain")
    plain = answers(model, "plain", questions, {})
    for name, options in settings.items():
        made = answers(model, name.split(",")[0], questions, options)
        n_tokens = sum(g.stats.n_emitted for g in made)
        right = sum(
            list(g.token_ids) == output for g, (_, output) in zip(made, questions, strict=True)
        )
        differ = sum(g.token_ids != p.token_ids for g, p in zip(made, plain, strict=True))
        table.add_row(
            name,
            f"{right / len(made):.0%}",
            f"{n_tokens / sum(g.stats.n_forward for g in made):.2f}",
            f"{n_tokens / sum(g.stats.seconds for g in made):.0f}",
            f"{differ / len(made):.0%}",
        )
    console.print(table)


def small_bart(task: Numerals) -> BartForConditionalGeneration:
    """Two and two layers of width 96, random; at BART's usual 0.02 so small a model learns nothing."""
    torch.manual_seed(0)
    return BartForConditionalGeneration(BartConfig(
        vocab_size=task.d_vocab, d_model=96, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192,
        decoder_ffn_dim=192, max_position_embeddings=256, dropout=0.0, init_std=0.1,
        pad_token_id=task.PAD, bos_token_id=task.START, eos_token_id=task.END,
        decoder_start_token_id=task.START, forced_eos_token_id=None,
    ))  # fmt: skip


def answers(
    model: Model,
    engine: str,
    questions: list[tuple[list[int], list[int]]],
    options: dict[str, object],
) -> list[Generation]:
    """What an engine makes of all sources."""
    made = make_engine(model, engine, **options)
    rules = Stopping(max_new_tokens=60)
    return [made.generate(torch.tensor(source), stopping=rules)[0] for source, _ in questions]


def show_step(done: int, total: int, note: str) -> None:
    """One line that is written over."""
    if done % 20 == 0:
        console.print(f"{done} of {total}, {note}", end="\r")


if __name__ == "__main__":
    main()
