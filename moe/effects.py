"""What experts hold up: a model measured with and without them.

Each condition (nothing, the super experts, as many random others of the same layers, drawn several
times) is measured on the same teacher-forced texts: loss, largest and median residual after every
layer, attention to the first token, the attention-sink decay rate of every layer and how far greedy
text repeats itself.

The decay rate (arXiv 2507.23279, Eq. 7) is D = 1 - mean over heads of (sink attention after / before).
The paper leaves the mean over queries open; here each head gives a ratio of sums over queries t >= 8,
heads with a baseline below 0.01 are left out and counted, nothing is clipped: 0 is no change, 1 a
vanished sink, negative a sink that grew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..probes.capture import capture
from ..probes.errors import OptionError
from ..probes.model import Model
from ..probes.readings import Texts
from ..probes.readings.bootstrap import mean_with_interval
from ..probes.readings.loss import token_scores
from ..probes.results import Result, described
from .ablate import Mode, ablate_experts
from .layers import SHARED, Expert, MoeLayer, layer_of, moe_layers

Progress = Callable[[int, int, str], None]

FIRST_QUERY = 8
LEAST_MASS = 0.01
N_RANDOM = 5
N_GENERATED = 64
SINK_TOKENS = 64
NGRAM = 4


@dataclass(frozen=True, kw_only=True)
class PruningEffects(Result):
    """A model with and without some experts."""

    kind: ClassVar[str] = "expert_effects"
    experts: np.ndarray = described(
        "super experts taken out, as layer and expert", axes=("experts", "pair")
    )
    mode: str = described("what takes their place: zero, renorm or reroute")
    conditions: np.ndarray = described("what is taken out", axes=("conditions",))
    n_removed: np.ndarray = described("experts taken out", axes=("conditions",))
    loss: np.ndarray = described("next-token loss", axes=("conditions",), unit="nats")
    loss_low: np.ndarray = described(
        "lower 95 % bound over texts", axes=("conditions",), unit="nats"
    )
    loss_high: np.ndarray = described("upper bound", axes=("conditions",), unit="nats")
    repetition: np.ndarray = described(
        "share of 4-grams of greedy text that occurred before; NaN where nothing was generated",
        axes=("conditions",),
    )
    largest: np.ndarray = described(
        "largest |residual| after each layer", axes=("conditions", "decoder layers")
    )
    median: np.ndarray = described(
        "median |residual|, mean over texts", axes=("conditions", "decoder layers")
    )
    attention_layers: np.ndarray = described("layers with attention", axes=("attention layers",))
    sink_map: np.ndarray = described(
        "attention to the first token, mean over queries and texts",
        axes=("conditions", "attention layers", "heads"),
    )
    decay: np.ndarray = described(
        "sink decay rate; NaN where no head had a sink", axes=("conditions", "attention layers")
    )
    n_ignored_heads: np.ndarray = described(
        "heads left out for a baseline below 0.01", axes=("attention layers",)
    )
    n_draws: int = described("draws of random experts the matched condition is a mean of")
    random_loss: np.ndarray = described("loss of each draw", axes=("draws",), unit="nats")
    prompt: str = described("what greedy generation went on from; empty where it was not run")
    samples: np.ndarray = described("what was generated", axes=("conditions",))
    n_texts: int = described("texts read")
    n_tokens: int = described("predictions per condition")


def sink_decay(
    before: Float[Tensor, "heads query key"],
    after: Float[Tensor, "heads query key"],
    sinks: Sequence[int] = (0,),
    *,
    first_query: int = FIRST_QUERY,
    least: float = LEAST_MASS,
) -> tuple[float, int]:
    """Decay of attention to the sinks between two runs over the same tokens.

    Args:
        before: Attention probabilities of one layer before ablation.
        after: The same after.
        sinks: Sink positions.
        first_query: Queries before it are left out.
        least: Heads whose mean baseline is smaller are left out.

    Returns:
        The rate (NaN if no head is left), and how many heads were left out.

    Raises:
        OptionError: The texts are not longer than first_query.
    """
    if before.shape[-2] <= first_query:
        raise OptionError(
            f"Texts must be longer than first_query={first_query}, got {before.shape[-2]}."
        )
    chosen = list(sinks)
    masses = [a[:, first_query:, chosen].double().sum(-1).mean(-1) for a in (before, after)]
    return decay_of_masses(masses[0], masses[1], least=least)


def decay_of_masses(
    before: Float[Tensor, " heads"], after: Float[Tensor, " heads"], *, least: float = LEAST_MASS
) -> tuple[float, int]:
    """The rate from each head's mean sink attention before and after."""
    kept = before >= least
    if not bool(kept.any()):
        return float("nan"), len(before)
    return float(1 - (after[kept] / before[kept]).mean()), int((~kept).sum())


def repetition(ids: Sequence[int], n: int = NGRAM) -> float:
    """Share of n-grams that occurred before in the same text; 0 for none, towards 1 for a loop."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def matched_draws(
    layers: Sequence[MoeLayer],
    experts: Sequence[Expert],
    n_draws: int,
    generator: np.random.Generator,
    *,
    avoid: Sequence[Expert] = (),
) -> list[list[Expert]]:
    """As many other routed experts of the same layers, time and again.

    No expert comes twice before all others of its layer have had their turn, so that few draws in a
    small layer are not the same one. A shared expert has no peer in its layer and is matched by a
    routed one. Where a layer has not enough others, all of them are taken.

    Args:
        layers: The model's.
        experts: Those to be matched; never drawn.
        n_draws: How many draws.
        generator: Of the order.
        avoid: Not drawn either, unless a layer has no others.
    """
    draws: list[list[Expert]] = [[] for _ in range(n_draws)]
    for index in sorted({layer for layer, _ in experts}):
        here = [e for layer, e in experts if layer == index]
        others = np.setdiff1d(np.arange(layer_of(layers, (index, here[0])).n_experts), here)
        free = np.setdiff1d(others, [e for layer, e in avoid if layer == index])
        pile = np.empty(0, dtype=np.int64)
        for draw in draws:
            if len(pile) < len(here):
                pile = generator.permutation(free if len(free) else others)
            draw += [(index, int(e)) for e in pile[: len(here)]]
            pile = pile[len(here) :]
    return draws


@torch.no_grad()
def pruning_effects(
    model: Model,
    texts: Texts,
    experts: Sequence[Expert],
    *,
    mode: Mode = "zero",
    prompt: str = "",
    n_random: int = N_RANDOM,
    seed: int = 0,
    progress: Progress | None = None,
) -> PruningEffects:
    """Measure a model whole, without some experts, and without random others of the same layers.

    Args:
        model: A mixture-of-experts model.
        texts: Texts to read; attention is read on their first 64 tokens.
        experts: The experts in question.
        mode: What their tokens get instead.
        prompt: Greedy text goes on from here; empty for none. Needs a tokenizer.
        n_random: Draws of random experts (the paper takes five).
        seed: Seed of the draws.
        progress: Called after every condition.

    Raises:
        OptionError: No experts are given.
        UnknownExpertError: There is no such expert.
    """
    if not experts:
        raise OptionError(
            "Give at least one expert to take out; profiling found none or was not run."
        )
    layers = moe_layers(model)
    generator = np.random.default_rng(seed)
    draws = matched_draws(layers, experts, n_random, generator)
    plans: list[tuple[str, list[Expert]]] = [("nothing", []), (_names(experts), list(experts))]
    plans += [("random", draw) for draw in draws]
    measured = []
    for number, (_, removed) in enumerate(plans):
        with ablate_experts(model, removed, mode=mode):
            measured.append(measure_condition(model, texts, prompt))
        if progress is not None:
            progress(number + 1, len(plans), "conditions")
    n_each = len(experts)
    names, counts = [plans[0][0], plans[1][0]], [0, n_each]
    rows = measured[:2]
    if n_random:
        rows.append(_mean_of(measured[2:]))
        names.append(f"{len(draws[0])} random of the same layers")
        counts.append(len(draws[0]))
    base = rows[0]["sinks"]
    decays = [[decay_of_masses(a, b) for a, b in zip(base, r["sinks"], strict=True)] for r in rows]
    intervals = [mean_with_interval(r["losses"], r["counts"], texts.documents) for r in rows]
    return PruningEffects(
        experts=np.array(experts, dtype=np.int64),
        mode=mode,
        conditions=np.array(names, dtype=str),
        n_removed=np.array(counts),
        loss=np.array([float(i[0]) for i in intervals]),
        loss_low=np.array([float(i[1]) for i in intervals]),
        loss_high=np.array([float(i[2]) for i in intervals]),
        repetition=np.array([r["repetition"] for r in rows]),
        largest=np.stack([r["largest"] for r in rows]),
        median=np.stack([r["median"] for r in rows]),
        attention_layers=np.array(rows[0]["attention_layers"], dtype=np.int64),
        sink_map=np.stack([r["sinks"].numpy() for r in rows]),
        decay=np.array([[d for d, _ in row] for row in decays]).reshape(len(rows), -1),
        n_ignored_heads=np.array([n for _, n in decays[0]], dtype=np.int64),
        n_draws=n_random,
        random_loss=np.array([m["losses"].sum() / m["counts"].sum() for m in measured[2:]]),
        prompt=prompt,
        samples=np.array([r["sample"] for r in rows], dtype=str),
        n_texts=len(texts),
        n_tokens=int(rows[0]["counts"].sum()),
    )


def measure_condition(model: Model, texts: Texts, prompt: str = "") -> dict[str, Any]:
    """A model as it stands: losses and counts per text, residual sizes, sink masses, greedy text."""
    sites = [s for s in model.sites.names if s.endswith(".attn.pattern")]
    resid = [f"layers.{i}.resid_post" for i in range(model.n_layers)]
    losses, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    largest, median = np.zeros(model.n_layers), np.zeros(model.n_layers)
    for numbers, ids in texts.batches():
        with capture(model, *resid) as acts:
            logits = model(ids, use_cache=False).logits[:, :-1]
        for row, number in enumerate(numbers):
            loss, _, _ = token_scores(logits[row], ids[row, 1:].to(logits.device))
            losses[number], counts[number] = float(loss.double().sum()), len(loss)
        for i, name in enumerate(resid):
            sizes = acts[name].abs().float().flatten(1)
            largest[i] = max(largest[i], float(sizes.max()))
            median[i] += float(sizes.median(dim=1).values.sum())
    sinks = _sinks(model, texts, sites)
    sample = _generate(model, prompt) if prompt else []
    return {
        "losses": losses,
        "counts": counts,
        "largest": largest,
        "median": median / len(texts),
        "attention_layers": [model.sites[s].layer for s in sites],
        "sinks": sinks,
        "repetition": repetition(sample) if sample else float("nan"),
        "sample": model.decode(sample) if sample else "",
    }


def _sinks(model: Model, texts: Texts, sites: Sequence[str]) -> Tensor:
    """Mean attention to the first token by layer and head, from queries at FIRST_QUERY on."""
    n_heads = model.n_heads or 0
    total, count = torch.zeros(len(sites), n_heads, dtype=torch.float64), 0
    for ids in texts.ids if sites else ():
        cut = torch.from_numpy(ids[:SINK_TOKENS])[None]
        if cut.shape[1] <= FIRST_QUERY:
            continue
        with capture(model, *sites, stop_early=True) as acts:
            model(cut, use_cache=False)
        total += torch.stack([
            acts[s][0, :, FIRST_QUERY:, 0].double().mean(-1).cpu() for s in sites
        ])
        count += 1
    return total / max(count, 1)


def _generate(model: Model, prompt: str) -> list[int]:
    ids = model.encode(prompt)[None].to(model.device)
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=N_GENERATED,
        min_new_tokens=N_GENERATED, do_sample=False, pad_token_id=0,
    )  # fmt: skip
    return out[0, ids.shape[1] :].tolist()


def _mean_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean over draws of random experts; attention maps and texts alike, the first draw's sample."""
    mean = dict(rows[0])
    for key in ("losses", "largest", "median", "repetition"):
        mean[key] = np.mean([row[key] for row in rows], axis=0)
    mean["sinks"] = torch.stack([row["sinks"] for row in rows]).mean(0)
    return mean


def _names(experts: Sequence[Expert]) -> str:
    named = [f"L{layer} " + ("shared" if e == SHARED else f"E{e}") for layer, e in experts]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
