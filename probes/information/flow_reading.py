"""The reading of information flow over a run file: layer by layer, each kept as soon as it is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from ..errors import TooFewTokensError
from ..model import Model
from ..runfile import Run
from .flow_layer import (
    Baseline,
    LayerFlow,
    Refusals,
    baseline,
    read_control,
    read_depths,
    read_layer,
)
from .flow_material import Material, prepare, states_of
from .flow_options import FlowOptions
from .flow_parts import Estimates, Parts
from .flow_result import InformationFlow, by_layer, layer_of
from .flow_verdicts import flow_verdicts
from .futures import futures_of_run, merge_rare
from .kernel_estimators import GROUP, fitting_groups, grouped_estimate, info_nce
from .loss import LossDecomposition
from .model_law import ModelSurplus, model_surplus
from .predictions import Predictions, last_site, predicted_logits
from .readout import ReadoutOptions
from .resampling import NOTHING, Estimate
from .verdicts import rank_agreement

Progress = Callable[[int, int, str], None]

PER_LAYER = tuple(field.name for field in fields(LayerFlow) if field.name != "futures")
"""Estimates of a layer that are single numbers."""


@torch.no_grad()
def information_flow(
    model: Model,
    run: Run,
    predictions: Predictions,
    options: FlowOptions | None = None,
    *,
    sites: Sequence[str] | None = None,
    loss: LossDecomposition | None = None,
    keep: bool = False,
    progress: Progress | None = None,
) -> InformationFlow:
    """Measure what every captured layer holds of the tokens to come.

    Args:
        model: The model of the run; it lends embeddings and unembedding.
        run: A run file with rows of `layers.*.resid_post`.
        predictions: What the model predicts at the run's rows (`read_predictions`).
        options: How much is read, and the families.
        sites: Which layers' sites; None for all that the run holds.
        loss: The same rows' loss taken apart, for the verdicts on W_0.
        keep: Whether finished layers are kept in the run file, so that the same reading goes on with
            the next one after an interruption (see `flow_parts`).
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

    parts = Parts(run if keep else None, chosen, len(predictions.loss))
    refusals = Refusals(_narrowed(material, model.d_model))
    head_base = baseline(material, 1, chosen.head)
    additive_base = baseline(material, 1, chosen.probe)
    stage("readouts without states")
    reading = _Reading(run, material, head_base, additive_base, chosen, refusals, parts)
    found = []
    for site in named:
        found.append(reading.layer(site))
        stage(site)
    deeper = reading.depths(named[-1])
    stage("deeper drafts")
    control = reading.control(named[-1])
    stage("control")
    contrastive, size = _contrastive(model, run, material, chosen, refusals)
    stage("InfoNCE")
    world = _model_world(model, run, material, chosen, refusals)
    stage("the model's own continuations")
    depths = [(found[-1].surplus, found[-1].acceptance, head_base.acceptance), *deeper]
    verdicts = flow_verdicts(
        named, found, head_base, additive_base, control, contrastive, world, loss
    )
    return InformationFlow(
        layers=np.array([layer_of(site) for site in named]),
        depth=np.arange(1, len(depths) + 1),
        futures=np.stack([_stored(layer.futures) for layer in found]),
        **{name: _stored([getattr(layer, name) for layer in found]) for name in PER_LAYER},
        depth_surplus=_stored([row[0] for row in depths]),
        depth_acceptance=_stored([row[1] for row in depths]),
        depth_blind=_stored([row[2] for row in depths]),
        contrastive=_stored([contrastive])[0],
        model_surplus=_stored([world.surplus])[0],
        control_next=_stored([control[0]])[0],
        control_surplus=_stored([control[1]])[0],
        contrastive_cap=float(np.log(size)),
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
        verdicts=np.array(verdicts, dtype=str),
        refusals=np.array(refusals.reasons, dtype=str),
    )


@dataclass
class _Reading:
    """Parts of one reading, each measured unless it is kept already."""

    run: Run
    material: Material
    head_base: Baseline
    additive_base: Baseline
    options: FlowOptions
    refusals: Refusals
    parts: Parts
    _held: tuple[str, tuple[Tensor, Tensor, Tensor]] | None = None

    def layer(self, site: str) -> LayerFlow:
        """What one layer gave."""

        def measure() -> Estimates:
            found = read_layer(
                self.material, self._states(site), self.head_base, self.additive_base, self.options,
                self.refusals,
            )  # fmt: skip
            single = {name: [getattr(found, name)] for name in PER_LAYER}
            return {"futures": list(found.futures), **single}

        held = self._part(site, measure)
        return LayerFlow(
            futures=tuple(held["futures"]), **{name: held[name][0] for name in PER_LAYER}
        )

    def depths(self, site: str) -> list[tuple[Estimate, Estimate, Estimate]]:
        """Surplus and acceptance of deeper drafts."""

        def measure() -> Estimates:
            found = read_depths(self.material, self._states(site), self.options, self.refusals)
            return {str(number): list(row) for number, row in enumerate(found)}

        held = self._part(f"depths at {site}", measure)
        return [(row[0], row[1], row[2]) for row in held.values()]

    def control(self, site: str) -> tuple[Estimate, Estimate]:
        """The same readouts with states of other rows."""

        def measure() -> Estimates:
            states = self._states(site)
            return {
                "found": list(read_control(self.material, states, self.head_base, self.options))
            }

        first, second = self._part(f"control at {site}", measure)["found"]
        return first, second

    def _states(self, site: str) -> tuple[Tensor, Tensor, Tensor]:
        if self._held is None or self._held[0] != site:
            self._held = (site, states_of(self.run, site, self.material))
        return self._held[1]

    def _part(self, name: str, measure: Callable[[], Estimates]) -> Estimates:
        kept = self.parts.get(name)
        if kept is not None:
            estimates, reasons = kept
            self.refusals.reasons += [one for one in reasons if one not in self.refusals.reasons]
            return estimates
        before = len(self.refusals.reasons)
        estimates = measure()
        self.parts.put(name, estimates, self.refusals.reasons[before:])
        return estimates


def _stored(estimates: Sequence[Estimate]) -> np.ndarray:
    return np.array([(one.value, one.low, one.high) for one in estimates])


def _coverage(material: Material) -> float:
    """Share of the target's own choices for W_1 that the head can name at all."""
    wanted = material.greedy[material.test.rows + 1]
    return float(np.isin(wanted, material.classes.kept).mean())


def _family(options: FlowOptions, material: Material) -> str:
    probe, head = options.probe, options.head
    n_train = len(material.parts[0])
    return (
        f"probe: softmax-linear of rank {probe.rank} on the state, {_trained(probe, n_train)}; "
        f"additive: the same on state and embedding of W_0; draft head: {head.rank} SiLU units on "
        f"both, {_trained(head, n_train)}; the best epoch by other documents; {material.classes.n} "
        f"classes (the most frequent tokens and the rest); {n_train:,} training rows; "
        f"{material.n_directions} directions of a state"
    )


def _trained(options: ReadoutOptions, n_train: int) -> str:
    """How long a readout is trained, and whether that is the least or what its epochs come to."""
    epochs, steps = options.passes(n_train)
    least = f", for at least {options.min_steps} steps" if epochs > options.epochs else ""
    return f"{epochs} epochs of {steps} steps{least}"


def _narrowed(material: Material, width: int) -> list[str]:
    """What is left out where readouts cannot see whole states."""
    if material.n_directions >= width:
        return []
    line = (
        f"Readouts see {material.n_directions} leading principal directions of {width}, of states and "
        f"of embeddings: {len(material.parts[0]):,} training rows do not do for more (or fewer were "
        "asked for). What lies in the other directions is left out."
    )
    return [line]


def _contrastive(
    model: Model, run: Run, material: Material, options: FlowOptions, refusals: Refusals
) -> tuple[Estimate, int]:
    """E5 with the model's own logits as critic, and the rows that were contrasted."""
    site, test = last_site(run, model), material.test
    held = run.activations[site]
    size = GROUP

    def information(rows: np.ndarray) -> float:
        logits = predicted_logits(model, site, held.gather(test.rows[rows]))
        tokens = torch.from_numpy(test.tokens[rows, 0]).to(logits.device)
        return float(info_nce(logits.float()[:, tokens]).mean())

    def estimate() -> Estimate:
        nonlocal size
        groups = fitting_groups(test.documents, n_groups=options.n_groups, seed=options.seed)
        size = len(groups[0])
        return grouped_estimate("E5, InfoNCE,", groups, information)

    return refusals.attempt(estimate), size


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
