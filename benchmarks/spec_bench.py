"""Decoding engines on Spec-Bench-format questions: tokens per pass and tokens per second, by subtask.

    python benchmarks/spec_bench.py [--questions FILE.jsonl] [--per-subtask N] [--engines a,b,...]
    python benchmarks/spec_bench.py --results runs.json [--skip S] ...   # in portions, added to a file
    python benchmarks/spec_bench.py --results runs.json --table           # the tables of what is there

Every engine answers every question (first turn, the model's chat template, greedy, one at a time, the
prompt's pass included); the order of contestants rotates from question to question, so that a busy
machine slows all alike. Peers: `model.generate` plain, with transformers' own prompt lookup and, with
`--assistant`, with an assistant model (the student that `draft-chain` drafts with), in float32 on a
module of their own; with `--compiled` also over its static cache, compiled (transformers does that on
a GPU; compiling is not timed). Engines keep what they learn across the questions of one call, and
begin anew with every repeat; `--warm-up` fills their tables first. A rate is the median over questions
of the ratio of tokens per second within a question, each the median over `--repeats`. Texts that
differ from our plain engine's are counted: rounding decides between near-equal tokens (see "lossless"
in CONTRIBUTING). An engine can be given options: `token-recycling:thrifty=false:layout=plain`,
`plain:cache=graph` on a GPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import console, header
from rich.table import Table

from fluoroscope.decoding import Generation, Stopping, make_engine
from fluoroscope.decoding.students import open_student
from fluoroscope.probes import Model, open_model

OWN = Path(__file__).with_name("prompts.jsonl")
STUDENT = Path(__file__).parents[1] / "decoding" / "drafters" / "embedded_student.safetensors"
ENGINES = "plain,prompt-lookup,token-recycling,suffix,hybrid"
DEPTHS = 8
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Wall time, or processor time of all threads, which other work on the machine disturbs less."""
Run = dict[str, Any]


def main() -> None:
    """Run contestants and print the tables, or print those of earlier runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--questions", type=Path, default=OWN)
    parser.add_argument("--per-subtask", type=int, default=0, help="0 for all")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first of each subtask")
    parser.add_argument(
        "--warm-up", type=int, default=0,
        help="questions of each subtask that our engines answer first, uncounted: tables fill",
    )  # fmt: skip
    parser.add_argument("--subtasks", default="", help="these only")
    parser.add_argument("--engines", default=ENGINES)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--assistant", action="store_true")
    parser.add_argument(
        "--compiled", action="store_true", help="transformers' compiled static cache"
    )
    parser.add_argument("--student", type=Path, default=STUDENT)
    parser.add_argument("--device", help="cpu, cuda; left out: a GPU if there is one")
    parser.add_argument(
        "--clock", choices=list(CLOCKS), default="wall", help="cpu: on busy machines"
    )
    parser.add_argument("--results", type=Path, help="JSON file that runs are added to")
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    given = parser.parse_args()
    held = json.loads(given.results.read_text()) if given.results and given.results.exists() else []
    if not given.table:
        earlier = list(held)
        for runs in measure(given):
            held = earlier + runs
            if given.results:
                given.results.write_text(json.dumps(held), encoding="utf-8")
    n = len({run["question"] for run in held})
    header(
        "Engines", questions=f"{n} of {given.questions.name}", dtype="float32", batch=1,
        new=given.max_new_tokens, decoding="greedy", clock=given.clock,
        device=device_name(given.device),
    )  # fmt: skip
    show(held)


def measure(given: argparse.Namespace) -> Iterator[list[Run]]:
    """Let every contestant answer every question; all runs so far, after each question."""
    first = given.skip + given.warm_up
    questions = read(given.questions, first, given.per_subtask, given.subtasks)
    warming = (
        read(given.questions, given.skip, given.warm_up, given.subtasks) if given.warm_up else []
    )
    model, peer = open_model(device=given.device), open_model(device=given.device).module
    found: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for _ in range(given.repeats):
        own = ours(model, given)
        for number, question in enumerate(warming):
            for run in own.values():
                run(question["turns"][0], given.max_new_tokens)
            console.print(f"warming up, {number + 1} of {len(warming)}", end="\r")
        contestants = own | ({} if given.no_peers else theirs(model, peer, given))
        names = list(contestants)
        for run in contestants.values():
            run("Say hello.", 4)
        for number, question in enumerate(questions):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                answer = contestants[name](question["turns"][0], given.max_new_tokens)
                found[name, number].append(answer)
            console.print(f"{number + 1} of {len(questions)}", end="\r")
            yield summary(found, questions, names[0])


def summary(
    found: dict[tuple[str, int], list[Run]], questions: list[Run], reference_name: str
) -> list[Run]:
    """One run per contestant and question: counts of the first repeat, median seconds of all."""
    runs: list[Run] = []
    for (name, number), answers in found.items():
        question, (reference, *_) = questions[number], found[reference_name, number]
        runs.append({
            "contestant": name, "question": question["question_id"], "subtask": question["subtask"],
            "differs": answers[0]["ids"] != reference["ids"],
        } | {key: value for key, value in answers[0].items() if key != "ids"}
          | {"seconds": statistics.median(run["seconds"] for run in answers)})  # fmt: skip
    return runs


def ours(model: Model, given: argparse.Namespace) -> dict[str, Callable[[str, int], Run]]:
    """Engines by name, with the options written behind it."""
    clock = CLOCKS[given.clock]

    def answer(engine: Any, text: str, n_new: int) -> Run:
        started = clock()
        made = engine.generate(text, stopping=Stopping(max_new_tokens=n_new), chat=True)[0]
        return {"seconds": clock() - started} | counts(made)

    found: dict[str, Callable[[str, int], Run]] = {}
    for name in given.engines.split(","):
        kind, *settings = name.split(":")
        options = {key: json_or_text(value) for key, value in (s.split("=") for s in settings)}
        found[name] = partial(answer, make_engine(model, kind, **options))
    return found


def counts(made: Generation) -> Run:
    """What is counted about one answer."""
    steps = made.trace.steps
    total = max(sum(step.seconds for step in steps), 1e-9)
    drafted, accepted = [0] * DEPTHS, [0] * DEPTHS
    for step in steps:
        reached = {0} | {node.depth for node in step.nodes if node.accepted}
        for depth in {node.depth for node in step.nodes if node.depth <= DEPTHS}:
            if depth - 1 in reached:
                drafted[depth - 1] += 1
                accepted[depth - 1] += depth in reached
    return {
        "ids": list(made.token_ids),
        "n_tokens": len(made.token_ids),
        "n_forward": made.stats.n_forward,
        "rows": sum(1 + len(step.nodes) for step in steps[1:]),
        "drafting": sum(step.seconds_draft for step in steps) / total,
        "bookkeeping": 1
        - sum(step.seconds_draft + step.seconds_verify for step in steps[1:])
        / max(sum(step.seconds for step in steps[1:]), 1e-9),
        "drafted": drafted,
        "accepted": accepted,
    }


def theirs(
    model: Model, peer: Any, given: argparse.Namespace
) -> dict[str, Callable[[str, int], Run]]:
    """Decoding of transformers itself."""
    encode, clock = make_engine(model, "plain").encode, CLOCKS[given.clock]

    def answer(text: str, n_new: int, **options: Any) -> Run:
        prompt = encode(text, chat=True).to(peer.device)
        started = clock()
        with torch.no_grad():
            out = peer.generate(prompt[None], max_new_tokens=n_new, do_sample=False, **options)
        seconds = clock() - started
        ids = out[0, len(prompt) :].tolist()
        return {"seconds": seconds, "ids": ids, "n_tokens": len(ids), "n_forward": 0}

    found: dict[str, Callable[[str, int], Run]] = {
        "model.generate": answer,
        "generate, prompt lookup": partial(answer, prompt_lookup_num_tokens=10),
    }
    if given.compiled:
        found["generate, compiled"] = partial(answer, cache_implementation="static")
    if given.assistant:
        student = open_student(model, given.student).model.module
        found["generate, assistant"] = partial(answer, assistant_model=student)
    return found


def device_name(device: str | None) -> str:
    """The graphics card that is used, or that there is none."""
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return torch.cuda.get_device_name() if on_gpu else "CPU"


def read(path: Path, skip: int, per_subtask: int, subtasks: str) -> list[Run]:
    """Questions, at most so many of each subtask."""
    taken: dict[str, int] = defaultdict(int)
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        question = json.loads(line)
        subtask = question["subtask"]
        taken[subtask] += 1
        enough = bool(per_subtask) and taken[subtask] > skip + per_subtask
        if (
            taken[subtask] > skip
            and not enough
            and (not subtasks or subtask in subtasks.split(","))
        ):
            found.append(question)
    return found


def show(runs: list[Run]) -> None:
    """Rates against plain decoding, ours and transformers'; tokens per pass; acceptance by depth."""
    subtasks = sorted({run["subtask"] for run in runs})
    by_name: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        by_name[run["contestant"]].append(run)
    for against in ("model.generate", "plain"):
        if against not in by_name:
            continue
        base = {run["question"]: rate(run) for run in by_name[against]}
        table = Table(f"tokens/s, x {against}", "tokens/s", "all", *subtasks, "least", "differ")
        for name, mine in by_name.items():
            ratio = {run["question"]: rate(run) / base[run["question"]] for run in mine}
            per = [statistics.median(ratio[r["question"]] for r in of(mine, s)) for s in subtasks]
            table.add_row(
                name,
                f"{sum(r['n_tokens'] for r in mine) / sum(r['seconds'] for r in mine):.1f}",
                f"{statistics.median(ratio.values()):.2f}",
                *(f"{value:.2f}" for value in per),
                f"{min(per):.2f}",
                f"{sum(run['differs'] for run in mine)} of {len(mine)}",
            )
        console.print(table)
    table = Table("tokens per pass", "all", *subtasks, "rows per pass", "drafting", "bookkeeping")
    depths = Table("accepted of those drafted, by depth", *map(str, range(1, DEPTHS + 1)))
    for name, mine in by_name.items():
        if not mine[0]["n_forward"]:
            continue
        table.add_row(
            name,
            *(f"{per_pass(of(mine, s)):.2f}" for s in ("", *subtasks)),
            f"{sum(r['rows'] for r in mine) / max(sum(r['n_forward'] - 1 for r in mine), 1):.1f}",
            f"{statistics.mean(r['drafting'] for r in mine):.1%}",
            f"{statistics.mean(r['bookkeeping'] for r in mine):.1%}",
        )
        sums = [
            [sum(r[key][d] for r in mine) for d in range(DEPTHS)] for key in ("accepted", "drafted")
        ]
        depths.add_row(
            name, *(f"{a / b:.0%} of {b}" if b else "" for a, b in zip(*sums, strict=True))
        )
    console.print(table)
    console.print(depths)


def of(runs: list[Run], subtask: str) -> list[Run]:
    """Those of a subtask; all if none is named."""
    return [run for run in runs if not subtask or run["subtask"] == subtask]


def rate(run: Run) -> float:
    """Tokens per second."""
    return run["n_tokens"] / run["seconds"]


def per_pass(runs: list[Run]) -> float:
    """Tokens per forward pass of the target, all passes counted alike."""
    return sum(run["n_tokens"] for run in runs) / sum(run["n_forward"] for run in runs)


def json_or_text(value: str) -> Any:
    """What an option's value stands for."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


if __name__ == "__main__":
    main()
