"""An example of every kind of result that has a renderer, from a seed: other seeds, other numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

from fluoroscope.moe.confirm import Agnosticism, Confirmation
from fluoroscope.moe.effects import PruningEffects
from fluoroscope.moe.moex.comparison import MoexComparison
from fluoroscope.moe.quantise import QuantisationEffects
from fluoroscope.moe.result import ExpertProfile
from fluoroscope.probes.degeneration import AttentionDegeneration
from fluoroscope.probes.information.alignment_result import SpectralAlignment
from fluoroscope.probes.information.flow_result import InformationFlow
from fluoroscope.probes.information.geometry_result import HeadGeometry
from fluoroscope.probes.information.loss import LossDecomposition
from fluoroscope.probes.information.predictions import Predictions
from fluoroscope.probes.readings.ablation import AblationStory
from fluoroscope.probes.readings.layer_stats import LayerStats
from fluoroscope.probes.readings.lens import Lens, TunedLensReading
from fluoroscope.probes.readings.linear_probe import LinearProbe
from fluoroscope.probes.readings.loss import NextToken
from fluoroscope.probes.readings.massive import MassiveActivations
from fluoroscope.probes.readings.sinks import AttentionSinks
from fluoroscope.probes.results import Result
from fluoroscope.probes.selfcheck import SelfCheck
from fluoroscope.probes.seq2seq import SourceRecall
from fluoroscope.probes.subjects import SubjectsComparison
from fluoroscope.reports.comparing import ComparedRuns
from fluoroscope.sae.comparison import SaeComparison
from fluoroscope.sae.features.cards import FeatureCards
from fluoroscope.sae.features.paths import PursuitPaths
from fluoroscope.sae.joint.study import JointStudy
from fluoroscope.sae.result import SaeTraining
from fluoroscope.sae.superposition.experiment import Experiment
from fluoroscope.sae.superposition.profile import LayerProfile
from fluoroscope.sae.synthetic.study import SyntheticStudy

R = TypeVar("R", bound=Result)

N_WORDS = 8
"""Tokens that the examples know."""
SIZES = {
    "value_low_high": 3, "bounds": 3, "three": 3, "pair": 2, "edges": 13, "bins": 12, "keys": 12,
    "positions": 9, "layers": 3, "attention layers": 3, "decoder layers": 3, "steps_plus_1": 5,
    "steps": 4, "ranks": 3, "parts": 3, "variants": 4, "eighths": 8, "order": 6, "rows": 24,
    "cells": 24,
}  # fmt: skip
"""Length of axes by name; others have two."""
WHOLE = re.compile(
    r"(^n_(?!f)|ids$|tokens?$|channels?$|positions?$|neurons$|counts?$|rows$|neighbours?$|companions$"
    r"|histogram$|coactive$|first_layer$|last_layer$|ranked_layer$|ranked_expert$|^experts$|rank$)"
)
"""Fields that hold whole numbers."""


def example(kind: type[R], number: int = 0, **given: Any) -> R:
    """A result whose arrays have their axes' lengths, random where nothing is given.

    Bounds lie around their values: `x_low` and `x_high` around `x`, and along the axis of bounds.
    """
    generator = np.random.default_rng(number)
    values: dict[str, Any] = {}
    for field in fields(kind):
        about = field.metadata["fluoroscope"]
        if field.name in given:
            values[field.name] = given[field.name]
        elif str(field.type).startswith("np.ndarray"):
            values[field.name] = _array(generator, field.name, about["axes"])
        elif field.type in {"int", "int | None"}:
            values[field.name] = int(generator.integers(3, 99))
        elif field.type in {"float", "float | None"}:
            values[field.name] = float(generator.random())
        else:
            values[field.name] = {} if str(field.type).startswith("dict") else f"some {field.name}"
    for name in values:
        for end, side in (("_low", -0.1), ("_high", 0.1)):
            bound = values.get(name + end)
            alike = bound is not None and np.shape(bound) == np.shape(values[name])
            if alike and name + end not in given and np.asarray(values[name]).dtype.kind in "if":
                values[name + end] = values[name] + side
    return kind(**values)


def _array(generator: np.random.Generator, name: str, axes: tuple[str, ...]) -> np.ndarray:
    shape = tuple(SIZES.get(axis, 2) for axis in axes)
    if WHOLE.search(name):
        return generator.integers(0, N_WORDS, shape)
    drawn = generator.random(shape)
    if axes[-1] in ("value_low_high", "bounds", "three"):
        drawn = drawn[..., :1] + np.array([0.0, -0.05, 0.05])
    return drawn


def names(*given: str) -> np.ndarray:
    return np.array(given, dtype=str)


def _lens(kind: type[R], seed: int) -> R:
    """Final choices lead from layer `seed` on."""
    top = np.zeros((3, 9, 2), dtype=np.int64)
    top[seed % 3 :] = 1
    return example(kind, seed, layers=np.arange(3), example_name="a text", example_top_ids=top)


def _massive(seed: int) -> MassiveActivations:
    return example(
        MassiveActivations, seed, layers=np.arange(3), event_document=names("a", "b"),
        writer_layer=1, event_value=np.random.default_rng(seed).random(2) * 999,
    )  # fmt: skip


def _ablation(seed: int) -> AblationStory:
    return example(
        AblationStory, seed, conditions=names("nothing", "neuron 1", "neurons 1 and 2", "9 others"),
        n_neurons=np.array([0, 1, 2, 9]), **_rows(seed, 4, "largest", "sink_mass", "loss"),
    )  # fmt: skip


def _rows(seed: int, n: int, *keys: str) -> dict[str, np.ndarray]:
    """Columns of `n` numbers with bounds."""
    generator = np.random.default_rng(seed + 1)
    columns = {key: generator.random(n) * 90 for key in keys}
    ends = {
        f"{key}{end}": value + side
        for key, value in columns.items()
        for end, side in (("_low", -0.1), ("_high", 0.1))
    }
    return columns | ends


def _profile(seed: int) -> ExpertProfile:
    generator = np.random.default_rng(seed)
    n_experts = 30
    pairs = generator.integers(0, 5, (2, n_experts, n_experts))
    return example(
        ExpertProfile, seed, n_experts=n_experts, layers=np.arange(2), n_selectable=3,
        has_shared=np.array([False, False]), ranked_super=np.array([True, True, False]),
        maxima=generator.random((2, n_experts + 1)) * 50,
        n_routed=generator.integers(0, 40, (2, n_experts + 1)),
        n_routed_first=generator.integers(0, 4, (2, n_experts + 1)),
        gate_mean=generator.random((2, n_experts + 1)),
        coactive=pairs + pairs.transpose(0, 2, 1),
        n_tokens=60, ranked_layer=np.array([0, 1, 1]), ranked_expert=np.array([4, 2, 9]),
        ranked_value=generator.random(3) * 90,
    )  # fmt: skip


def _effects(seed: int) -> PruningEffects:
    generator = np.random.default_rng(seed)
    loss = generator.random(3) + 2
    return example(
        PruningEffects, seed, conditions=names("nothing", "L1 E3", "1 random of the same layers"),
        loss=loss, loss_low=loss - 0.1, loss_high=loss + 0.1, mode="zero",
        n_removed=np.array([0, 1, 1]), repetition=generator.random(3),
        largest=generator.random((3, 3)) * 99, median=generator.random((3, 3)),
        sink_map=generator.random((3, 3, 2)), decay=generator.random((3, 3)),
        attention_layers=np.arange(3), samples=names("a", "b", "c"),
    )  # fmt: skip


def _flow(seed: int) -> InformationFlow:
    return example(
        InformationFlow, seed, layers=np.arange(3), depth=np.array([1, 2]),
        verdicts=names("estimators agree"), refusals=names("E9 had too little"),
    )  # fmt: skip


def _moex(seed: int) -> MoexComparison:
    generator = np.random.default_rng(seed)
    metrics, models = names("detection", "loss"), names("MoE-X", "Switch", "dense, GELU")
    return example(
        MoexComparison, seed, task="text", metrics=metrics, meanings=metrics, contestants=models,
        seeds=np.arange(2), champion=0, values=generator.random((2, 3, 2)),
        load=generator.random((3, 2)), **_tables(generator, (2, 3)),
        best_f1=generator.random((3, 2)), best_feature=generator.integers(0, 9, (3, 2)),
    )  # fmt: skip


def _tables(generator: np.random.Generator, shape: tuple[int, int]) -> dict[str, np.ndarray]:
    """Means and differences with bounds."""
    mean, ahead = generator.random(shape), generator.random(shape) - 0.5
    return {
        "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "ahead": ahead,
        "ahead_low": ahead - 0.2, "ahead_high": ahead + 0.2,
    }  # fmt: skip


def _subjects(seed: int) -> SubjectsComparison:
    methods = names("bridge", "alone", "ridge", "shared linear", "CCA", "shuffled")
    generator = np.random.default_rng(seed)
    return example(
        SubjectsComparison, seed, subjects=names("a", "b"), metrics=names("two-way", "top-1"),
        methods=methods, joining=names("reset-tuned", "from scratch", "ridge"),
        building=names("bridge", "no cycle"), read=_array(generator, "", ("m", "s", "k", "bounds"))
        [[0, 0, 0, 1, 1, 1]] + generator.random((6, 1, 1, 1)),
        joined=generator.random((3, 2, 2, 3)), n_few=np.array([32, 64]),
        control=np.array([False, False]), floor=np.array([1, -1]),
        above_floor=_array(generator, "", ("m", "s", "k", "bounds"))[[0, 0, 0, 1, 1, 1]],
        patched=names("bridge", "paired ridge"), origins=names("other subjects", "controls"),
    )  # fmt: skip


def _comparison(seed: int) -> SaeComparison:
    generator = np.random.default_rng(seed)
    kinds = names("topk", "mp", "principal components", "random decoder")
    columns = {
        field.name: generator.random(4)
        for field in fields(SaeComparison)
        if field.metadata["fluoroscope"]["axes"] == ("dictionaries",)
    }
    return example(
        SaeComparison, seed,
        **columns | {
            "conditions": kinds, "architecture": kinds, "d_sae": np.array([64, 64, 32, 64]),
            "trained_here": np.array([True, False, False, False]),
            "n_dead": generator.integers(0, 9, 4), "density_counts": generator.integers(1, 9, (4, 12)),
            "density_edges": np.linspace(-4, 0, 13), "babel": generator.random((4, 2)),
            "babel_coactive": generator.random((4, 2)), "classes": names("name", "string"),
            "probe_accuracy": generator.random((4, 2, 2)), "probe_sizes": np.array([1, 2]),
        },
    )  # fmt: skip


def _cards(seed: int) -> FeatureCards:
    generator = np.random.default_rng(seed)
    return example(
        FeatureCards, seed, d_sae=64, before=4, listed=np.array([4, 2]), features=np.array([4, 2]),
        context_group=np.array([[-1, 0], [-1, 0]]), edges=np.tile(np.linspace(0, 3, 13), (2, 1)),
        context_values=generator.random((2, 2, 9)).astype(np.float32), n_rows=1000,
    )  # fmt: skip


def _paths(seed: int) -> PursuitPaths:
    energy = np.sort(np.random.default_rng(seed).random((2, 5)), axis=1)[:, ::-1].copy()
    return example(
        PursuitPaths, seed, energy=energy, mean_energy=energy.mean(0), low_energy=energy.min(0),
        high_energy=energy.max(0), atoms=np.random.default_rng(seed).integers(0, 8, (2, 4)),
        steps_to_share=np.random.default_rng(seed).integers(1, 9, 5), early=np.array([1, 2, 3]),
        late=np.array([4, 5, 6]),
    )  # fmt: skip


def _study(seed: int) -> SyntheticStudy:
    return example(
        SyntheticStudy, seed, protocol="tree", architecture=np.repeat(["mp", "relu"], 12),
        rho=np.tile([0.0, 0.3], 12), seed=np.tile([0, 0, 1, 1], 6),
    )  # fmt: skip


def _sites(seed: int) -> dict[str, np.ndarray]:
    """Columns of four sites, with bounds around F."""
    columns = {
        field.name: np.random.default_rng([seed, at]).random(4) * 9
        for at, field in enumerate(fields(LayerProfile))
        if field.metadata["fluoroscope"]["axes"] == ("sites",)
    }
    features = columns["features"]
    return columns | {
        "sites": names("a", "b", "c", "d"), "place": np.array([1, 2, 3, 0]),
        "features_low": features - 0.1, "features_high": features + 0.1,
        "curve": np.random.default_rng(seed).random((4, 2)),
        "shares": np.random.default_rng(seed).random((4, 3)),
    }  # fmt: skip


def _experiment(seed: int) -> Experiment:
    return example(
        Experiment, seed, experiment="toy", options="{}", x_name="sparsity", question="Does F grow?",
        group=np.repeat(["a", "b"], 12),
        extra_names=names("true features", "loss"), claim=names("first", "second"),
        claim_paper=names("yes", "no"), claim_verdict=names("confirmed", "undecided"),
        notes=names("a note"),
    )  # fmt: skip


def _compared(seed: int) -> ComparedRuns:
    numbers = _array(np.random.default_rng(seed), "", ("values", "three"))[[0, 1, 0, 1]]
    return example(
        ComparedRuns, seed, of="next_token", first="a", second="b", origins=names("seed"),
        quantities=names("loss", "curve"), meanings=names("the loss", "a curve"),
        in_units=names("nats", "nats"), coordinates=names("", "layer"),
        offsets=np.array([0, 1, 4]), places=np.array([0.0, 0.0, 1.0, 2.0]), refused=names(),
        a=numbers, b=numbers + 0.1, difference=(numbers - 0.5) / 4,
    )  # fmt: skip


EXAMPLES: dict[str, Callable[[int], Result]] = {
    "next_token": lambda s: example(NextToken, s, n_by_position=np.full(9, 5)),
    "logit_lens": lambda s: _lens(Lens, s),
    "tuned_lens": lambda s: _lens(TunedLensReading, s),
    "layer_stats": lambda s: example(
        LayerStats, s, layers=np.arange(3), resid=_rows(s, 3, "r")["r"]
    ),
    "massive_activations": _massive,
    "ablation_story": _ablation,
    "attention_sinks": lambda s: example(
        AttentionSinks, s, sinks=np.array([0]), norm_first=_rows(s, 3, "n")["n"]
    ),
    "attention_degeneration": lambda s: example(
        AttentionDegeneration,
        s,
        steps=np.array([1, 2, 4, 8]),
        head_ratio=np.random.default_rng(s).random((3, 2, 4)).astype(np.float32) * 2,
    ),
    "source_recall": lambda s: example(SourceRecall, s, models=names("lm", "palm")),
    "subjects": _subjects,
    "linear_probe": lambda s: example(
        LinearProbe, s, sites=names("a", "b"), classes=names("c", "d")
    ),
    "information_predictions": lambda s: example(Predictions, s, divergences=names("kl", "tv")),
    "information_loss": lambda s: example(LossDecomposition, s, divergences=names("kl", "tv")),
    "information_flow": _flow,
    "information_geometry": lambda s: example(HeadGeometry, s, rank=_rows(s, 9, "r")["r"]),
    "information_alignment": lambda s: example(
        SpectralAlignment, s, variants=names("a", "b", "c", "d"), tautological=np.arange(4) > 1
    ),
    "expert_profile": _profile,
    "expert_effects": _effects,
    "compared_runs": _compared,
    "sae_comparison": _comparison,
    "sae_features": _cards,
    "sae_joint": lambda s: example(JointStudy, s, architecture=names("mp", "topk")),
    "sae_paths": _paths,
    "sae_synthetic": _study,
    "sae_training": lambda s: example(SaeTraining, s, target_site=None),
    "superposition_layers": lambda s: example(LayerProfile, s, **_sites(s)),
    "superposition_experiment": _experiment,
    "expert_confirmation": lambda s: example(
        Confirmation, s, confirmed=np.array([True, s % 2 == 1])
    ),
    "expert_agnosticism": lambda s: example(
        Agnosticism, s, corpora=names("a", "b"), found=np.array([[True, s % 2 == 1]] * 2)
    ),
    "expert_quantisation": lambda s: example(
        QuantisationEffects, s, bits=np.array([8, 4]), attention_layers=np.arange(3)
    ),
    "moex_comparison": _moex,
    "self_check": lambda s: example(
        SelfCheck, s, checks=names("layers.0.mlp.out", "logits"), sites=names("a", "b")
    ),
}
"""Maker of an example by kind of result; a seed makes the numbers."""
