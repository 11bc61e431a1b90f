"""Which experts hold a mixture-of-experts model up."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from ..tokens import label
from .held import Held, estimate
from .saying import each
from .statement import Statement, basis, counted, listed, unbounded

QUESTION = "Which experts hold the model up?"


def experts(held: Held) -> list[Statement]:
    """Super experts, what falls without them, whether each is confirmed, on any text."""
    return [
        *each(held, "expert_profile", _found, question=QUESTION),
        *each(held, "expert_effects", _effects, question=QUESTION),
        *each(held, "expert_confirmation", _confirmed, question=QUESTION),
        *each(held, "expert_agnosticism", _anywhere, question=QUESTION),
    ]


def expert_name(layer: int | np.integer, expert: int | np.integer) -> str:
    """An expert as it is named in running text."""
    return f"L{int(layer)} " + ("shared" if expert < 0 else f"E{int(expert)}")


def _found(stored: Stored) -> Statement:
    chosen = np.flatnonzero(stored.ranked_super)
    names = [expert_name(stored.ranked_layer[i], stored.ranked_expert[i]) for i in chosen]
    if names:
        one = len(names) == 1
        text = (
            f"{listed(names)} {'is a candidate' if one else 'are candidates'}: "
            f"{len(names)} of {int(stored.n_population)} experts compared "
            f"{'passes' if one else 'pass'} the criterion of super experts, with outputs up to "
            f"{abs(float(stored.ranked_value[chosen[0]])):,.0f}."
        )
    else:
        largest = float(stored.maxima.max()) if stored.maxima.size else 0.0
        text = (
            f"No expert stands out: of {int(stored.n_population)} compared none passes the criterion; "
            f"the largest output is {largest:,.3g}."
        )
    few = (
        f"; the percentile lets at most {int(stored.n_selectable)} through"
        if stored.n_selectable < 5
        else ""
    )
    return Statement(
        question=QUESTION,
        text=text,
        uncertainty="a criterion on largest outputs, no interval; "
        f"{counted(int(stored.n_texts), 'texts')}{few}",
        figure=f"{stored.name}-ranked",
        source=f"{stored.source}/ranked_super",
    )


def _effects(stored: Stored) -> Statement:
    names = [label(str(name), longest=None) for name in stored.conditions]
    loss = [estimate(stored, "loss", i) for i in (0, 1)]
    draws = np.asarray(stored.random_loss, dtype=float)
    beyond = len(draws) > 0 and loss[1].value > draws.max()
    clear = loss[1].apart_from(loss[0]) and loss[1].value > loss[0].value
    if clear and beyond:
        start = f"{names[1]} hold it up: without them the loss rises"
    elif clear:
        start = f"Without {names[1]} the loss rises"
    else:
        start = f"That {names[1]} hold it up is not clear: without them the loss goes"
    control = (
        f"; with as many random others of the same layers it is {draws.min():.2f} to "
        f"{draws.max():.2f} in {counted(len(draws), 'draws')}"
        if len(draws)
        else "; there is no control of random experts"
    )
    return Statement(
        question=QUESTION,
        text=f"{start} from {loss[0].text('{:.2f}')} to {loss[1].text('{:.2f}')} nats{control}.",
        uncertainty=basis(loss[1], int(stored.n_texts), "texts"),
        figure=f"{stored.name}-loss",
        source=f"{stored.source}/loss",
    )


def _confirmed(stored: Stored) -> Statement:
    names = [expert_name(*pair) for pair in stored.experts]
    sure = [name for name, is_sure in zip(names, stored.confirmed, strict=True) if is_sure]
    n_random = int(stored.random.shape[1])
    text = (
        f"{len(sure)} of {len(names)} candidates cost more than every random other of their layer"
    )
    return Statement(
        question=QUESTION,
        text=f"{text}: {listed(sure)}." if sure else f"{text}.",
        uncertainty=f"an expert like the others passes by chance once in {n_random + 1}; "
        f"{unbounded(int(stored.n_texts), 'texts')}",
        figure=f"{stored.name}-alone",
        source=f"{stored.source}/confirmed",
    )


def _anywhere(stored: Stored) -> Statement:
    names = [expert_name(*pair) for pair in stored.experts]
    everywhere = int(stored.found.all(0).sum()) if names else 0
    corpora = counted(len(stored.corpora), "corpora")
    return Statement(
        question=QUESTION,
        text=f"{everywhere} of {len(names)} candidates are found on every text read.",
        uncertainty=f"no interval; {corpora}",
        figure=f"{stored.name}-table",
        source=f"{stored.source}/found",
    )
