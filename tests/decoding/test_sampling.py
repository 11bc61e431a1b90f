"""Sampling on hand-made scores: what each option keeps, exactly, and what a seed fixes."""

import pytest
import torch
from transformers import LogitsProcessor

from fluoroscope.decoding import Sampler, SamplingOptions
from fluoroscope.probes.errors import OptionError

PROBS = torch.tensor([0.5, 0.25, 0.125, 0.075, 0.05])
LOGITS = PROBS.log() + 3.0
CPU = torch.device("cpu")


def kept(**options: float) -> list[int]:
    """Tokens that an option leaves possible."""
    sampler = Sampler(SamplingOptions(**{"temperature": 1.0} | options), CPU)
    scores = sampler.scores(torch.tensor([0]), LOGITS)
    return torch.isfinite(scores).nonzero().flatten().tolist()


def test_each_truncation_keeps_exactly_what_it_says() -> None:
    assert kept() == [0, 1, 2, 3, 4]
    assert kept(top_k=2) == [0, 1]
    assert kept(top_p=0.74) == [0, 1]
    assert kept(top_p=0.76) == [0, 1, 2]
    assert kept(top_p=1.0) == [0, 1, 2, 3, 4]
    assert kept(min_p=0.2) == [0, 1, 2], "0.125 is more than a fifth of 0.5, 0.075 is not"
    assert kept(min_p=0.26) == [0, 1]
    assert kept(top_k=3, top_p=0.6) == [0, 1]


def test_temperature_divides_and_comes_before_truncation() -> None:
    hot = Sampler(SamplingOptions(temperature=2.0), CPU)
    torch.testing.assert_close(hot.scores(torch.tensor([0]), LOGITS), LOGITS / 2)
    # At temperature 4 the tail is heavy: a nucleus of 0.76 needs one token more than at 1.
    assert kept(temperature=4.0, top_p=0.76) == [0, 1, 2, 3]


def test_repetition_penalty_divides_positive_scores_and_multiplies_negative_ones() -> None:
    logits = torch.tensor([2.0, -1.0, 0.5, 0.1, 0.0])
    greedy = Sampler(SamplingOptions(repetition_penalty=2.0), CPU)
    scores = greedy.scores(torch.tensor([0, 1]), logits)
    torch.testing.assert_close(scores, torch.tensor([1.0, -2.0, 0.5, 0.1, 0.0]))
    assert greedy.looks_back
    assert not greedy.is_argmax
    assert logits[0] == 2.0, "the logits themselves stay"


def test_greedy_ignores_truncation_and_draws_nothing() -> None:
    sampler = Sampler(SamplingOptions(top_k=1, seed=3), CPU)
    assert sampler.is_argmax
    assert sampler.scores(None, LOGITS) is LOGITS
    assert sampler.choose(LOGITS) == 0
    fresh = torch.Generator(CPU).manual_seed(3)
    assert sampler.uniform() == float(torch.rand((), generator=fresh))


def test_processors_given_run_before_temperature() -> None:
    class Add(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores + 1.0

    sampler = Sampler(SamplingOptions(temperature=0.5), CPU, [Add()])
    scores = sampler.scores(torch.tensor([0]), torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(scores, torch.tensor([2.0, 4.0]))
    assert sampler.looks_back


def test_a_seed_fixes_the_draws(seed: int) -> None:
    first = Sampler(SamplingOptions(temperature=1.0, seed=seed), CPU)
    again = Sampler(SamplingOptions(temperature=1.0, seed=seed), CPU)
    other = Sampler(SamplingOptions(temperature=1.0, seed=seed + 1), CPU)
    draws = [[s.draw(PROBS) for _ in range(64)] for s in (first, again, other)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2], "alike by chance with probability under 1e-20"


def test_draws_have_the_probabilities() -> None:
    """Chi-square of 4,000 draws over five tokens, seed 0; a false alarm has probability 1e-4."""
    from scipy.stats import chisquare

    sampler = Sampler(SamplingOptions(temperature=1.0), CPU)
    drawn = torch.tensor([sampler.choose(LOGITS) for _ in range(4000)])
    observed = torch.bincount(drawn, minlength=5).numpy()
    assert chisquare(observed, (PROBS.double() / PROBS.double().sum()).numpy() * 4000).pvalue > 1e-4
    numbers = [sampler.uniform() for _ in range(200)]
    assert 0 <= min(numbers) < max(numbers) < 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0 and finite, got -0.1"),
        ({"temperature": float("nan")}, "at least 0 and finite, got nan"),
        ({"temperature": float("inf")}, "at least 0 and finite, got inf"),
        ({"temperature": 1e-40}, "below 0.0001 use 0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0; use None"),
        ({"top_p": 0.0}, r"top_p must be in \(0, 1\], got 0.0"),
        ({"min_p": 1.01}, r"min_p must be in \(0, 1\], got 1.01"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be > 0"),
        ({"seed": -1}, "seed must be from 0 to"),
        ({"seed": 2**63}, "seed must be from 0 to"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be > 0"),
    ],
)
def test_impossible_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        SamplingOptions(**options)
    SamplingOptions(temperature=0.0, top_k=1, top_p=1.0, min_p=1.0, repetition_penalty=0.1)
