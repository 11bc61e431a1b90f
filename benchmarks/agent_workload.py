"""SuffixDecoding on an agent's work: the same templates over and over, and answers refined by oneself.

    python benchmarks/agent_workload.py [--episodes N] [--engines a,b,...] [--write FILE.jsonl]

An episode is three prompts that follow from one another: an action is written as JSON after a template
that all episodes share; a report is written about it after another; the report is written again with
one thing changed (self-refinement), the prompt holding the report. Names, places and numbers are drawn
with a seed. Answers come from the model itself, greedy, so that all engines are asked the same (they
are lossless). Counted: tokens per forward pass of the target, the prompt's included, by kind and by
third of the run, in which the index that all requests share fills; and tokens per second against the
first engine named. `--write` only writes the first prompts of all episodes, in Spec-Bench's form.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from collections.abc import Generator
from dataclasses import asdict, dataclass
from pathlib import Path

from common import console, header
from rich.table import Table

from fluoroscope.decoding import Engine, Stopping, make_engine
from fluoroscope.probes import open_model

CITIES = ("Lisbon", "Oslo", "Turin", "Ghent", "Porto", "Graz", "Lyon", "Cork")
GOODS = ("lamps", "chairs", "bottles", "kettles", "maps", "gloves", "mirrors", "drums")
PEOPLE = ("Ada", "Bruno", "Clara", "David", "Edith", "Felix", "Greta", "Hugo")
ACTION = """Copy this JSON and fill in the order. Answer with the JSON only.
{{"tool": "create_order", "arguments": {{"customer": "NAME", "item": "ITEM", "quantity": 0, \
"city": "CITY", "priority": "normal", "notify": true, "retries": 3}}}}
Order: {name} orders {count} {item} for {city}."""
REPORT = """Repeat this report word by word, with the order filled in.
Status report. The order was received and checked by the system. The customer is NAME. The ordered \
item is ITEM and the quantity is COUNT. The goods will be sent to CITY within three working days. \
No errors were found while the order was processed. The next step is to confirm the order with the \
customer.
Order: {name} orders {count} {item} for {city}."""
REFINE = """Here is a report:
{report}
Write the report again word by word, but the quantity is now {count}."""
KINDS = ("action", "report", "refinement")


@dataclass(frozen=True, slots=True)
class Order:
    """What an episode is about."""

    name: str
    count: int
    item: str
    city: str


def orders(n: int, seed: int) -> list[Order]:
    """So many orders."""
    draw = random.Random(seed)
    return [
        Order(draw.choice(PEOPLE), draw.randint(2, 60), draw.choice(GOODS), draw.choice(CITIES))
        for _ in range(n)
    ]


def episode(order: Order, number: int) -> Generator[str, str, None]:
    """Prompts of one episode; the answer to the last one is sent in."""
    facts = asdict(order)
    yield ACTION.format(**facts)
    report = yield REPORT.format(**facts)
    yield REFINE.format(report=report, count=order.count + number + 1)


def main() -> None:
    """Run all engines through all episodes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--episodes", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engines", default="plain,prompt-lookup,suffix,hybrid")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    drawn = orders(given.episodes, given.seed)
    if given.write:
        lines = [
            {
                "question_id": n,
                "category": "agent",
                "subtask": "action",
                "turns": [next(episode(o, n))],
            }
            for n, o in enumerate(drawn)
        ]
        given.write.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return
    model = open_model()
    rules = Stopping(max_new_tokens=given.max_new_tokens)
    engines: dict[str, Engine] = {}
    for name in given.engines.split(","):
        kind, *settings = name.split(":")
        options = {key: json.loads(value) for key, value in (s.split("=") for s in settings)}
        engines[name] = make_engine(model, kind, **options)
    for engine in engines.values():
        engine.generate("Say hello.", stopping=rules, chat=True)
    passes: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    seconds: dict[str, float] = defaultdict(float)
    differ: dict[str, int] = defaultdict(int)
    names = list(engines)
    for number, order in enumerate(drawn):
        asked = episode(order, number)
        prompt = next(asked)
        for kind in KINDS:
            texts: dict[str, str] = {}
            turn = (number + KINDS.index(kind)) % len(names)
            for name in names[turn:] + names[:turn]:
                started = time.perf_counter()
                (made,) = engines[name].generate(prompt, stopping=rules, chat=True)
                seconds[name] += time.perf_counter() - started
                texts[name] = made.text
                passes[name, kind].append((made.stats.n_emitted, made.stats.n_forward))
            for name, text in texts.items():
                differ[name] += text != texts[names[0]]
            if kind != KINDS[-1]:
                prompt = asked.send(texts[names[0]])
        console.print(f"{number + 1} of {len(drawn)}", end="\r")
    header("Agent workload", episodes=given.episodes, dtype="float32", decoding="greedy", batch=1)
    show(names, passes, seconds, differ)


def show(
    names: list[str],
    passes: dict[tuple[str, str], list[tuple[int, int]]],
    seconds: dict[str, float],
    differ: dict[str, int],
) -> None:
    """Tokens per pass by kind and by third of the run, and tokens per second."""
    table = Table(
        "tokens per pass", *KINDS, "first third", "last third", "all", f"x {names[0]}", "differ"
    )
    total = {name: sum(n for kind in KINDS for n, _ in passes[name, kind]) for name in names}
    for name in names:
        by_kind = [passes[name, kind] for kind in KINDS]
        third = max(1, len(by_kind[0]) // 3)
        cuts = [
            *by_kind,
            [run for runs in by_kind for run in runs[:third]],
            [run for runs in by_kind for run in runs[-third:]],
            [run for runs in by_kind for run in runs],
        ]
        speed = total[name] / seconds[name] / (total[names[0]] / seconds[names[0]])
        table.add_row(
            name,
            *(f"{sum(n for n, _ in runs) / sum(f for _, f in runs):.2f}" for runs in cuts),
            f"{speed:.2f}",
            f"{differ[name]} of {sum(map(len, by_kind))}",
        )
    console.print(table)


if __name__ == "__main__":
    main()
