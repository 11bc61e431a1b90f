"""Which engine to use for this workload on this machine, and why."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from ..section import Stored
from ..tokens import label
from .decoded import (
    Decoded,
    acceptance,
    cost_curve,
    first_difference,
    one_row_pass,
    speed_ratio,
    step_cost,
    tokens_per_pass,
)
from .held import Held
from .saying import Made, each, said
from .statement import Interval, Statement, listed

QUESTION = "Which engine should decode this workload here?"
PLAIN = "plain"
TABLE = "engines-table"
"""The figure that has all engines side by side."""


SAME_MACHINE = 1.3
"""Times by which passes over one row may differ between engines whose seconds are compared."""


def engine(held: Held) -> list[Statement]:
    """The choice, tokens per pass as expected and measured, what a pass costs, what states offer."""
    traced = {name: run for name, run in held.traces.items() if run.n_tokens.sum() > 0}
    plain = traced.get(PLAIN)
    others = [run for name, run in traced.items() if name != PLAIN]
    found = [_unread(name, why) for name, why in held.unread.items()]
    if len(traced) < 2:
        for run in traced.values():
            found += _about(run.name, f"trace-{run.name}-prompt-0", partial(_alone, run))
        return found + _surplus(held)
    parts: list[Callable[[], Made]] = [partial(_per_pass, others)]
    if plain is not None:
        busy = _busy(others, plain)
        parts.insert(0, partial(_choice, others, plain) if busy is None else lambda: busy)
        parts += [partial(_costs, others, plain)] if busy is None else []
        parts += [partial(_output, others, plain)] if held.comparable else []
    for make in parts:
        found += _about(PLAIN if plain is not None else others[0].name, TABLE, make)
    return found + _surplus(held)


def _about(name: str, figure: str, make: Callable[[], Made]) -> list[Statement]:
    return said(make, question=QUESTION, name=name, figure=figure, source=f"/trace/{name}")


def _unread(name: str, why: str) -> Statement:
    return Statement(
        question=QUESTION,
        text=f"What {label(name, longest=40)} did cannot be said: its trace cannot be read ({why}).",
        uncertainty="nothing is claimed of it",
        figure="trace",
        source=f"/trace/{name}",
    )


def _named(run: Decoded) -> str:
    return label(run.name, longest=40)


def _alone(run: Decoded) -> Statement:
    """What there is to say of one engine that was traced alone."""
    n_tokens, seconds = int(run.n_tokens.sum()), float(run.seconds.sum())
    prompts = f"{run.n_prompts} prompt" + ("s" if run.n_prompts != 1 else "")
    return Statement(
        question=QUESTION,
        text=f"{_named(run)} wrote {n_tokens} tokens for {prompts}, "
        f"{tokens_per_pass(run).text('{:.2f}')} per pass of the target, "
        f"{n_tokens / max(seconds, 1e-9):.1f} per second.{_expected(run)}",
        uncertainty=f"{run.unit}; no other engine was traced, so none is recommended",
        figure=f"trace-{run.name}-prompt-0",
        source=f"/trace/{run.name}/generations",
    )


def _busy(others: list[Decoded], plain: Decoded) -> Statement | None:
    """That seconds are not comparable, where the same pass took unlike times in two traces."""
    mine = one_row_pass(plain)
    timed = [(run, one_row_pass(run)) for run in others]
    ratios = [(s / mine, run, s) for run, s in timed if s is not None and mine]
    far = max(ratios, key=lambda one: max(one[0], 1 / one[0]), default=None)
    if mine is None or far is None or 1 / SAME_MACHINE <= far[0] <= SAME_MACHINE:
        return None
    _, run, seconds = far
    return Statement(
        question=QUESTION,
        text=f"Speeds are not compared: a pass over one row took {1000 * mine:.0f} ms on average while "
        f"plain decoding ran and {1000 * seconds:.0f} ms while {_named(run)} did, so the machine was "
        "not the same for both.",
        uncertainty="means of passes after the prompt's; trace again on a quiet machine to choose "
        "by seconds",
        figure=TABLE,
        source=f"/trace/{run.name}/steps/seconds_verify",
    )


def _choice(others: list[Decoded], plain: Decoded) -> Statement:
    speeds = {run.name: speed_ratio(run, plain) for run in others}
    best = max(others, key=lambda run: speeds[run.name].value)
    shown, fastest = speeds[best.name].text("{:.2f}"), speeds[best.name]
    if fastest.bounded and fastest.low > 1:
        rivals = [
            _named(run)
            for run in others
            if run is not best and not fastest.apart_from(speeds[run.name])
        ]
        beside = f"; {listed(rivals)} cannot be told apart from it" if rivals else ""
        text = f"Use {_named(best)}: it is {shown} times as fast as plain decoding{beside}."
    elif fastest.bounded and fastest.high < 1:
        text = f"Use plain decoding: the nearest other, {_named(best)}, is {shown} times as fast."
    else:
        text = (
            "Plain decoding is as good a choice: no engine is shown to be faster; the nearest, "
            f"{_named(best)}, is {shown} times as fast."
        )
    return Statement(
        question=QUESTION,
        text=text,
        uncertainty=f"{best.unit}; seconds of one traced run on this machine{_whole(others)}",
        figure=TABLE,
        source=f"/trace/{best.name}/generations/seconds",
    )


def _whole(others: list[Decoded]) -> str:
    """What must be known of engines that verified their drafts whole."""
    whole = [_named(run) for run in others if run.options.get("thrifty") is False]
    if not whole:
        return ""
    return (
        f"; {listed(whole)} verified drafts whole (thrifty off); by default they cut them "
        "to what pays: their speed at the default is not in this run"
    )


def _per_pass(others: list[Decoded]) -> Statement:
    per_pass = {run.name: tokens_per_pass(run) for run in others}
    best = max(others, key=lambda run: per_pass[run.name].value)
    mine = per_pass[best.name]
    rivals = [
        _named(run) for run in others if run is not best and not mine.apart_from(per_pass[run.name])
    ]
    beside = f"; {listed(rivals)} cannot be told apart" if rivals and mine.bounded else ""
    return Statement(
        question=QUESTION,
        text=f"Most tokens per pass of the target come from {_named(best)}: {mine.text('{:.2f}')}"
        f"{beside}.{_expected(best)}",
        uncertainty=best.unit,
        figure=TABLE,
        source=f"/trace/{best.name}/steps/n_emitted",
    )


def _expected(run: Decoded) -> str:
    """What one rate of acceptance for all depths would give, beside what was measured."""
    drafts = acceptance(run)
    if drafts is None or not drafts.tried.sum():
        return ""
    emitted = run.steps["n_emitted"]
    per_step = float(emitted.sum() / max(len(emitted), 1))
    return (
        f" Were every depth accepted alike, at the mean rate of {drafts.rate:.0%}, "
        f"{drafts.expected:.2f} tokens a step would be expected; {per_step:.2f} are measured."
    )


def _costs(others: list[Decoded], plain: Decoded) -> list[Statement]:
    """Why tokens per pass do or do not become speed: what a step costs, by rows verified."""
    best = max(others, key=lambda run: tokens_per_pass(run).value)
    cost = step_cost(best, plain)
    if cost != cost:
        return []
    curve = cost_curve(others, plain)
    by_rows = "; ".join(
        f"{low} to {high} rows {ratio:.2f} times ({n} passes)"
        for low, high, n, ratio in zip(*curve.values(), strict=True)
    )
    rows = f" A pass over {by_rows} the time of a plain one, by medians." if by_rows else ""
    pays = tokens_per_pass(best).value / max(cost, 1e-9)
    return [
        Statement(
            question=QUESTION,
            text=f"A step of {_named(best)} takes {cost:.2f} times as long as one of plain decoding, "
            f"so its tokens per pass come to {pays:.2f} times the speed.{rows}",
            uncertainty="means and medians of the steps after the prompt's, no interval",
            figure=TABLE,
            source=f"/trace/{best.name}/steps/seconds_verify",
        )
    ]


def _output(others: list[Decoded], plain: Decoded) -> Statement:
    """Whether the engines wrote what plain decoding wrote."""
    apart = {run.name: first_difference(run, plain) for run in others}
    unlike = [
        f"{_named(run)} (from token {apart[run.name]} on)"
        for run in others
        if apart[run.name] is not None
    ]
    if unlike:
        text = f"Not all wrote what plain decoding wrote: {listed(unlike)} differ."
    elif len(others) == 1:
        text = f"{_named(others[0])} wrote the tokens that plain decoding wrote."
    else:
        text = f"All {len(others)} others wrote the tokens that plain decoding wrote."
    n = int(plain.n_tokens.sum())
    sampled = plain.options.get("temperature", 0.0)
    how = "sampled, so that they need not agree" if sampled else "greedy"
    return Statement(
        question=QUESTION,
        text=text,
        uncertainty=f"compared token by token, {n:,} tokens, {how}; one run proves no engine lossless",
        figure=TABLE,
        source="/trace/plain/tokens/id",
    )


def _surplus(held: Held) -> list[Statement]:
    """Where a learned draft head would find most, by the layers' surplus."""
    return each(held, "information_flow", _draft_head, question=QUESTION)


def _draft_head(stored: Stored) -> Statement:
    accepted = [Interval(*map(float, row)) for row in stored.acceptance]
    blind = Interval(*map(float, stored.depth_blind[0]))
    best = max(
        range(len(accepted)),
        key=lambda i: accepted[i].value if accepted[i].value == accepted[i].value else -1.0,
    )
    beside = "" if accepted[best].apart_from(blind) else ", which is not told apart from it"
    over_layers = (
        f" Over layers surplus and acceptance rank alike by {stored.rank_correlation:.2f}."
        if len(accepted) > 1 and np.isfinite(stored.rank_correlation)
        else ""
    )
    return Statement(
        question=QUESTION,
        text=f"A draft head on layer {int(stored.layers[best])} would match "
        f"{accepted[best].text('{:.0%}')} of the model's choices after next, one without "
        f"states {blind.value:.0%}{beside}.{over_layers}",
        uncertainty=f"95 % bootstrap over {int(stored.n_test_documents)} documents; head and "
        "text are those of the measurement, not of an engine traced here",
        figure=f"{stored.name}-drafting",
        source=f"{stored.source}/acceptance",
    )
