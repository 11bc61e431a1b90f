"""Acceptance rules against exact laws: what is emitted must be the target's, whatever was drafted."""

from collections import Counter

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

N = 4_000
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


EXACT = [
    (rule, law)
    for rule in RULES
    for law in ("point", "iid", "without_replacement")
    if law in RULES[rule].laws
]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize(("rule", "law"), EXACT)
def test_every_rule_emits_the_targets_law(rule: str, law: str, k: int) -> None:
    """Chi-square over 4,000 drafts; a false alarm has probability 1e-5."""
    generator = torch.Generator().manual_seed(k)
    p, q = random_law(generator), random_law(generator)
    observed = emitted_first(rule, law, k, p, q)
    wanted = p.double().numpy()
    assert chisquare(observed, wanted / wanted.sum() * N).pvalue > 1e-5


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
    with pytest.raises(DraftError, match="must be from 0 to 5"):
        tree.check(6)
    with pytest.raises(DraftError, match="siblings must differ"):
        DraftTree((1, 1), (ROOT, ROOT), (1.0, 1.0)).check(9)
    with pytest.raises(DraftError, match="no proposal"):
        DraftTree((1,), (ROOT,), (1.0,), law="iid").check(9)
    with pytest.raises(DraftError, match="Only trees of chosen tokens"):
        DraftTree((1,), (ROOT,), (1.0,), law="iid").keep([0])
