"""The joint law of several sampled tokens, for every engine, with drafts as large as they come.

Matching draws what plain decoding draws, so equal seeds must give equal texts, whatever is drafted. For
the rules that draw on their own: chi-square of tokens two to four over five symbols, each of which may
have been drafted, accepted, refused or made up for. It fails as well where nothing of that happens: a
law that is never put to the test would hold.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fluoroscope.decoding import Engine, Speculative, Step, engines
from fluoroscope.decoding.drafters.stand import Stand, StandDrafter
from fluoroscope.probes import Model, wrap_model
from tests.decoding.contract import Case, chi_square_p, free
from tests.families import tiny_module

N_TEXTS, FALSE_ALARM = 700, 1e-5
"""Texts per engine and rule, and how often one of these tests is red for a sound engine."""
N_SYMBOLS, ROOM = 5, 40
PROMPT = torch.tensor([1, 2, 3, 1, 2, 4, 1, 2])
DRAWN: dict[str, list[dict[str, Any]]] = {
    "draft-chain": [{"min_reach": 0.2}],
    "rsd-c": [{"branching": (2, 2, 1)}],
    "rsd-s": [{"width": 3, "depth": 3}],
    "dyspec": [{"builder": "greedy"}, {"builder": "threshold", "min_value": 0.02}],
    "sequoia": [{"by_cost": False, "max_draft": 7, "max_width": 3}],
    "stand": [{"branching": (3, 2, 1)}],
    "pearl": [{"window": 3}],
}
CHOSEN: dict[str, list[dict[str, Any]]] = {
    "prompt-lookup": [{}],
    "token-recycling": [{"shape": "best-first", "max_draft": 4}],
    "suffix": [{}, {"tree": True, "alpha": 0.0, "offset": 3.0}],
    "hybrid": [{"max_draft": 4}],
    "aded": [{"max_draft": 4}],
    "aggressive": [{}],
    "gad": [{}],
}
CASES = [
    *((name, own, rule) for name, all_ in DRAWN.items() for own in all_ for rule in
      ("recursive-rejection", "sequoia")),
    *((name, own, "point-mass") for name, all_ in CHOSEN.items() for own in all_),
]  # fmt: skip


def symbols(seed: int, temperature: float) -> Model:
    """A tiny model of five symbols, its logits divided by a temperature."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    module = tiny_module(
        "llama", seed=seed, vocab_size=N_SYMBOLS, num_hidden_layers=1, tie_word_embeddings=False,
        **special,
    )  # fmt: skip
    module.lm_head.weight.data /= temperature
    return wrap_model(module, name=f"symbols {seed}", check=False)


def made(name: str, **options: Any) -> Engine:
    """The engine over a target and, where it takes one, a draft that differs a good deal."""
    case = Case(name)
    if case.has("draft"):
        options = {"draft": symbols(7, 0.3)} | options
        if name != "pearl":
            options = {"draft_temperature": 1.0} | options
    engine = case.make(symbols(0, 0.3), temperature=1.0, **options)
    if isinstance(engine, Stand):
        spoil(engine)
    return engine


def spoil(engine: Stand) -> None:
    """A table of random distributions that learns nothing, so that draws differ from the target's."""
    drafter = engine.drafter
    assert isinstance(drafter, StandDrafter)
    draw = np.random.default_rng(0)
    for context in np.ndindex(N_SYMBOLS, N_SYMBOLS):
        drafter.table.update(context, dict(enumerate(draw.dirichlet(np.ones(N_SYMBOLS)))))
    drafter.observe = lambda seen: None  # type: ignore[method-assign]


def first_tokens(engine: Engine, seed: int, n: int) -> tuple[list[int], list[Step]]:
    """The first tokens of a text that could become long, so that no draft is cut for want of room."""
    engine.options = replace(engine.options, seed=seed)
    tokens: list[int] = []
    steps: list[Step] = []
    with torch.inference_mode():
        state = engine.begin(PROMPT)
        while len(tokens) < n:
            steps.append(state.step(ROOM))
            tokens += [token.id for token in steps[-1].emitted]
        state.end()
    return tokens[:n], steps


def law_of_three(model: Model) -> np.ndarray:
    """Exact probabilities of tokens two to four."""
    texts = torch.cartesian_prod(*[torch.arange(N_SYMBOLS)] * 4)
    rows = torch.cat([PROMPT.expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        probs = model(rows).logits[:, len(PROMPT) - 1 : -1].double().softmax(-1)
    each = probs.gather(-1, texts[..., None])[..., 0].prod(-1)
    return each.view(N_SYMBOLS, -1).sum(0).numpy()


def test_every_engine_is_among_the_cases() -> None:
    assert {about.name for about in engines()} == {*DRAWN, *CHOSEN, "plain"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "own", "rule"), CASES)
def test_tokens_that_rules_draw_have_the_targets_joint_law(
    name: str, own: dict[str, Any], rule: str
) -> None:
    engine = made(name, rule=rule, **own)
    counts = np.zeros(N_SYMBOLS**3)
    n_accepted = n_corrected = n_second = 0
    with engine.ready():
        for seed in range(N_TEXTS):
            (_, *three), steps = first_tokens(engine, seed, 4)
            counts[np.ravel_multi_index(three, [N_SYMBOLS] * 3)] += 1
            for step in steps:
                n_accepted += step.n_accepted
                n_corrected += step.emitted[-1].kind == "correction"
                taken = [node for node in step.nodes if node.accepted]
                n_second += any(
                    node.parent == one.parent and node.token != one.token
                    for one in taken
                    for node in step.nodes[: step.nodes.index(one)]
                )
    assert n_accepted > N_TEXTS / 25
    assert n_corrected > N_TEXTS / 10
    branching = isinstance(engine, Speculative) and engine.drafter.branches
    assert not branching or n_second > N_TEXTS / 50, "no later sibling was ever accepted"
    assert chi_square_p(counts, law_of_three(engine.model)) > FALSE_ALARM


@pytest.mark.parametrize(
    ("name", "own"),
    [(name, own) for kind in (DRAWN, CHOSEN) for name in kind for own in kind[name]],
)
def test_matching_draws_what_plain_decoding_draws(name: str, own: dict[str, Any]) -> None:
    """Equal seeds, equal texts: of drawn drafts too, whose draws are the draft's own."""
    engine, plain = made(name, rule="match", **own), made("plain")
    for seed in range(2):
        texts = []
        for one in (engine, plain):
            one.options = replace(one.options, seed=seed)
            texts.append(one.generate(PROMPT, stopping=free(12))[0].token_ids)
        assert texts[0] == texts[1]
