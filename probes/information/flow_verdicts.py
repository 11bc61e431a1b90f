"""Verdict lines of an information flow: which estimators disagree beyond their intervals, and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .flow_layer import Baseline, LayerFlow
from .loss import LossDecomposition
from .model_law import ModelSurplus
from .resampling import Estimate
from .verdicts import control_verdict, disagreement


def flow_verdicts(
    named: Sequence[str],
    found: Sequence[LayerFlow],
    head: Baseline,
    additive: Baseline,
    control: tuple[Estimate, Estimate],
    contrastive: Estimate,
    world: ModelSurplus,
    loss: LossDecomposition | None,
) -> list[str]:
    """Sentences on where two estimators of one quantity disagree beyond their intervals, and why.

    Args:
        named: Sites, first layer first.
        found: What each gave.
        head: The draft head's family without states.
        additive: The additive probe's.
        control: Both readouts with states of other rows.
        contrastive: E5 at the last layer.
        world: E3a at the last layer.
        loss: The loss taken apart, for both estimators of I(H; W_0) from whole predictions.
    """
    lines = [
        disagreement(
            "Surplus", ("the draft head", [one.surplus for one in found]),
            ("the additive probe", [one.additive for one in found]), named,
            "What the head finds more is interaction of state and W_0, or curvature.",
        ),
        disagreement(
            "Information about W_0", ("the probe", [one.futures[0] for one in found]),
            ("the table of clusters", [one.cluster_next for one in found]), named,
            "Clusters and coarse classes hold less than states and tokens.",
        ),
        disagreement(
            "Surplus", ("the draft head", [one.surplus for one in found]),
            ("the table of clusters", [one.cluster_surplus for one in found]), named,
            "The table is about coarse classes: conditioning on less can leave more to say.",
        ),
    ]  # fmt: skip
    for name, base in (("draft head", head), ("additive probe", additive)):
        if base.table_gain.low > 0:
            lines.append(
                f"Without states the {name} loses {base.table_gain} nats to a table of counts: its "
                "surplus is too large by about as much."
            )
    lines += [
        *_last_layer(named[-1], found[-1], contrastive, world, loss),
        control_verdict("information about W_0", control[0]),
        control_verdict("the surplus", control[1]),
    ]
    return [line for line in lines if line is not None]


def _last_layer(
    site: str, last: LayerFlow, contrastive: Estimate, world: ModelSurplus,
    loss: LossDecomposition | None,
) -> list[str | None]:  # fmt: skip
    """Estimators that exist at the last layer only: E2a, E2b, E5 of W_0, E3a of the surplus."""
    here = [site]
    lines = [
        disagreement(
            "Surplus", ("the model's own continuations (E3a)", [world.surplus]),
            ("the draft head (E3b)", [last.surplus]), here, _surplus_meaning(last, world),
        ),
    ]  # fmt: skip
    if loss is None:
        return lines
    own = Estimate(*(getattr(loss, f"model_information{end}") for end in ("", "_low", "_high")))
    data = Estimate(*(getattr(loss, f"data_information{end}") for end in ("", "_low", "_high")))
    misfit = data.value - own.value + loss.gap
    lines += [
        disagreement(
            "Information about W_0", ("the mixture of predictions (E2a)", [own]),
            ("unigram less loss (E2b)", [data]), here,
            f"E2b is about the data: it counts the unigram law of other documents not fitting these "
            f"(about {misfit:+.2f} nats) and the model's miscalibration (the gap, {-loss.gap:+.2f}). "
            f"E2a is in the model's own world, about {loss.model_information_bias:.2f} too low for the "
            "stream.",
        ),
        disagreement(
            "Information about W_0", ("unigram less loss (E2b)", [data]),
            ("InfoNCE (E5)", [contrastive]), here,
            "E5 contrasts a token with few others and cannot exceed the log of their number.",
        ),
        disagreement(
            "Information about W_0", ("unigram less loss, whole tokens (E2b)", [data]),
            ("the probe, classes of tokens (E2b)", [last.futures[0]]), here,
            "Classes hold less than tokens, and the probe is trained on few rows.",
        ),
    ]  # fmt: skip
    return lines


def _surplus_meaning(last: LayerFlow, world: ModelSurplus) -> str:
    """What it says that E3a and E3b differ, by which is larger."""
    coarse = (
        f"E3a is about coarser classes and {world.n_states} states, of which it cannot tell more than "
        f"{np.log(max(world.n_states, 1)):.2f} nats."
    )
    if last.surplus.value > world.surplus.value:
        return f"A readout cannot beat the model's law on the same classes; {coarse}"
    return (
        f"What the head finds less, a readout of this family and training does not reach; {coarse}"
    )
