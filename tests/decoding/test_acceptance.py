"""Acceptance rules against exact laws: what is emitted must be the target's, whatever was drafted."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fluoroscope.decoding import (
    ROOT,
    RULES,
    Beliefs,
    DraftError,
    DraftTree,
    Sampler,
    SamplingOptions,
    SparseProbs,
    TreeBuilder,
    default_rule,
)
from fluoroscope.decoding.tree import Law
from tests.decoding.enumeration import ExactBeliefs, Oracle, law_of

N = 1_500
SIZE = 5


def random_law(generator: torch.Generator) -> torch.Tensor:
    return torch.softmax(torch.randn(SIZE, generator=generator) * 1.5, -1)


def draw_children(q: torch.Tensor, k: int, law: str, generator: torch.Generator) -> list[int]:
    if law == "point":
        return q.topk(k).indices.tolist()
    replacement = law == "iid"
    return torch.multinomial(q, k, replacement=replacement, generator=generator).tolist()


def emitted_first(
    rule: str, law: str, k: int, p, q, n: int = N, *, broken: str | None = None
) -> np.ndarray:
    """How often each token is emitted first, over `n` independent drafts of `k` siblings."""
    generator = torch.Generator().manual_seed(1)
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=2), torch.device("cpu"))
    counts: Counter[int] = Counter()
    for _ in range(n):
        children = draw_children(q, k, law, generator)
        if broken == "sorted":
            children.sort(key=lambda token: -float(q[token]))
        tree = DraftTree(
            tuple(children), (ROOT,) * k, (1.0,) * k, law=law,
            proposals={} if law == "point" else {ROOT: q},
        )  # fmt: skip
        logits = p.log().repeat(1 + k, 1)
        path, token = RULES[rule].verify(tree, Beliefs(logits, tree, [0], sampler))
        counts[tree.tokens[path[0]] if path else token] += 1
    return np.array([counts[token] for token in range(SIZE)])


LAWS: tuple[Law, ...] = ("point", "iid", "without_replacement")
EXACT = [(rule, law) for rule in RULES for law in LAWS if law in RULES[rule].laws]


@pytest.mark.parametrize(("rule", "law"), EXACT)
def test_every_rule_emits_the_targets_law_with_a_samplers_draws(rule: str, law: str) -> None:
    """Chi-square over 1,500 drafts of three; a false alarm has probability 1e-5."""
    generator = torch.Generator().manual_seed(3)
    p, q = random_law(generator), random_law(generator)
    observed = emitted_first(rule, law, 3, p, q)
    wanted = p.double().numpy()
    assert chisquare(observed, wanted / wanted.sum() * N).pvalue > 1e-5


def drawn_tree(
    oracle: Oracle,
    draft: Callable[[tuple[int, ...]], torch.Tensor],
    law: Law,
    widths: Sequence[int],
    *,
    uniform_rest: bool = False,
    spoil: str = "",
) -> DraftTree:
    """A tree whose nodes of each level have so many children, drawn by the oracle as the law says.

    `spoil` breaks it: "sorted" orders siblings after drawing, "dropped" leaves out a drawn token 0.
    """
    tokens: list[int] = []
    parents: list[int] = []
    proposals: dict[int, torch.Tensor] = {}
    level: list[tuple[int, tuple[int, ...]]] = [(ROOT, ())]
    for width in widths:
        below = []
        for node, path in level:
            row = draft(path)
            left, said = row.clone(), []
            if law == "point":
                said = row.topk(width).indices.tolist()
            for _ in range(width if law != "point" else 0):
                if float(left.sum()) <= 0:
                    if not uniform_rest:
                        break
                    left = torch.ones_like(row)
                    left[said] = 0.0
                said.append(oracle.pick((left / left.sum()).tolist()))
                if law == "without_replacement":
                    left[said[-1]] = 0.0
            if spoil == "sorted":
                said.sort(key=lambda token: -float(row[token]))
            if spoil == "dropped":
                said = [token for token in said if token]
            for token in said:
                below.append((len(tokens), (*path, token)))
                tokens.append(token)
                parents.append(node)
            proposals[node] = row
        level = below
    ones = (1.0,) * len(tokens)
    given = {node: row for node, row in proposals.items() if node in parents}
    return DraftTree(
        tuple(tokens), tuple(parents), ones, law=law, proposals={} if law == "point" else given
    )


def joint_error(rule: str, law: Law, widths: Sequence[int], seed: int, **spoilt: Any) -> float:
    """Greatest error of the joint law of as many tokens as the tree has levels."""

    n_symbols = 4 if len(widths) == 1 else 3

    def random_rows(offset: int, zeros: int) -> Callable[[tuple[int, ...]], torch.Tensor]:
        @cache
        def after(path: tuple[int, ...]) -> torch.Tensor:
            number = 1000 * seed + offset + sum(5**place * (t + 1) for place, t in enumerate(path))
            generator = torch.Generator().manual_seed(number)
            scores = 2 * torch.randn(n_symbols, generator=generator, dtype=torch.float64)
            scores[torch.randperm(n_symbols, generator=generator)[:zeros]] = -torch.inf
            return scores.softmax(-1)

        return after

    target, draft = random_rows(0, seed % 2), random_rows(500, (seed + 1) % n_symbols)

    def experiment(oracle: Oracle) -> tuple[int, ...]:
        rest = rule == "sequoia"
        tree = drawn_tree(oracle, draft, law, widths, uniform_rest=rest, **spoilt)
        beliefs = ExactBeliefs(tree, target, oracle)
        path, token = RULES[rule].verify(tree, beliefs)
        said = [*(tree.tokens[node] for node in path), token]
        while len(said) < len(widths):
            said.append(oracle.pick(target(tuple(said)).tolist()))
        return tuple(said[: len(widths)])

    got = law_of(experiment)
    assert sum(got.values()) == pytest.approx(1, abs=1e-9)
    errors = []
    for text in product(range(n_symbols), repeat=len(widths)):
        wanted = 1.0
        for place, token in enumerate(text):
            wanted *= float(target(text[:place])[token])
        errors.append(abs(got[text] - wanted))
    return max(errors)


@pytest.mark.parametrize("widths", [(1,), (2,), (3,), (2, 1), (1, 2)])
@pytest.mark.parametrize(("rule", "law"), EXACT)
def test_every_rules_joint_law_is_exactly_the_targets(
    rule: str, law: Law, widths: tuple[int, ...]
) -> None:
    """Every way that drafts and decisions can fall, with its probability; targets and drafts with and
    without tokens of probability zero. Rounding of float64: 1e-9."""
    for seed in range(1 if len(widths) > 1 else 4):
        assert joint_error(rule, law, widths, seed) < 1e-9


@pytest.mark.parametrize("spoil", ["sorted", "dropped"])
def test_drafts_that_break_their_law_are_found_by_enumeration(spoil: str) -> None:
    """The control of the test above."""
    errors = [
        joint_error("recursive-rejection", "without_replacement", (2,), seed, spoil=spoil)
        for seed in range(4)
    ]
    assert max(errors) > 0.01


def test_a_sibling_that_cannot_have_been_drawn_is_passed_over_exactly() -> None:
    """A lie about the draft's distribution costs acceptance; what is left is still the target's."""
    p = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    q = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    for name in ("recursive-rejection", "recursive-rejection-iid", "sequoia"):
        law: Law = "iid" if name.endswith("iid") else "without_replacement"
        tree = DraftTree((2, 0), (ROOT, ROOT), (1.0, 1.0), law=law, proposals={ROOT: q})

        def experiment(oracle: Oracle, tree: DraftTree = tree, name: str = name) -> int:
            beliefs = ExactBeliefs(tree, lambda path: p, oracle)
            path, token = RULES[name].verify(tree, beliefs)
            return tree.tokens[path[0]] if path else token

        got = law_of(experiment)
        assert [got[token] for token in range(4)] == pytest.approx(p.tolist())


def test_siblings_sorted_after_drawing_are_found_biased() -> None:
    """The control: a test that cannot tell a broken drafter would tell nothing (p below 1e-6)."""
    p = torch.tensor([0.05, 0.40, 0.10, 0.25, 0.20])
    q = torch.tensor([0.50, 0.05, 0.30, 0.10, 0.05])
    observed = emitted_first("recursive-rejection", "without_replacement", 2, p, q, broken="sorted")
    law = p.double().numpy()
    assert chisquare(observed, law / law.sum() * observed.sum()).pvalue < 1e-6


def test_all_tokens_drafted_without_replacement_are_always_accepted() -> None:
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2]), torch.full((SIZE,), 0.2)
    sampler = Sampler(SamplingOptions(temperature=1.0), torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        children = draw_children(q, SIZE, "without_replacement", generator)
        tree = DraftTree(
            tuple(children), (ROOT,) * SIZE, (1.0,) * SIZE, law="without_replacement",
            proposals={ROOT: SparseProbs(tuple(range(SIZE)), (0.2,) * SIZE)},
        )  # fmt: skip
        beliefs = Beliefs(p.log().repeat(1 + SIZE, 1), tree, [0], sampler)
        assert RULES["recursive-rejection"].verify(tree, beliefs).path


def test_rules_refuse_drafts_they_are_not_exact_for() -> None:
    sampler = Sampler(SamplingOptions(temperature=1.0), torch.device("cpu"))
    tree = DraftTree.chain([1])
    beliefs = Beliefs(torch.zeros(2, SIZE), tree, [0], sampler)
    with pytest.raises(DraftError, match="exact for drafts that are iid, not point"):
        RULES["k-sequence"].verify(tree, beliefs)
    assert default_rule("iid", greedy=True).name == "match"
    assert default_rule("iid", greedy=False).name == "recursive-rejection-iid"
    assert default_rule("without_replacement", greedy=False).name == "recursive-rejection"


def test_processors_see_each_nodes_own_path() -> None:
    """A repetition penalty forbids what the path, not only the text, has said."""
    options = SamplingOptions(repetition_penalty=1e6)
    sampler = Sampler(options, torch.device("cpu"))
    tree = DraftTree.chain([3, 2])
    logits = torch.tensor([[1.0, 0.5, 2.0, 3.0, 1.0]]).repeat(3, 1)
    path, token = RULES["match"].verify(tree, Beliefs(logits, tree, [0], sampler))
    assert path == [0, 1]
    assert token == 4


def test_trees_know_their_shape_and_refuse_nonsense() -> None:
    builder = TreeBuilder()
    a = builder.add(ROOT, 5, 0.5)
    b = builder.add(a, 6, 0.5)
    assert builder.add(ROOT, 5, 0.9, "surer") == a
    builder.add(ROOT, 7, 0.2)
    tree = builder.build()
    assert tree.depths == (1, 2, 1)
    assert tree.children == {ROOT: [0, 2], 0: [1]}
    assert tree.path(b) == [a, b]
    assert tree.reach() == pytest.approx([0.9, 0.45, 0.2])
    assert not tree.is_chain
    assert tree.source(a) == "surer"
    assert tree.keep([0, 2]).tokens == (5, 7)
    with pytest.raises(DraftError, match="is missing"):
        tree.keep([1])
    with pytest.raises(DraftError, match="parents stand before"):
        DraftTree((1,), (3,), (1.0,))
    with pytest.raises(DraftError, match="one parent and one confidence"):
        DraftTree((1,), (ROOT,), ())
    with pytest.raises(DraftError, match="integers from 0 to 5"):
        tree.check(6)
    with pytest.raises(DraftError, match="siblings must differ"):
        DraftTree((1, 1), (ROOT, ROOT), (1.0, 1.0)).check(9)
    with pytest.raises(DraftError, match="no proposal"):
        DraftTree((1,), (ROOT,), (1.0,), law="iid").check(9)
    with pytest.raises(DraftError, match="Only trees of chosen tokens"):
        DraftTree((1,), (ROOT,), (1.0,), law="iid").keep([0])
