"""The reading of information flow over a run file: every layer, put into one result."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from ..errors import OptionError, TooFewTokensError
from ..model import Model
from ..results import Result, described
from ..runfile import Run
from .flow import (
    Baseline,
    FlowOptions,
    LayerFlow,
    Material,
    Refusals,
    baseline,
    prepare,
    read_control,
    read_depths,
    read_layer,
    states_of,
)
from .futures import futures_of_run, merge_rare
from .kernel_estimators import GROUP, grouped_estimate, groups_of, info_nce
from .model_law import ModelSurplus, model_surplus
from .predictions import Predictions, last_site, predicted_logits
from .resampling import NOTHING, Estimate
from .verdicts import control_verdict, disagreement, rank_agreement

Progress = Callable[[int, int, str], None]

_LAYER = re.compile(r"layers\.(\d+)\.resid_post")


BOUNDS = "value_low_high"
"""Name of the last axis of every estimate: value, lower and upper 95 % bound over documents."""


@dataclass(frozen=True, kw_only=True)
class InformationFlow(Result):
    """What each layer holds of the tokens to come, and the acceptance of draft heads trained on it."""

    kind: ClassVar[str] = "information_flow"
    layers: np.ndarray = described("layer whose output is read", axes=("layers",))
    futures: np.ndarray = described(
        "E2b: usable information about W_k", axes=("layers", "futures", BOUNDS), unit="nats"
    )
    surplus: np.ndarray = described(
        "E3b: usable I(H; W_1 | W_0), draft head", axes=("layers", BOUNDS), unit="nats"
    )
    additive: np.ndarray = described(
        "E3b with an additive probe, which misses synergy", axes=("layers", BOUNDS), unit="nats"
    )
    acceptance: np.ndarray = described(
        "share of W_1 where the draft head's choice is the target's", axes=("layers", BOUNDS)
    )
    cluster_next: np.ndarray = described(
        "E3c: I(cluster; W_0), coarse classes", axes=("layers", BOUNDS), unit="nats"
    )
    cluster_surplus: np.ndarray = described(
        "E3c: I(cluster; W_1 | W_0), coarse classes", axes=("layers", BOUNDS), unit="nats"
    )
    renyi_next: np.ndarray = described(
        "E4: matrix Rényi I(H; W_0), bounds over groups", axes=("layers", BOUNDS), unit="nats"
    )
    depth: np.ndarray = described("draft depth k at the last layer", axes=("depths",))
    depth_surplus: np.ndarray = described(
        "E3b: usable I(H; W_k | W_0..W_k-1)", axes=("depths", BOUNDS), unit="nats"
    )
    depth_acceptance: np.ndarray = described(
        "share of W_k where the head's choice is the target's", axes=("depths", BOUNDS)
    )
    depth_blind: np.ndarray = described("the same of a head without H", axes=("depths", BOUNDS))
    contrastive: np.ndarray = described(
        "E5: InfoNCE I(H; W_0) at the last layer, bounds over groups", axes=(BOUNDS,), unit="nats"
    )
    contrastive_cap: float = described("what E5 cannot exceed", unit="nats")
    model_surplus: np.ndarray = described(
        "E3a: I(H; W_1 | W_0) under the model's law", axes=(BOUNDS,), unit="nats"
    )
    model_surplus_cap: float = described("log of the states mixed: E3a's cap", unit="nats")
    model_surplus_covered: float = described("mean probability of the W_0 read")
    model_surplus_missing: float = described("bound on what the others change", unit="nats")
    model_surplus_classes: int = described("classes of W_0 and W_1 in E3a")
    control_next: np.ndarray = described(
        "E2b about W_0, states of other rows", axes=(BOUNDS,), unit="nats"
    )
    control_surplus: np.ndarray = described(
        "E3b, states of other rows", axes=(BOUNDS,), unit="nats"
    )
    rank_correlation: float = described("Spearman of surplus and acceptance over layers")
    coverage: float = described("share of W_1 with a class of its own: no head accepts more")
    n_classes: int = described("classes of tokens")
    n_train: int = described("rows trained on")
    n_test: int = described("rows tested on")
    n_test_documents: int = described("source documents tested on")
    family: str = described("the predictive families, in words")
    verdicts: np.ndarray = described("where estimators disagree; controls", axes=("lines",))
    refusals: np.ndarray = described("estimators that had too little to go on", axes=("lines",))


@torch.no_grad()
def information_flow(
    model: Model,
    run: Run,
    predictions: Predictions,
    options: FlowOptions | None = None,
    *,
    sites: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> InformationFlow:
    """Measure what every captured layer holds of the tokens to come.

    Args:
        model: The model of the run; it lends embeddings and unembedding.
        run: A run file with rows of `layers.*.resid_post`.
        predictions: What the model predicts at the run's rows (`read_predictions`).
        options: How much is read, and the families.
        sites: Which layers' sites; None for all that the run holds.
        progress: Called after every stage.

    Raises:
        OptionError: No layer is given, or too few documents.
        TooFewTokensError: Too few tokens for the readouts; says how many they need.
        UnknownSiteError: The run holds no rows of a site.
    """
    chosen = options or FlowOptions()
    named = by_layer(run.sites if sites is None else sites)
    futures = futures_of_run(run, n_futures=chosen.n_futures, max_tokens=len(predictions.loss))
    embeddings = model.module.get_input_embeddings()
    table = embeddings.weight.detach().float().cpu()  # type: ignore[union-attr]
    material = prepare(futures, table, predictions.greedy_ids, chosen)
    steps, done = len(named) + 5, 0

    def stage(note: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, steps, note)

    refusals = Refusals()
    head_base = baseline(material, 1, model.d_model, chosen.head)
    additive_base = baseline(material, 1, model.d_model, chosen.probe)
    stage("readouts without states")
    found: list[LayerFlow] = []
    states = None
    for site in named:
        states = states_of(run, site, material)
        found.append(read_layer(material, states, head_base, additive_base, chosen, refusals))
        stage(site)
    assert states is not None
    deeper = read_depths(material, states, chosen, refusals)
    stage("deeper drafts")
    control = read_control(material, states, head_base, chosen)
    stage("control")
    contrastive = refusals.attempt(lambda: _contrastive(model, run, material, chosen))
    stage("InfoNCE")
    world = _model_world(model, run, material, chosen, refusals)
    stage("the model's own continuations")
    depths = [(found[-1].surplus, found[-1].acceptance, head_base.acceptance), *deeper]
    return InformationFlow(
        layers=np.array([_layer(site) for site in named]),
        depth=np.arange(1, len(depths) + 1),
        futures=np.stack([_stored(layer.futures) for layer in found]),
        **{
            name: _stored([getattr(layer, name) for layer in found])
            for name in (
                "surplus",
                "additive",
                "acceptance",
                "cluster_next",
                "cluster_surplus",
                "renyi_next",
            )
        },
        depth_surplus=_stored([row[0] for row in depths]),
        depth_acceptance=_stored([row[1] for row in depths]),
        depth_blind=_stored([row[2] for row in depths]),
        contrastive=_stored([contrastive])[0],
        model_surplus=_stored([world.surplus])[0],
        control_next=_stored([control[0]])[0],
        control_surplus=_stored([control[1]])[0],
        contrastive_cap=float(np.log(GROUP)),
        model_surplus_cap=float(np.log(max(world.n_states, 1))),
        model_surplus_covered=world.covered,
        model_surplus_missing=world.missing,
        model_surplus_classes=chosen.world_classes,
        rank_correlation=rank_agreement(
            [one.surplus.value for one in found], [one.acceptance.value for one in found]
        ),
        coverage=_coverage(material),
        n_classes=material.classes.n,
        n_train=len(material.parts[0]),
        n_test=len(material.test),
        n_test_documents=material.test.n_documents,
        family=_family(chosen, material),
        verdicts=np.array(_verdicts(named, found, head_base, additive_base, control), dtype=str),
        refusals=np.array(refusals.reasons, dtype=str),
    )


def by_layer(sites: Sequence[str]) -> list[str]:
    """The sites of layers' outputs among some, first layer first.

    Raises:
        OptionError: There are none.
    """
    named = sorted((site for site in sites if _LAYER.fullmatch(site)), key=_layer)
    if not named:
        raise OptionError(
            "Information flow needs rows of layers.N.resid_post, got "
            f"{', '.join(sites) or 'no sites'}. Capture with --sites 'layers.*.resid_post'."
        )
    return named


def _layer(site: str) -> int:
    matched = _LAYER.fullmatch(site)
    assert matched is not None
    return int(matched[1])


def _stored(estimates: Sequence[Estimate]) -> np.ndarray:
    return np.array([(one.value, one.low, one.high) for one in estimates])


def _coverage(material: Material) -> float:
    """Share of the target's own choices for W_1 that the head can name at all."""
    wanted = material.greedy[material.test.rows + 1]
    return float(np.isin(wanted, material.classes.kept).mean())


def _family(options: FlowOptions, material: Material) -> str:
    probe, head = options.probe, options.head
    return (
        f"probe: softmax-linear of rank {probe.rank} on the state, {probe.epochs} epochs; additive: "
        f"the same on state and embedding of W_0; draft head: {head.rank} SiLU units on both, "
        f"{head.epochs} epochs; {material.classes.n} classes (the most frequent tokens and the rest); "
        f"{len(material.parts[0]):,} training rows"
    )


def _verdicts(
    named: Sequence[str],
    found: Sequence[LayerFlow],
    head: Baseline,
    additive: Baseline,
    control: tuple[Estimate, Estimate],
) -> list[str]:
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
        control_verdict("information about W_0", control[0]),
        control_verdict("the surplus", control[1]),
    ]
    return [line for line in lines if line is not None]


def _contrastive(model: Model, run: Run, material: Material, options: FlowOptions) -> Estimate:
    """E5 with the model's own logits as critic."""
    site, test = last_site(run, model), material.test
    groups = groups_of(test.documents, n_groups=options.n_groups, size=GROUP, seed=options.seed)
    held = run.activations[site]

    def information(rows: np.ndarray) -> float:
        logits = predicted_logits(model, site, held.gather(test.rows[rows]))
        tokens = torch.from_numpy(test.tokens[rows, 0]).to(logits.device)
        return float(info_nce(logits.float()[:, tokens]).mean())

    return grouped_estimate("E5, InfoNCE,", groups, information)


def _model_world(
    model: Model, run: Run, material: Material, options: FlowOptions, refusals: Refusals
) -> ModelSurplus:
    """E3a at random test rows with short contexts, one document after the other."""
    test, tokens = material.test, run.tokens
    positions = tokens.positions()[test.rows]
    short = np.flatnonzero(positions < options.world_context)
    generator = np.random.default_rng(options.seed)
    drawn = np.sort(generator.permutation(short)[: options.world_states])
    rows = test.rows[drawn]
    contexts = [
        torch.from_numpy(tokens.ids[row - place : row + 1].astype(np.int64))
        for row, place in zip(rows, positions[drawn], strict=True)
    ]
    classes = merge_rare(
        material.parts[0].tokens[:, 0],
        d_vocab=len(material.classes.of_token),
        n_classes=options.world_classes,
    )
    try:
        return model_surplus(
            model, contexts, test.documents[drawn], classes,
            delta=options.world_dropped, most=options.world_most,
        )  # fmt: skip
    except TooFewTokensError as error:
        refusals.reasons.append(str(error))
        return ModelSurplus(NOTHING, float("nan"), len(contexts), float("nan"))
