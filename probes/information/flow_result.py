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
LAYERS = ("layers",)


def _bounds(doc: str, axes: tuple[str, ...] = LAYERS, unit: str = "nats") -> tuple[np.ndarray, ...]:
    """Three described fields of an estimate: value, lower and upper bound."""
    return (
        described(doc, axes=axes, unit=unit),
        described("lower 95 % bound over documents", axes=axes, unit=unit),
        described("upper bound", axes=axes, unit=unit),
    )


@dataclass(frozen=True, kw_only=True)
class InformationFlow(Result):
    """What each layer holds of the tokens to come, and the acceptance of draft heads trained on it."""

    kind: ClassVar[str] = "information_flow"
    layers: np.ndarray = described("layer whose output is read", axes=LAYERS)
    futures: np.ndarray
    futures_low: np.ndarray
    futures_high: np.ndarray
    futures, futures_low, futures_high = _bounds("E2b: usable information about W_k",
                                                 ("layers", "futures"))  # fmt: skip
    surplus: np.ndarray
    surplus_low: np.ndarray
    surplus_high: np.ndarray
    surplus, surplus_low, surplus_high = _bounds("E3b: usable I(H; W_1 | W_0), draft head")
    additive: np.ndarray
    additive_low: np.ndarray
    additive_high: np.ndarray
    additive, additive_low, additive_high = _bounds("E3b with an additive probe: misses synergy")
    acceptance: np.ndarray
    acceptance_low: np.ndarray
    acceptance_high: np.ndarray
    acceptance, acceptance_low, acceptance_high = _bounds(
        "share of W_1 where the head's choice is the target's", unit=""
    )
    cluster_next: np.ndarray
    cluster_next_low: np.ndarray
    cluster_next_high: np.ndarray
    cluster_next, cluster_next_low, cluster_next_high = _bounds(
        "E3c: I(cluster; W_0), coarse classes"
    )
    cluster_surplus: np.ndarray
    cluster_surplus_low: np.ndarray
    cluster_surplus_high: np.ndarray
    cluster_surplus, cluster_surplus_low, cluster_surplus_high = _bounds(
        "E3c: I(cluster; W_1 | W_0), coarse classes"
    )
    renyi_next: np.ndarray
    renyi_next_low: np.ndarray
    renyi_next_high: np.ndarray
    renyi_next, renyi_next_low, renyi_next_high = _bounds("E4: matrix Rényi I(H; W_0)")
    depth: np.ndarray = described("draft depth k at the last layer", axes=("depths",))
    depth_surplus: np.ndarray
    depth_surplus_low: np.ndarray
    depth_surplus_high: np.ndarray
    depth_surplus, depth_surplus_low, depth_surplus_high = _bounds(
        "E3b: usable I(H; W_k | W_0..W_k-1)", ("depths",)
    )
    depth_acceptance: np.ndarray
    depth_acceptance_low: np.ndarray
    depth_acceptance_high: np.ndarray
    depth_acceptance, depth_acceptance_low, depth_acceptance_high = _bounds(
        "share of W_k where the head's choice is the target's", ("depths",), ""
    )
    depth_blind: np.ndarray = described("acceptance of the head without H", axes=("depths",))
    blind_acceptance: float = described("acceptance of the head that sees W_0 alone")
    blind_acceptance_low: float = described("lower bound")
    blind_acceptance_high: float = described("upper bound")
    contrastive: float = described("E5: InfoNCE I(H; W_0) at the last layer", unit="nats")
    contrastive_low: float = described("lower bound", unit="nats")
    contrastive_high: float = described("upper bound", unit="nats")
    contrastive_cap: float = described("what E5 cannot exceed", unit="nats")
    model_surplus: float = described("E3a: I(H; W_1 | W_0), the model's law", unit="nats")
    model_surplus_low: float = described("lower bound", unit="nats")
    model_surplus_high: float = described("upper bound", unit="nats")
    model_surplus_cap: float = described("log of the states mixed: E3a's cap", unit="nats")
    model_surplus_covered: float = described("mean probability of the W_0 read")
    model_surplus_missing: float = described("bound on what the others change", unit="nats")
    model_surplus_classes: int = described("classes of W_0 and W_1 in E3a")
    control_next: float = described("E2b about W_0, states of other rows", unit="nats")
    control_next_low: float = described("lower bound", unit="nats")
    control_next_high: float = described("upper bound", unit="nats")
    control_surplus: float = described("E3b, states of other rows", unit="nats")
    control_surplus_low: float = described("lower bound", unit="nats")
    control_surplus_high: float = described("upper bound", unit="nats")
    rank_correlation: float = described("Spearman of surplus and acceptance over layers")
    coverage: float = described("share of W_1 with a class of its own: no head accepts more")
    n_classes: int = described("classes of tokens")
    n_train: int = described("rows trained on")
    n_test: int = described("rows tested on")
    n_test_documents: int = described("source documents tested on")
    family: str = described("the predictive families, in words")
    verdicts: list[str] = described("where estimators disagree, and the controls")
    refusals: list[str] = described("estimators that had too little to go on")


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
    named = _by_layer(run.sites if sites is None else sites)
    futures = futures_of_run(run, n_futures=chosen.n_futures, max_tokens=len(predictions.loss))
    embeddings = model.module.get_input_embeddings()
    table = embeddings.weight.detach().float().cpu()  # type: ignore[union-attr]
    material = prepare(futures, table, predictions.greedy, chosen)
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
    deeper = read_depths(material, states, chosen)
    stage("deeper drafts")
    control = read_control(material, states, head_base, chosen)
    stage("control")
    contrastive = refusals.attempt(lambda: _contrastive(model, run, material, chosen))
    stage("InfoNCE")
    world = _model_world(model, run, material, chosen, refusals)
    stage("the model's own continuations")
    surplus = [layer.surplus for layer in found]
    acceptance = [layer.acceptance for layer in found]
    depths = [(surplus[-1], acceptance[-1], head_base.acceptance), *deeper]
    correlation = rank_agreement([s.value for s in surplus], [a.value for a in acceptance])
    per_layer = {
        name: [getattr(layer, name) for layer in found]
        for name in ("surplus", "additive", "acceptance", "cluster_next", "cluster_surplus",
                     "renyi_next")
    }  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    for name, estimates in per_layer.items():
        arrays |= _columns(name, estimates)
    for name, estimates in (
        ("depth_surplus", [row[0] for row in depths]),
        ("depth_acceptance", [row[1] for row in depths]),
    ):
        arrays |= _columns(name, estimates)
    flat = _columns("futures", [one for layer in found for one in layer.futures])
    arrays |= {key: value.reshape(len(found), -1) for key, value in flat.items()}
    numbers: dict[str, float] = {}
    for name, one in (
        ("blind_acceptance", head_base.acceptance), ("contrastive", contrastive),
        ("control_next", control[0]), ("control_surplus", control[1]),
        ("model_surplus", world.surplus),
    ):  # fmt: skip
        numbers |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    return InformationFlow(
        layers=np.array([_layer(site) for site in named]),
        depth=np.arange(1, chosen.depths + 1),
        depth_blind=np.array([row[2].value for row in depths]),
        contrastive_cap=float(np.log(GROUP)),
        model_surplus_cap=float(np.log(max(world.n_states, 1))),
        model_surplus_covered=world.covered,
        model_surplus_missing=world.missing,
        model_surplus_classes=chosen.world_classes,
        rank_correlation=correlation,
        coverage=_coverage(material),
        n_classes=material.classes.n,
        n_train=len(material.parts[0]),
        n_test=len(material.test),
        n_test_documents=material.test.n_documents,
        family=_family(chosen, material),
        verdicts=_verdicts(named, found, head_base, additive_base, control),
        refusals=refusals.reasons,
        **arrays,
        **numbers,
    )


def _by_layer(sites: Sequence[str]) -> list[str]:
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


def _columns(name: str, estimates: Sequence[Estimate]) -> dict[str, np.ndarray]:
    rows = np.array([(one.value, one.low, one.high) for one in estimates])
    return {name: rows[:, 0], f"{name}_low": rows[:, 1], f"{name}_high": rows[:, 2]}


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
