"""What results without a question of their own come to: probes, and studies beside a model."""

from __future__ import annotations

import numpy as np

from ..section import Stored
from ..tokens import label
from .held import Held, estimate
from .saying import each
from .statement import Statement, basis, counted, unbounded

QUESTION = "What else does this run show?"


def others(held: Held) -> list[Statement]:
    """One sentence for each result of these kinds."""
    makers = {
        "linear_probe": _probe,
        "expert_quantisation": _bits,
        "moex_comparison": _moex,
        "subjects": _subjects,
        "source_recall": _recall,
        "superposition_experiment": _claims,
        "sae_synthetic": _synthetic,
        "sae_joint": _joint,
    }
    return [
        statement
        for kind, make in makers.items()
        for statement in each(held, kind, make, question=QUESTION)
    ]


def _probe(stored: Stored) -> Statement:
    best = int(np.argmax(stored.selectivity))
    accuracy = estimate(stored, "accuracy", best)
    wanted, site = label(str(stored.label)), label(str(stored.sites[best]), longest=60)
    token = float(stored.token_identity)
    more = accuracy.excludes(token) and accuracy.value > token
    start = f"{wanted} is decodable beyond the token itself" if more else (
        f"That {wanted} is decodable beyond the token itself is not shown"
    )  # fmt: skip
    return Statement(
        question=QUESTION,
        text=f"{start}: {accuracy.text('{:.2f}')} of the labels at {site}, {token:.2f} from the token "
        f"alone, {float(stored.control[best]):.2f} on the control task.",
        uncertainty=basis(accuracy, int(stored.n_test_documents), "documents")
        + "; the site is the best of those tried",
        figure=f"{stored.name}-accuracy",
        source=f"{stored.source}/accuracy",
    )


def _bits(stored: Stored) -> Statement:
    fewest = int(np.argmin(stored.bits))
    loss = estimate(stored, "loss", fewest)
    draws = np.asarray(stored.random_loss[fewest], dtype=float)
    beyond = draws.size > 0 and loss.value > draws.max()
    start = (
        "Rounding super experts costs more than rounding others"
        if beyond
        else "That rounding super experts costs more than rounding others is not shown"
    )
    beside = f", {draws.min():.3f} to {draws.max():.3f} with random others" if draws.size else ""
    return Statement(
        question=QUESTION,
        text=f"{start}: at {int(stored.bits[fewest])} bits the loss is {loss.text('{:.3f}')} nats"
        f"{beside}, {stored.baseline:.3f} unrounded.",
        uncertainty=f"{basis(loss, int(stored.n_texts), 'texts')}; {counted(draws.size, 'draws')}",
        figure=f"{stored.name}-loss",
        source=f"{stored.source}/loss",
    )


def _moex(stored: Stored) -> Statement:
    """How often MoE-X is ahead of its rivals by more than the interval."""
    names = [label(str(name), longest=None) for name in stored.contestants]
    metrics = [str(name) for name in stored.metrics]
    main = next((m for m in ("coverage", "detection", "loss") if m in metrics), metrics[0])
    row, n_seeds = metrics.index(main), len(stored.seeds)
    means = stored.mean[row]
    best = int(np.nanargmin(means) if main == "loss" else np.nanargmax(means))
    text = f"Of {len(names)} models {names[best]} has the best mean {main}, {means[best]:.3f}"
    if stored.champion >= 0 and len(names) > 1:
        rivals = [i for i in range(len(names)) if i != stored.champion]
        low, high = stored.ahead_low[row, rivals], stored.ahead_high[row, rivals]
        apart = int(((low > 0) | (high < 0)).sum())
        text += f"; MoE-X differs from {apart} of {len(rivals)} rivals by more than the interval"
    return Statement(
        question=QUESTION,
        text=f"{text}.",
        uncertainty=f"95 %, Student's t over {counted(n_seeds, 'seeds')}"
        if n_seeds > 1
        else "no interval; one seed",
        figure=f"{stored.name}-{main}",
        source=f"{stored.source}/mean",
    )


def _subjects(stored: Stored) -> Statement:
    """The shared decoder beside a decoder each, subject by subject."""
    methods = [str(method) for method in stored.methods]
    bridge, alone = (stored.read[methods.index(name), :, 0] for name in ("bridge", "alone"))
    n = len(bridge)
    better, worse = int((bridge[:, 1] > alone[:, 2]).sum()), int((bridge[:, 2] < alone[:, 1]).sum())
    return Statement(
        question=QUESTION,
        text=f"One decoder for {n} subjects identifies {bridge[:, 0].mean():.0%} of item pairs, a "
        f"decoder each {alone[:, 0].mean():.0%}: better for {better} subjects, worse for {worse}, "
        f"not told apart for {n - better - worse}.",
        uncertainty=f"95 % bootstrap over {counted(int(stored.n_test), 'items')}",
        figure=f"{stored.name}-read",
        source=f"{stored.source}/read",
    )


def _recall(stored: Stored) -> Statement:
    """The construction that finds most, if every seed of it beats every seed of the next."""
    names = [str(name) for name in stored.models]
    by_seed = stored.accuracy.mean(2)
    order = np.argsort(-by_seed.mean(1), kind="stable")
    best = int(order[0])
    text = f"{names[best]} finds most answers, {by_seed[best].mean():.0%}"
    if len(names) > 1:
        second = int(order[1])
        clear = by_seed[best].min() > by_seed[second].max()
        told = "every seed of it ahead of every seed of" if clear else "not told apart from"
        text += f", {told} {names[second]} ({by_seed[second].mean():.0%})"
    return Statement(
        question=QUESTION,
        text=f"{text}; guessing gives {stored.chance:.0%}.",
        uncertainty=f"range over {counted(by_seed.shape[1], 'seeds')}, no interval",
        figure=f"{stored.name}-accuracy",
        source=f"{stored.source}/accuracy",
    )


def _claims(stored: Stored) -> Statement:
    verdicts = [str(verdict) for verdict in stored.claim_verdict]
    kinds = ("confirmed", "not confirmed", "undecided")
    count = ", ".join(f"{verdicts.count(k)} {k}" for k in kinds if k in verdicts) or "none tested"
    return Statement(
        question=QUESTION,
        text=f"Superposition, {label(str(stored.experiment), longest=40)}: of {len(verdicts)} "
        f"statements of the paper {count}.",
        uncertainty=f"95 %, {label(str(stored.interval), longest=None)}",
        figure=f"{stored.name}-claims",
        source=f"{stored.source}/claim_verdict",
    )


def _synthetic(stored: Stored) -> Statement:
    names = list(dict.fromkeys(str(name) for name in stored.architecture))
    seeds = {name: _by_seed(stored, name) for name in names}
    order = sorted(names, key=lambda name: float(seeds[name].mean()))
    least = order[0]
    rivals = [name for name in order[1:] if seeds[name].min() <= seeds[least].max()]
    beside = f"; seeds of {', '.join(rivals)} reach into its range" if rivals else ""
    return Statement(
        question=QUESTION,
        text=f"On known features {label(least)} absorbs least, {seeds[least].mean():.2f} on average"
        f"{beside}.",
        uncertainty=f"range over {counted(len(np.unique(stored.seed)), 'seeds')}, no interval",
        figure=f"{stored.name}-absorption-1",
        source=f"{stored.source}/absorption",
    )


def _by_seed(stored: Stored, name: str) -> np.ndarray:
    """An architecture's mean absorption, seed by seed."""
    mine = stored.architecture == name
    return np.array([
        stored.absorption[mine & (stored.seed == seed)].mean()
        for seed in np.unique(stored.seed[mine])
    ])


def _joint(stored: Stored) -> Statement:
    values = np.asarray(stored.one_sided_energy, dtype=float)
    names = [label(str(name)) for name in stored.architecture]
    low, high = int(np.argmin(values)), int(np.argmax(values))
    return Statement(
        question=QUESTION,
        text=f"In a space of pictures and captions {names[low]} puts {values[low]:.0%} of its code's "
        f"energy into latents of one modality, {names[high]} {values[high]:.0%}.",
        uncertainty=f"{unbounded(int(stored.n_images), 'pictures')}; one training each",
        figure=f"{stored.name}-sides",
        source=f"{stored.source}/one_sided_energy",
    )
