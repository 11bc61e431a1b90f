"""The verdict: closed-form examples of its sentences, and controls that must not claim anything."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes import Provenance, Run, create_run, open_run
from fluoroscope.probes.errors import DamagedRunFileError
from fluoroscope.probes.vocabulary import Vocabulary
from fluoroscope.reports import build_report, verdict_of
from fluoroscope.reports.contents import contents
from fluoroscope.reports.page import render
from fluoroscope.reports.redact import RedactedRun
from fluoroscope.reports.section import Stored
from fluoroscope.reports.verdict import Held, as_text, by_question, statements
from fluoroscope.reports.verdict.decoded import (
    Decoded,
    acceptance,
    cost_curve,
    first_difference,
    read_decoded,
    speed_ratio,
    step_cost,
    tokens_per_pass,
)
from fluoroscope.reports.verdict.engine import engine
from fluoroscope.reports.verdict.held import read_held
from fluoroscope.reports.verdict.statement import Interval, counted, listed
from tests.reports.examples import EXAMPLES, N_WORDS

NAN = float("nan")


def held(kind: str, **values: Any) -> Held:
    return Held((Stored(kind, kind, values),))


def said(held: Held) -> list[str]:
    return [statement.text for statement in statements(held)]


def unsure(held: Held) -> list[str]:
    return [statement.uncertainty for statement in statements(held)]


def bounded(key: str, values: Sequence[float], half: float | Sequence[float]) -> dict[str, Any]:
    """A column with bounds around it."""
    middle = np.array(values, dtype=float)
    return {key: middle, f"{key}_low": middle - half, f"{key}_high": middle + half}


# Words -------------------------------------------------------------------------------------------


def test_words_follow_numbers() -> None:
    assert counted(1, "texts") == "1 text, which is few"
    assert counted(7, "texts") == "7 texts, which is few"
    assert counted(8, "texts") == "8 texts"
    assert [listed([str(i) for i in range(n)]) for n in (1, 2, 3, 6)] == [
        "0", "0 and 1", "0, 1 and 2", "0, 1, 2, 3 and 2 more",
    ]  # fmt: skip
    assert Interval(2.0).text("{:.1f}") == "2.0"
    assert Interval(2.0, 1.5, 2.25).text("{:.2f}") == "2.00 (1.50 to 2.25)"


def test_only_intervals_that_do_not_meet_are_apart() -> None:
    one = Interval(1.0, 0.5, 1.5)
    assert one.apart_from(Interval(3.0, 2.0, 4.0))
    assert not one.apart_from(Interval(3.0, 1.5, 4.0)), "they meet in one point"
    assert not one.apart_from(Interval(99.0)), "without bounds nothing is apart"
    assert not Interval(1.0).excludes(5.0)
    assert one.excludes(1.6)
    assert not one.excludes(1.5)


def test_nothing_held_nothing_said() -> None:
    assert statements(Held()) == ()
    assert said(held("nobody_draws_this", x=1)) == []


# What dominates ----------------------------------------------------------------------------------


def massive(**changes: Any) -> Held:
    values: dict[str, Any] = {
        "top": np.array([[2.0, 1, 1], [900.0, 5, 4]]), "median": np.array([1.0, 2.0]),
        "absolute": 100.0, "ratio": 1000.0, "n_documents": 16,
        "event_value": np.array([500.0, -900.0, 450.0]), "event_channel": np.array([7, 7, 5]),
        "event_position": np.array([0, 0, 3]), "event_first_layer": np.array([1, 2, 1]),
        "event_last_layer": np.array([3, 9, 3]), "writer_layer": 2, "writer_channel": 7,
        "writer_mlp": 1000.0, "writer_attention": 11.0, "writer_neurons": np.array([40, 41, 42]),
        "writer_contributions": np.array([700.0, 260.0, 40.0]),
    }  # fmt: skip
    return held("massive_activations", **values | changes)


def test_a_dimension_dominates_if_it_is_twice_the_next() -> None:
    place, writers = said(massive())
    assert place == (
        "Dimension 7 dominates the residual stream: -900 at position 0, from layer 2 to 9; the next "
        "dimension reaches 450."
    )
    assert writers == "The largest is written in layer 2 by MLP neurons 40 (70%) and 41 (26%)."
    assert (
        "2 of 3 such values listed stand at the first token; 16 documents" in unsure(massive())[0]
    )
    near = massive(event_value=np.array([500.0, -900.0, 451.0]))
    assert said(near)[0].startswith("Dimensions 7 and 5 dominate the residual stream: -900")
    by_attention = massive(writer_attention=1001.0)
    assert said(by_attention)[1].endswith("by attention.")


def test_without_massive_activations_none_is_claimed() -> None:
    empty = np.array([])
    none = massive(
        event_value=empty, event_channel=empty, event_position=empty, event_first_layer=empty,
        event_last_layer=empty, writer_layer=-1,
    )  # fmt: skip
    (sentence,) = said(none)
    assert sentence.startswith(
        "No single value dominates: the largest, 900 after layer 1, is 450 times"
    )


def test_norms_speak_only_where_nobody_looked_for_massive_activations() -> None:
    norms = Stored(
        "layer_stats", "layer_stats",
        {"resid": np.array([5.0, 50.0]), "attention": np.array([1.0, 9.0]),
         "mlp": np.array([2.0, 3.0]), "n_documents": 9},
    )  # fmt: skip
    (sentence,) = said(Held((norms,)))
    assert "goes from 5 after the first layer to 50 after the last" in sentence
    assert "longer vector than attention in 1 of 2 layers" in sentence
    assert len(said(Held((norms, *massive().results)))) == 2


def story(loss: Sequence[float], half: float, mass: Sequence[float] = (0.5, 0.5, 0.1, 0.5)) -> Held:
    return held(
        "ablation_story", conditions=np.array(["nothing", "neuron 1", "neurons 1 and 2", "9 others"]),
        n_documents=4, **bounded("loss", loss, half), **bounded("sink_mass", mass, half / 10),
    )  # fmt: skip


def test_what_the_model_rests_on_needs_intervals_apart() -> None:
    rests, sinks = said(story((2.0, 2.1, 4.0, 2.0), 0.5))
    assert rests == (
        "The model rests on these neurons: the loss rises from 2.00 (1.50 to 2.50) to 4.00 (3.50 to "
        "4.50) nats without neurons 1 and 2; 9 others leave it about where it was, at 2.00."
    )
    assert sinks.startswith(
        "The sinks hang on the massive activation: zeroing neurons 1 and 2 takes"
    )
    assert all(
        "4 texts, which is few" in words for words in unsure(story((2.0, 2.1, 4.0, 2.0), 0.5))
    )
    meeting = said(story((2.0, 2.1, 4.0, 2.0), 1.0))[0]
    assert meeting.startswith("Whether the model rests on these neurons is not clear")
    falls = said(story((4.0, 2.1, 2.0, 4.0), 0.5))[0]
    assert "not clear" in falls, "a loss that falls is nothing to rest on"
    unbound = story((2.0, 2.1, 4.0, 2.0), NAN)
    assert "not clear" in said(unbound)[0]
    assert "no interval" in unsure(unbound)[0]
    with_control = said(story((2.0, 2.1, 4.0, 2.0), 0.5, mass=(0.5, 0.5, 0.1, 0.1)))[1]
    assert with_control.startswith("That the sinks hang on the massive activation is not shown")


def test_sinks_say_where_most_attention_goes() -> None:
    made = held(
        "attention_sinks", epsilon=0.3, n_texts=32, window=64,
        first_token=np.array([[0.1, 0.2], [0.9, 0.8]]), **bounded("mass", (0.2, 0.8), 0.05),
    )  # fmt: skip
    assert said(made) == [
        (
            "2 of 4 heads sink to the first token (mean importance above 0.3); in layer 1, the "
            "highest, it takes 80% (75% to 85%) of all attention."
        )
    ]
    made.results[0].values["first_token"] = np.zeros((2, 2))
    assert said(made)[0].startswith("No head sinks to the first token")


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.2, "less than even attention would"), (0.9, "more than even"), (0.52, "about as even")],
)
def test_a_source_is_out_of_sight_only_below_even_attention(share: float, words: str) -> None:
    made = held(
        "attention_degeneration", n_texts=9, steps=np.array([1, 64]),
        corrected_uniform=np.array([0.9, 0.5]), **bounded("corrected", (0.9, share), 0.05),
    )  # fmt: skip
    assert words in said(made)[0]


# Experts -----------------------------------------------------------------------------------------


def profile(ranked_super: Sequence[bool]) -> Held:
    return held(
        "expert_profile", ranked_super=np.array(ranked_super), ranked_layer=np.array([1, 2, 3]),
        ranked_expert=np.array([4, -1, 6]), ranked_value=np.array([-900.0, 80.0, 7.0]),
        maxima=np.array([[900.0, 80.0]]), n_population=60, n_selectable=3, n_texts=9,
    )  # fmt: skip


def test_experts_are_candidates_by_their_outputs() -> None:
    assert said(profile([True, True, False])) == [
        (
            "L1 E4 and L2 shared are candidates: 2 of 60 experts compared pass the criterion of super "
            "experts, with outputs up to 900."
        )
    ]
    assert said(profile([True, False, False]))[0].startswith("L1 E4 is a candidate: 1 of 60")
    assert "lets at most 3 through" in unsure(profile([True, True, False]))[0]
    assert said(profile([False] * 3))[0].startswith("No expert stands out: of 60 compared none")


@pytest.mark.parametrize(
    ("loss", "half", "draws", "start"),
    [
        ((2.0, 5.0), 0.5, (2.1, 2.2), "L1 E4 hold it up: without them the loss rises"),
        ((2.0, 5.0), 0.5, (2.1, 5.2), "Without L1 E4 the loss rises"),
        ((2.0, 2.5), 0.5, (2.1, 2.2), "That L1 E4 hold it up is not clear"),
        ((2.0, 5.0), 0.5, (), "Without L1 E4 the loss rises"),
    ],
)
def test_experts_hold_up_what_random_others_do_not(
    loss: tuple[float, float], half: float, draws: tuple[float, ...], start: str
) -> None:
    made = held(
        "expert_effects", conditions=np.array(["nothing", "L1 E4"]), n_texts=9,
        random_loss=np.array(draws), **bounded("loss", loss, half),
    )  # fmt: skip
    assert said(made)[0].startswith(start)
    assert ("no control" in said(made)[0]) == (not draws)


def test_confirmation_counts_and_names_the_odds() -> None:
    made = held(
        "expert_confirmation", experts=np.array([[1, 4], [2, -1]]),
        confirmed=np.array([True, False]), random=np.zeros((2, 5)), n_texts=9,
    )  # fmt: skip
    assert said(made) == [
        "1 of 2 candidates cost more than every random other of their layer: L1 E4."
    ]
    assert "by chance once in 6" in unsure(made)[0]


# Superposition -----------------------------------------------------------------------------------


def layers(features: Sequence[float], half: float, **changes: Any) -> Held:
    n = len(features)
    values: dict[str, Any] = {
        "sites": np.array([f"s{i}" for i in range(n)]), "width": np.full(n, 500),
        "place": np.arange(1, n + 1), "fvu": np.full(n, 0.2), "n_latents": 4000, "n_documents": 35,
    }  # fmt: skip
    return held("superposition_layers", **bounded("features", features, half), **values | changes)


def test_sites_are_ranked_only_if_apart_and_settled() -> None:
    counts, ranked = said(layers((900.0, 800.0), 10.0))
    assert counts == (
        "More effective features than dimensions at every site read: 800 to 900 in 500 dimensions."
    )
    assert ranked == "s0 carries most, 900 (890 to 910), s1 least, 800 (790 to 810)."
    assert said(layers((900.0, 800.0), 50.0))[1].startswith("Sites are not told apart: s0 900")
    rising = layers((900.0, 800.0), 10.0, place=np.array([1, 0]))
    assert len(said(rising)) == 1, "one settled site is no ranking"
    three = layers((900.0, 800.0, 700.0), 10.0, place=np.array([1, 2, 0]))
    assert "F still rises with more text: s2" in unsure(three)[1]


def test_features_near_the_dictionarys_size_are_capped() -> None:
    capped = said(layers((400.0, 300.0), 10.0, n_latents=500))[0]
    assert capped.startswith("No more effective features than dimensions, by this measure")
    assert "the dictionary's 500 latents are the cap, so there may be more" in capped
    assert "cap" not in said(layers((399.0, 300.0), 1.0, n_latents=500))[0]
    assert said(layers((900.0, 505.0), 10.0))[0].startswith(
        "More effective features than dimensions at 1"
    )


def dictionaries(fvu: Sequence[float], half: float, rise: float = 0.1) -> Held:
    return held(
        "sae_comparison", conditions=np.array(["topk", "mp", "random, k=8"]),
        site="layers.1.resid_post",
        architecture=np.array(["topk", "mp", "random decoder"]), l0=np.full(3, 8.0),
        d_sae=np.array([64, 64, 64]), trained_here=np.array([True, False, False]), n_documents=26,
        n_loss_tokens=200, clean_loss=2.5, delta_loss=np.full(3, rise),
        delta_low=np.full(3, rise - 0.05), delta_high=np.full(3, rise + 0.05),
        **bounded("fvu", fvu, half),
    )  # fmt: skip


def test_the_best_dictionary_has_rivals_within_its_interval() -> None:
    best, cost = said(dictionaries((0.10, 0.20, 0.80), 0.01))
    assert best == (
        "topk rebuilds layers.1.resid_post from 8 of 64 latents a row and leaves 10.0% (9.0% to 11.0%) "
        "of the variance (random, k=8: 80.0%)."
    )
    assert (
        cost
        == "Reading its reconstruction costs the model 0.10 (0.05 to 0.15) nats of loss, from 2.50."
    )
    assert "trained on the text it is judged on" in unsure(dictionaries((0.1, 0.2, 0.8), 0.01))[0]
    assert "; not told apart from mp (" in said(dictionaries((0.10, 0.11, 0.80), 0.01))[0]
    assert "nothing that is clear" in said(dictionaries((0.1, 0.2, 0.8), 0.01, rise=0.0))[1]
    assert len(said(dictionaries((0.1, 0.2, 0.8), 0.01, rise=NAN))) == 1


# Information -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "half", "start"),
    [
        (0.2, 0.1, "The model is overconfident on this text"),
        (-0.2, 0.1, "The model is underconfident on this text"),
        (0.2, 0.3, "Over- or underconfidence is not shown"),
        (0.2, NAN, "Whether the model is overconfident cannot be told"),
    ],
)
def test_calibration_needs_an_interval_without_zero(gap: float, half: float, start: str) -> None:
    made = held(
        "information_loss",
        loss=2.5,
        n_documents=3,
        gap=gap,
        gap_low=gap - half,
        gap_high=gap + half,
    )
    assert said(made)[0].startswith(start)
    assert "few" in unsure(made)[0]


def lens(shares: Sequence[float], half: float) -> Held:
    return held(
        "logit_lens",
        layers=np.arange(len(shares)),
        n_documents=9,
        **bounded("agreement", shares, half),
    )


def test_the_last_layer_agreeing_with_itself_is_no_finding() -> None:
    assert said(lens((0.1, 0.2, 0.4, 1.0), 0.05)) == [
        (
            "Through the logit lens no layer before the last shares half of the final choices: "
            "layer 2 is nearest, with 40% (35% to 45%)."
        )
    ]
    assert said(lens((0.1, 0.46, 0.52, 0.7, 1.0), 0.05)) == [
        (
            "Through the logit lens half of the final choices stand from layer 2 on (by the intervals, "
            "from layer 1 to layer 3)."
        )
    ]
    assert "by the intervals" not in said(lens((0.1, 0.6, 1.0), NAN))[0]
    assert said(lens((1.0,), 0.0))[0].endswith(
        "no layer before the last shares half of the final choices."
    )


def flow(surplus: Sequence[float], half: float) -> Held:
    middle = np.array(surplus)
    with_bounds = np.stack([middle, middle - half, middle + half], axis=1)
    accepted = with_bounds * 0 + np.array([0.4, 0.35, 0.45])
    return held(
        "information_flow", layers=np.arange(len(surplus)), surplus=with_bounds, acceptance=accepted,
        depth_blind=np.array([[0.2, 0.15, 0.25]]), rank_correlation=0.9, n_test_documents=12,
    )  # fmt: skip


def test_layers_with_alike_surplus_are_named() -> None:
    apart = said(flow((0.1, 0.5), 0.05))
    assert apart[0] == (
        "Layer 1 holds 0.500 (0.450 to 0.550) nats of the token after next once the next is known."
    )
    assert "layers 0 are not told apart" in said(flow((0.45, 0.5), 0.05))[0]
    assert said(flow((0.0, 0.01), 0.05))[0].startswith("That a layer holds anything is not shown")
    assert apart[1].startswith("A draft head on layer 0 would match 40% (35% to 45%)")
    assert "not told apart" not in apart[1]


# Engines -----------------------------------------------------------------------------------------


def trace(
    name: str,
    emitted: Sequence[int],
    seconds: float | Sequence[float],
    *,
    prompts: Sequence[int] | None = None,
    drafts: Sequence[Sequence[bool]] = (),
    ids: Sequence[int] | None = None,
    **options: Any,
) -> Decoded:
    """Steps of some prompts; `drafts` has per step whether each token of a chain was accepted."""
    steps = np.array(emitted)
    prompt = np.zeros(len(steps), dtype=int) if prompts is None else np.array(prompts)
    times = np.broadcast_to(np.asarray(seconds, dtype=float), steps.shape)
    made = {name: [] for name in ("step", "parent", "depth", "accepted")}
    for step, chain in enumerate(drafts):
        for place, accepted in enumerate(chain):
            for column, value in zip(
                made.values(), (step, place - 1, place + 1, accepted), strict=True
            ):
                column.append(value)
    tokens = np.arange(steps.sum()) if ids is None else np.array(ids)
    ends = np.cumsum([steps[prompt == p].sum() for p in np.unique(prompt)])
    return Decoded(
        name, True, options, tuple(np.split(tokens, ends[:-1])), np.bincount(prompt),
        np.bincount(prompt, weights=times),
        {"prompt": prompt, "n_emitted": steps, "n_drafted": np.array(
            [len(chain) for chain in drafts] or [0] * len(steps)),
         "seconds": times, "seconds_verify": times, "seconds_draft": times * 0},
        {key: np.array(value, dtype=bool if key == "accepted" else int) for key, value in made.items()},
    )  # fmt: skip


def decoded(*runs: Decoded, comparable: bool = True) -> Held:
    return Held((), {run.name: run for run in runs}, comparable=comparable)


PLAIN = trace("plain", [1] * 40, 0.1)


def test_expected_tokens_of_equal_chains_are_leviathans() -> None:
    """Chains of length g at one rate a: (1 - a^(g+1)) / (1 - a) (arXiv 2211.17192, Eq. 1)."""
    chains = [[True, True]] * 2 + [[True, False]] * 2 + [[False, False]] * 4
    found = acceptance(trace("x", [3, 3, 2, 2, 1, 1, 1, 1], 0.1, drafts=chains))
    assert found is not None
    assert found.tried.tolist() == [8, 4]
    assert found.accepted.tolist() == [4, 2]
    assert found.rate == 0.5
    assert found.expected == pytest.approx((1 - 0.5**3) / (1 - 0.5))
    assert acceptance(PLAIN) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_expected_tokens_lie_within_what_drafts_allow(n_accepted: list[int]) -> None:
    chains = [[place < n for place in range(4)] for n in n_accepted]
    found = acceptance(trace("x", [n + 1 for n in n_accepted], 0.1, drafts=chains))
    assert found is not None
    assert 1 <= found.expected <= 5
    if len(set(n_accepted)) == 1 and n_accepted[0] in (0, 4):
        assert found.expected == pytest.approx(n_accepted[0] + 1), "all or nothing is expected so"


def test_tokens_per_pass_and_speed_are_ratios_of_sums() -> None:
    run = trace("x", [2] * 20, 0.1)
    assert tokens_per_pass(run) == Interval(2.0, 2.0, 2.0)
    ratio = speed_ratio(run, PLAIN)
    np.testing.assert_allclose([ratio.value, ratio.low, ratio.high], 2.0)
    one_step = tokens_per_pass(trace("x", [2], 0.1))
    assert one_step.value == 2.0
    assert not one_step.bounded, "one step has no spread"


def test_intervals_are_over_prompts_from_five_on() -> None:
    emitted, prompts = [1, 3] * 5, np.repeat(np.arange(5), 2)
    five = trace("x", emitted, 0.1, prompts=prompts)
    assert five.unit == "95 % bootstrap over 5 prompts"
    assert tokens_per_pass(five) == Interval(2.0, 2.0, 2.0), "every prompt has 4 tokens in 2 passes"
    one = trace("x", emitted, 0.1)
    assert one.unit.startswith("n = 1: 95 % bootstrap over the 10 steps of one prompt")
    assert tokens_per_pass(one).low < 2.0 < tokens_per_pass(one).high
    times, of = np.repeat([0.1, 0.2, 0.3, 0.4, 0.5], 4), np.repeat(np.arange(5), 4)
    plain = trace("plain", [1] * 20, times, prompts=of.tolist())
    quicker = trace("x", [1] * 20, times / 2, prompts=of.tolist())
    np.testing.assert_allclose(
        [getattr(speed_ratio(quicker, plain), part) for part in ("value", "low", "high")], 2.0,
        err_msg="paired by prompt, prompts' own lengths cancel",
    )  # fmt: skip


def test_step_cost_leaves_the_prompts_step_out() -> None:
    run = trace("x", [1, 1, 1, 1], [9.0, 0.2, 0.2, 0.2])
    plain = trace("plain", [1, 1, 1], [7.0, 0.1, 0.1])
    assert step_cost(run, plain) == pytest.approx(2.0)
    assert np.isnan(step_cost(trace("x", [1], 0.1), plain))


def test_the_cost_curve_is_medians_by_rows() -> None:
    chains = [[], [False], [False] * 2, [False] * 6, [False] * 3]
    run = trace("x", [1] * 5, [9.0, 0.11, 0.13, 0.5, 0.3], drafts=chains)
    found = cost_curve([run], PLAIN)
    assert found["from"] == [2, 4]
    assert found["to"] == [3, 7]
    assert found["passes"] == [2, 2]
    np.testing.assert_allclose(found["ratio"], [1.2, 4.0])


def test_the_choice_is_as_sure_as_the_seconds() -> None:
    fast = trace("fast", [2] * 20, 0.1)
    first = said(decoded(PLAIN, fast))[0]
    assert first == "Use fast: it is 2.00 (2.00 to 2.00) times as fast as plain decoding."
    alike = trace("alike", [1, 3] * 10, 0.1)
    both = said(decoded(PLAIN, fast, alike))[0]
    assert "cannot be told apart from it" in both
    slow = said(decoded(PLAIN, trace("slow", [1] * 40, 0.2, drafts=[[False]] * 40)))[0]
    assert (
        slow == "Use plain decoding: the nearest other, slow, is 0.50 (0.50 to 0.50) times as fast."
    )
    noisy = trace("noisy", [1] * 40, [0.02, 0.18] * 20)
    assert said(decoded(PLAIN, noisy))[0].startswith(
        "Plain decoding is as good a choice: no engine"
    )
    assert "n = 1" in unsure(decoded(PLAIN, fast))[0]


def test_seconds_are_not_compared_when_the_machine_was_not_the_same() -> None:
    """Stalls while plain decoding ran make every other engine look fast; they are no merit."""
    drafts: list[list[bool]] = [[True]] * 20 + [[]] * 20
    quiet = trace("x", [2] * 20 + [1] * 20, 0.1, drafts=drafts)
    assert said(decoded(PLAIN, quiet))[0].startswith("Use x")
    stalled = trace("plain", [1] * 40, [0.1] * 30 + [2.0] * 10)
    told = said(decoded(stalled, quiet))
    assert told[0].startswith("Speeds are not compared: a pass over one row took")
    assert "100 ms while x did" in told[0]
    assert not any("A step of x takes" in one for one in told)
    never_alone = trace("x", [2] * 20, 0.1, drafts=[[True]] * 20)
    assert said(decoded(stalled, never_alone))[0].startswith("Use x"), "nothing to gauge by"


def test_drafts_verified_whole_are_said() -> None:
    whole = trace("whole", [2] * 20, 0.1, thrifty=False)
    assert "whole verified drafts whole (thrifty off)" in unsure(decoded(PLAIN, whole))[0]
    assert "thrifty" not in unsure(decoded(PLAIN, trace("x", [2] * 20, 0.1, thrifty=True)))[0]


def test_without_plain_decoding_no_engine_is_recommended() -> None:
    two = said(decoded(trace("a", [2] * 20, 0.1), trace("b", [1] * 40, 0.1)))
    assert two == ["Most tokens per pass of the target come from a: 2.00 (2.00 to 2.00)."]
    (alone,) = statements(decoded(trace("a", [2] * 20, 0.1)))
    assert alone.text.startswith("a wrote 40 tokens for 1 prompt, 2.00 (2.00 to 2.00) per pass")
    assert "none is recommended" in alone.uncertainty
    assert said(decoded(trace("empty", [0], 0.1))) == []


def test_outputs_are_compared_token_by_token() -> None:
    same, other = (
        trace("same", [2] * 20, 0.1),
        trace("x", [1] * 40, 0.1, ids=[*range(7), *[0] * 33]),
    )
    assert first_difference(same, PLAIN) is None
    assert first_difference(other, PLAIN) == 7
    assert said(decoded(PLAIN, same))[-1] == "same wrote the tokens that plain decoding wrote."
    assert said(decoded(PLAIN, other))[-1] == (
        "Not all wrote what plain decoding wrote: x (from token 7 on) differ."
    )
    hidden = said(decoded(PLAIN, other, comparable=False))
    assert not any("plain decoding wrote" in text for text in hidden)


# In a run file -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Every kind of result, and two engines."""
    path = tmp_path_factory.mktemp("verdict") / "run.h5"
    with create_run(path, provenance=Provenance(model={"name": "m"})) as writer:
        writer.set_vocabulary(
            Vocabulary(tuple(f"w{n}".encode() for n in range(N_WORDS)), frozenset())
        )
        writer.close()
    made = open_run(path)
    for kind, make in EXAMPLES.items():
        made.add_result(kind, make(0))
    with made.edit() as file:
        for name in ("plain", "prompt-lookup"):
            _write_trace(file.create_group(f"trace/{name}"), 2 if name != "plain" else 1)
    return open_run(path)


def _write_trace(group: h5py.Group, per_step: int) -> None:
    """A trace of one prompt with drafts of one token, all accepted, where a step has two."""
    from fluoroscope.decoding.trace import Emitted, Node, Step, Trace, save_traces

    token = {"id": 1, "kind": "plain", "prob": 0.5, "entropy": 1.0, "rank": 0,
             "top_ids": (1,) * 5, "top_probs": (0.2,) * 5}  # fmt: skip
    node = Node(
        token=1, parent=-1, depth=1, draft_prob=0.5, target_prob=0.5, entropy=1.0, accepted=True
    )
    steps = [
        Step(
            emitted=(Emitted(**token),) * per_step, nodes=(node,) * (per_step - 1), seconds=0.1,
            seconds_verify=0.1,
        )
        for _ in range(12 // per_step)
    ]  # fmt: skip
    about = {"engine": "x", "summary": "", "paper": "", "lossless": 1, "options": {}, "model": "m"}
    save_traces(group, ["a"], [np.array([1, 2])], [Trace(steps)], about)
    group["generations/text"] = np.array([b"t"])
    group["generations/stop_reason"] = np.array([b"length"])
    group["generations/n_forward"] = np.array([len(steps)])
    group["generations/seconds"] = np.array([0.1 * len(steps)])


def test_every_sentence_names_its_figure_source_and_uncertainty(run: Run) -> None:
    found = verdict_of(run)
    shown = {
        name
        for section in contents(run)
        for name in (section.id, *(figure.id for figure in section.figures))
    }
    spoken = {statement.source.split("/")[2] for statement in found}
    assert spoken >= {"massive_activations", "expert_effects", "superposition_layers", "plain"}
    with run.reading() as file:
        for statement in found:
            place, _, last = statement.source.rpartition("/")
            assert statement.source in file or last in file[place].attrs, statement
            assert statement.figure in shown, statement
            assert statement.uncertainty, statement
            assert statement.text.endswith("."), statement
            assert "nan" not in statement.text.lower().split(), statement
    assert [question for question, _ in by_question(found)] == list(
        dict.fromkeys(statement.question for statement in found)
    )


SPOKEN_OF = sorted({
    "massive_activations", "ablation_story", "attention_sinks", "attention_degeneration",
    "information_loss", "tuned_lens", "logit_lens", "information_flow", "information_geometry",
    "superposition_layers", "sae_comparison", "expert_profile", "expert_effects",
    "expert_confirmation", "expert_agnosticism", "linear_probe", "expert_quantisation",
    "moex_comparison", "subjects", "source_recall", "superposition_experiment", "sae_synthetic",
    "sae_joint",
})  # fmt: skip
"""Kinds of result of which the verdict has a sentence."""


@pytest.mark.parametrize("kind", SPOKEN_OF)
def test_a_result_without_its_parts_costs_its_own_sentences_alone(run: Run, kind: str) -> None:
    """Every kind in turn loses all its values: the others' sentences stay, one says what is missing."""
    whole = read_held(run)
    assert whole.of(kind), "there is an example"
    bare = [
        replace(stored, values={}) if stored.kind == kind else stored for stored in whole.results
    ]
    found = statements(replace(whole, results=tuple(bare)))
    silent = [one for one in found if one.source == f"/results/{kind}"]
    assert silent, found
    for one in silent:
        assert "comes to cannot be said: AttributeError" in one.text or "KeyError" in one.text
        assert one.text.startswith(f"What {kind} ")
        assert one.figure == kind
    others = [one for one in statements(whole) if one.source.split("/")[2] != kind]
    assert [one for one in found if one not in silent] == others


def test_numbers_that_are_not_finite_are_not_spoken_of(run: Run) -> None:
    whole = read_held(run)
    spoiled = [
        replace(
            stored,
            values={
                key: np.full_like(value, np.nan)
                if isinstance(value, np.ndarray) and value.dtype.kind == "f"
                else float("inf")
                if isinstance(value, float)
                else value
                for key, value in stored.values.items()
            },
        )
        for stored in whole.results
    ]
    found = statements(Held(tuple(spoiled)))
    assert not [one for one in found if re.search(r"nan|inf\b", one.text)]
    kinds = {one.source.split("/")[2] for one in found if "cannot be said" in one.text}
    assert len(kinds) > 15
    assert "What attention_sinks comes to cannot be said: its numbers are not finite." in [
        one.text for one in found
    ]


def test_a_trace_that_cannot_be_read_is_told_and_the_others_compared(run: Run) -> None:
    with run.reading() as file:
        good = {
            name: read_decoded(name, file[f"trace/{name}"]) for name in ("plain", "prompt-lookup")
        }
    found = engine(Held((), good, {"eagle": "KeyError: no steps/seconds"}))
    assert found[0].text == (
        "What eagle did cannot be said: its trace cannot be read (KeyError: no steps/seconds)."
    )
    assert found[1:] == engine(Held((), good))
    assert any("plain decoding" in one.text for one in found[1:])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda group: group.__delitem__("steps/seconds_verify"), "seconds_verify"),
        (lambda group: group.__delitem__("tokens/id"), "id"),
        (lambda group: _shorten(group, "nodes/parent"), "differ in length"),
    ],
)
def test_why_a_trace_cannot_be_read(tmp_path: Path, spoil: Any, why: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("trace/x")
        _write_trace(group, 2)
        read_decoded("x", group)
        spoil(group)
        with pytest.raises((KeyError, ValueError), match=why):
            read_decoded("x", group)


def _shorten(group: h5py.Group, name: str) -> None:
    held = group[name][()]
    del group[name]
    group[name] = held[:-1]


def test_a_damaged_trace_is_named_by_the_page(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    with create_run(path, provenance=Provenance(model={"name": "m"})) as writer:
        writer.set_vocabulary(Vocabulary((b"a", b"b"), frozenset()))
        writer.close()
    with open_run(path).edit() as file:
        for name in ("plain", "prompt-lookup"):
            _write_trace(file.create_group(f"trace/{name}"), 2)
        del file["trace/prompt-lookup/tokens/prob"]
    with pytest.raises(DamagedRunFileError, match="/trace/prompt-lookup of run.h5 cannot be read"):
        build_report(path)
    assert build_report(path, only=["plain"]).is_file()


def test_only_speaks_of_what_is_shown(run: Run) -> None:
    found = verdict_of(run, ["expert_profile"])
    assert {statement.source.split("/")[2] for statement in found} == {"expert_profile"}
    assert verdict_of(run, []) == ()


def test_numbers_stay_when_texts_are_hidden(run: Run) -> None:
    """All but the comparison of tokens, whose ids are hidden trace by trace."""
    plain = [s.text for s in verdict_of(run)]
    hidden = [s.text for s in verdict_of(RedactedRun(run, "text"))]
    assert not any("plain decoding wrote" in text for text in hidden)
    numbers = [text for text in plain if "plain decoding wrote" not in text]
    assert len(hidden) == len(numbers)
    assert hidden[0] == numbers[0]


def test_the_page_begins_with_the_verdict(run: Run) -> None:
    few = ["layer_stats", "ablation_story", "plain"]
    html = render(run, only=few)
    verdict = html.partition('aria-label="verdict"')[2].partition("</section>")[0]
    assert verdict.count("<li>") == len(verdict_of(run, few)) == 3
    assert verdict.count('class="unsure"') == verdict.count("<li>") == verdict.count(">figure</a>")
    assert html.index('aria-label="verdict"') < html.index('class="section"')


def test_a_report_tells_the_verdict_as_json_too(run: Run) -> None:
    from typer.testing import CliRunner

    from fluoroscope.cli import app

    few = ["--only", "layer_stats", "--only", "ablation_story"]
    made = CliRunner().invoke(app, ["report", str(run.path), "--json", *few])
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)
    found = told.get("result", told)["verdict"]
    expected = verdict_of(run, ["layer_stats", "ablation_story"])
    assert found == [statement.as_dict() for statement in expected]
    text = as_text(expected)
    assert text.count("\n  - ") == len(found)
    assert text.splitlines()[0] == found[0]["question"]
