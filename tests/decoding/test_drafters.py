"""Drafters: what they propose against brute force, transformers and closed forms; what they keep."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import LogitsProcessorList, TemperatureLogitsWarper
from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

from fluoroscope.decoding import (
    ROOT,
    Beliefs,
    CostCurve,
    DraftTree,
    LearnedError,
    Observation,
    Sampler,
    SamplingOptions,
    Stopping,
    Thrift,
    as_custom_generate,
    generate,
    load_learned,
    make_engine,
    save_learned,
)
from fluoroscope.decoding.drafter import NoDrafter
from fluoroscope.decoding.drafters.aded import AdedDrafter, AdedOptions
from fluoroscope.decoding.drafters.aggressive import SourceDrafter
from fluoroscope.decoding.drafters.prompt_lookup import PromptLookupDrafter, PromptLookupOptions
from fluoroscope.decoding.drafters.rsd import condition_maximum
from fluoroscope.decoding.drafters.stand import NgramTable, StandDrafter
from fluoroscope.decoding.drafters.suffix import SuffixDrafter, SuffixOptions
from fluoroscope.decoding.drafters.suffix_index import SuffixIndex
from fluoroscope.decoding.drafters.token_recycling import TEMPLATE, TokenRecyclingDrafter
from fluoroscope.decoding.errors import DraftError
from fluoroscope.decoding.students import (
    DistilOptions,
    distil,
    new_student,
    open_student,
    save_student,
    training_prompts,
    write_texts,
)
from fluoroscope.decoding.students.distil import _states
from fluoroscope.decoding.thrift import LONGEST_REST, N_JUDGED, TRIAL
from fluoroscope.probes import wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.families import tiny_module

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(sequences=SEQUENCES, limit=st.integers(1, 4))
def test_suffix_counts_equal_brute_force_after_eviction(sequences, limit: int) -> None:
    index = SuffixIndex(max_sequences=limit)
    for sequence in sequences:
        index.begin()
        index.extend(sequence)
    kept = sequences[-limit:]
    for suffix in ([0], [1, 0], [2, 2], [0, 1, 2], [1, 1, 1]):
        found = dict(index.matches(suffix, len(suffix)))
        for m in range(1, len(suffix) + 1):
            part = suffix[-m:]
            places = [
                (row, at + m)
                for row, sequence in enumerate(kept)
                for at in range(len(sequence) - m + 1)
                if sequence[at : at + m] == part
            ]
            if not places:
                assert m not in found
                break
            assert len(found[m]) == len(places)
            following = Counter(kept[row][end] for row, end in places if end < len(kept[row]))
            got = {token: len(ends) for token, ends in index.continuations(found[m])}
            assert got == dict(following)


def test_suffix_drafts_follow_counts_and_bounds() -> None:
    """Seen once before: probability 1/2; seen twice alike: 2/3 (the current suffix counts itself)."""
    drafter = SuffixDrafter(SuffixOptions(alpha=1.0), NoDrafter())
    drafter.begin([1, 2, 3, 4, 5, 9, 1, 2, 3])
    guess = drafter.speculate([1, 2, 3, 4, 5, 9, 1, 2, 3], 32)
    assert guess.tree.tokens == (4, 5, 9)
    assert guess.match_length == 3
    assert guess.score == pytest.approx(3 * 0.5)
    drafter.begin([1, 2, 3, 4, 8, 1, 2, 3, 4, 9, 1, 2, 3])
    guess = drafter.speculate([1, 2, 3, 4, 8, 1, 2, 3, 4, 9, 1, 2, 3], 32)
    assert guess.tree.tokens[0] == 4
    assert guess.score == pytest.approx(2 / 3 + 1 / 3 + 1 / 3)


def test_a_long_match_leaves_room_for_a_long_draft() -> None:
    """Match and draft share `max_depth`; of matches with the same occurrences the one that allows the
    longest draft is taken, not the longest match, which would allow a single token."""
    said = list(range(100, 200))
    text = [*said, 7, *said[:80]]
    for alpha, expected in ((1.0, 32), (2.0, 42), (0.25, 12)):
        drafter = SuffixDrafter(SuffixOptions(alpha=alpha, max_depth=64), NoDrafter())
        drafter.begin(text)
        guess = drafter.speculate(text, 80)
        assert list(guess.tree.tokens) == [*said[80:], 7, *said][:expected]


def test_of_equal_scores_the_longer_match_drafts() -> None:
    """After 7 comes 1 twice of four times, after 9, 7 comes 2 once of two."""
    text = [5, 7, 1, 6, 7, 1, 9, 7, 2, 9, 7]
    drafter = SuffixDrafter(SuffixOptions(alpha=0.0, offset=1.0), NoDrafter())
    drafter.begin(text)
    guess = drafter.speculate(text, 8)
    assert (guess.tree.tokens, guess.match_length, guess.score) == ((2,), 2, 0.5)


def test_suffix_trees_take_the_likeliest_nodes_first() -> None:
    """After 1 come 2 (three times, then 3, 1), 4 twice, 5 once, and the end: 2, 3, 1 before 4."""
    text = [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 4, 6, 1, 4, 7, 1, 5, 9, 1]
    drafter = SuffixDrafter(SuffixOptions(tree=True, offset=3.0, alpha=0.0), NoDrafter())
    drafter.begin(text)
    guess = drafter.speculate(text, 3)
    assert guess.tree.tokens == (2, 3, 1)
    assert guess.tree.parents == (ROOT, 0, 1)
    assert guess.score == pytest.approx(3 * 3 / 7)


def test_suffix_requests_meet_only_in_the_common_index() -> None:
    for requests, expected in ((10, (7, 8)), (0, ())):
        drafter = SuffixDrafter(SuffixOptions(max_requests=requests), NoDrafter())
        drafter.begin([1])
        drafter.speculate([1, 5, 6, 7, 8], 4)
        drafter.begin([2])
        assert drafter.speculate([2, 5, 6], 4).tree.tokens == expected
        drafter.begin([3])
        assert drafter.speculate([3, 1], 4).tree.tokens == ()


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(text=st.lists(st.integers(0, 4), min_size=2, max_size=30))
def test_prompt_lookup_of_the_first_occurrence_is_transformers(text: list[int]) -> None:
    theirs = PromptLookupCandidateGenerator(
        num_output_tokens=6, max_matching_ngram_size=3, max_length=10**6,
        logits_processor=LogitsProcessorList(),
        vocab_size=5, eos_token_id=torch.tensor([99]),
    )  # fmt: skip
    expected = theirs.get_candidates(torch.tensor([text]))[0][0, len(text) :].tolist()
    ours = PromptLookupDrafter(PromptLookupOptions(occurrence="first"))
    ours.begin(text)
    assert list(ours.propose(text, 6).tokens) == expected


def recycling(size: int = 12, **options) -> TokenRecyclingDrafter:
    drafter = TokenRecyclingDrafter(size, **options)
    drafter.begin([0])
    return drafter


def test_the_template_has_80_nodes_and_six_levels() -> None:
    drafter = recycling(20)
    drafter.table.ids[:] = np.arange(8)
    tree = drafter.propose([0], 80)
    assert len(tree) == sum(TEMPLATE.values()) == 80
    assert [tree.depths.count(depth) for depth in range(1, 7)] == [8, 21, 25, 15, 8, 3]
    tree.check(20)
    assert not len(recycling().propose([0], 80))


def test_recycling_keeps_the_last_row_of_a_token_and_gives_the_path_the_last_word() -> None:
    drafter = recycling()
    tree = DraftTree((3, 3, 4), (ROOT, 0, ROOT), (1.0, 1.0, 1.0))
    logits = torch.randn(4, 12)
    sampler = Sampler(SamplingOptions(), torch.device("cpu"))
    beliefs = Beliefs(logits, tree, [0], sampler)
    drafter.observe(Observation([0], tree, [0], [3, 1], beliefs))
    assert drafter.table.ids[3].tolist() == logits[1].topk(8).indices.tolist()
    assert drafter.table.ids[4].tolist() == logits[3].topk(8).indices.tolist()
    assert (drafter.table.ids[5] == -1).all()


def test_a_warm_table_of_a_markov_chain_is_accepted_six_deep() -> None:
    drafter = recycling(shape="best-first")
    for token in range(12):
        drafter.table.ids[token] = [(token + step) % 12 for step in range(1, 9)]
        drafter.table.probs[token] = [0.9, *[0.01] * 7]
    chain = drafter.propose([2], 6)
    assert chain.tokens == (3, 4, 5, 6, 7, 8)
    assert drafter.propose([2], 7).depths.count(1) >= 1


def test_source_is_found_again_by_the_shortest_unique_suffix() -> None:
    drafter = SourceDrafter([1, 2, 3, 1, 4, 5], 64)
    drafter.begin([9])
    assert drafter.locate([7]) is None
    assert drafter.locate([1]) is None
    assert drafter.locate([3, 1]) == 4
    assert drafter.locate([2]) == 2
    assert drafter.locate([5]) is None


def test_a_source_is_copied_from_its_first_token_on() -> None:
    """Also where that token occurs twice in it (2205.10350: the pointer begins at the beginning)."""
    drafter = SourceDrafter([5, 8, 5, 9, 7], 64)
    for first, expected in ((5, (8, 5, 9, 7)), (9, (7,)), (4, ())):
        drafter.begin([1, 2])
        assert drafter.propose([1, 2, first], 8).tokens == expected
    drafter.begin([1, 2])
    drafter.propose([1, 2, 5], 8)
    tree = DraftTree.chain([8, 5, 9, 7])
    beliefs = Beliefs(
        torch.zeros(5, 12), tree, [0], Sampler(SamplingOptions(), torch.device("cpu"))
    )
    drafter.observe(Observation([1, 2, 5], tree, [0, 1], [8, 5, 7], beliefs))
    assert drafter.propose([1, 2, 5, 8, 5, 7], 8).tokens == (), "7 stands at the source's end"


def test_copies_double_when_accepted_whole_and_halve_after_a_miss() -> None:
    source = list(range(10, 130))
    drafter = SourceDrafter(source, 64)
    drafter.begin([1])
    text, lengths = [1, 10], []
    sampler = Sampler(SamplingOptions(), torch.device("cpu"))
    for missed in (False, False, True, False):
        tree = drafter.propose(text, 99)
        lengths.append(len(tree))
        path = [] if missed else range(len(tree))
        emitted = [99, 30] if missed else [*tree.tokens, source[len(text) - 1 + len(tree)]]
        beliefs = Beliefs(torch.zeros(len(tree) + 1, 260), tree, text, sampler)
        drafter.observe(Observation(text, tree, path, emitted, beliefs))
        text = [*text, *emitted]
    assert lengths == [16, 32, 64, 32]


def test_stands_table_is_a_running_mean_of_the_likeliest_ten() -> None:
    """The paper's worked example, tokens numbered Bob 0, Mary 1, Tom 2, Sue 3."""
    table = NgramTable()
    table.update([5, 6, 7, 8], {0: 0.7, 1: 0.2, 2: 0.05})
    table.update([5, 6, 7, 8], {0: 0.3, 1: 0.6, 3: 0.05})
    mean = table.lookup([9, 5, 6, 7, 8])
    assert mean == pytest.approx({0: 0.5, 1: 0.4, 2: 0.025, 3: 0.025})
    assert table.lookup([0, 0, 7, 8]) == mean
    assert table.lookup([0, 0, 0, 8]) == {}
    table.update([1, 1], dict.fromkeys(range(20), 0.05))
    assert len(table.lookup([1, 1])) == 10


def test_stand_drafts_as_deep_behind_a_short_text_as_behind_a_long_one() -> None:
    """Contexts grow up to four tokens along the path; they do not stay as short as the text."""
    for text in ([1, 2], [9, 9, 9, 1, 2]):
        drafter = StandDrafter((1, 1, 1), greedy=True)
        drafter.table.update([0, 1, 2], {3: 1.0})
        drafter.table.update([1, 2, 3], {4: 1.0})
        drafter.table.update([2, 3, 4], {5: 1.0})
        drafter.table.update([7, 3, 4], {6: 1.0})
        assert drafter.propose(text, 8).tokens == (3, 4, 5)


def test_stand_draws_siblings_as_sequential_sampling_does() -> None:
    """Ordered pairs of three tokens, 6,000 draws, chi-square; a false alarm has probability 1e-5."""
    probs = {0: 0.6, 1: 0.3, 2: 0.1}
    drafter = StandDrafter((2,), greedy=False)
    drafter.table.update([1, 2], probs)
    counts = Counter(drafter.propose([1, 2], 2).tokens for _ in range(6000))
    pairs = [(a, b) for a in probs for b in probs if a != b]
    law = [probs[a] * probs[b] / (1 - probs[a]) * 6000 for a, b in pairs]
    assert chisquare([counts[pair] for pair in pairs], law).pvalue > 1e-5
    again = StandDrafter((2,), greedy=False)
    again.remember(drafter.memory())
    assert again.table.lookup([1, 2]) == pytest.approx(probs)


DRAWN = {
    "draft-chain": {"min_reach": 0.0, "max_draft": 4},
    "rsd-c": {"branching": (2, 2, 1, 1)},
    "rsd-s": {"width": 3, "depth": 4},
    "dyspec": {"draft_temperature": 0.02, "min_value": 1e-3, "max_depth": 4, "max_draft": 60},
    "sequoia": {"by_cost": False, "max_depth": 4},
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_tree_of_four_levels_takes_four_draft_passes(tiny_llama, name: str) -> None:
    """One for the root and one for each level that has children; the last level is not read."""
    draft = wrap_model(tiny_module("llama", seed=7), name="draft")
    engine = make_engine(tiny_llama, name, draft=draft, temperature=1.0, **DRAWN[name])
    drafter, text = engine.drafter, ids(1)[0].tolist()
    drafter.begin(text)
    with torch.inference_mode():
        tree = drafter.propose(text, engine.options.max_draft)
    assert max(tree.depths) == 4
    assert drafter.draft._target.n_forward == 4
    for node, parent in enumerate(tree.parents):
        assert tree.confidence[node] == pytest.approx(
            float(tree.proposals[parent][tree.tokens[node]])
        )


@pytest.mark.parametrize("name", [*DRAWN, "pearl"])
def test_where_the_drafts_context_ends_the_target_goes_on_alone(tiny_llama, name: str) -> None:
    """In the middle of a text, and in the prompt already; nothing fails."""
    draft = wrap_model(tiny_module("llama", seed=7, max_position_embeddings=12), name="short")
    own = {"where": "inline", "window": 3} if name == "pearl" else DRAWN[name]
    for n_prompt in (7, 12, 20):
        prompt = ids(1, n_prompt)[0]
        made = generate(
            tiny_llama, prompt, engine=name, draft=draft, max_new_tokens=12, ignore_eos=True, **own
        )[0]
        plain = generate(tiny_llama, prompt, max_new_tokens=12, ignore_eos=True)[0]
        assert made.token_ids == plain.token_ids
        assert made.stats.n_faults == (name == "pearl" and n_prompt > 7)


@pytest.mark.parametrize("search", ["puct", "best-first"])
@pytest.mark.parametrize("as_shipped", [False, True])
def test_aded_drafts_chains_of_stored_trigrams(search: str, *, as_shipped: bool) -> None:
    text = [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4, 6, 2, 3, 4]
    drafter = AdedDrafter(AdedOptions(search=search, as_shipped=as_shipped))
    drafter.begin(text)
    known = set(zip(text, text[1:], text[2:], strict=False))
    tree = drafter.propose([9, 1, 2], 64)
    assert max(tree.depths) <= 4
    assert tree.tokens[0] == 3
    for node in range(len(tree)):
        said = [1, 2, *(tree.tokens[step] for step in tree.path(node))]
        assert tuple(said[-3:]) in known
    assert drafter.table.successors((2, 3))[0] == (4, pytest.approx(3 / 4))
    assert not len(drafter.propose([7], 8))
    root = drafter.search((1, 2))
    assert root.visits == 150
    waiting = [root]
    while waiting:
        node = waiting.pop()
        assert node.visits >= sum(child.visits for child in node.children)
        waiting += node.children
    assert ((drafter.table.rows()[:, 3] > 0) & (drafter.table.rows()[:, 3] <= 3)).all()


def test_conditioned_gumbels_have_the_maximum_asked_for_and_keep_their_order() -> None:
    noise = torch.tensor([0.3, -1.0, 2.5, -torch.inf], dtype=torch.float64)
    got = condition_maximum(noise, 0.7)
    assert got.max().item() == pytest.approx(0.7)
    assert got[:3].argsort().tolist() == noise[:3].argsort().tolist()
    exact = -torch.log(
        torch.exp(torch.tensor(-0.7)) - torch.exp(-noise.max()) + torch.exp(-noise[:3])
    )
    torch.testing.assert_close(got[:3], exact)


def test_thrift_keeps_what_pays() -> None:
    """Free rows: everything. Rows as dear as passes: nothing that is accepted less than surely."""
    tree = DraftTree((1, 2, 3), (ROOT, 0, ROOT), (0.6, 0.5, 0.1), sources=("a",) * 3)
    assert len(Thrift(lambda rows: 1.0).trim(tree)) == 3
    assert len(Thrift(lambda rows: float(rows)).trim(tree)) == 0
    assert Thrift(lambda rows: 1 + 0.2 * (rows - 1)).trim(tree).tokens == (1, 2)
    thrift = Thrift(lambda rows: 1 + 0.2 * (rows - 1))
    for _ in range(60):
        thrift.observe(tree, [9])
    assert len(thrift.trim(tree)) == 0
    curve = CostCurve((1, 3), (1.0, 2.0))
    assert [curve.seconds(rows) for rows in (1, 2, 3, 5)] == [1.0, 1.5, 2.0, 3.0]


def test_drafting_that_does_not_pay_rests_and_is_tried_again() -> None:
    """Nothing accepted at a pass and a half a step: of 2,000 steps at most a quarter draft, and no rest
    is longer than the longest; once drafts pay, resting ends."""
    thrift = Thrift(lambda rows: 1.0 if rows == 1 else 1.5)

    def drafts(n_steps: int, n_emitted: int) -> list[bool]:
        found = []
        for _ in range(n_steps):
            found.append(not thrift.rests())
            if found[-1]:
                thrift.settle(3, n_emitted, 0.0, 1.5)
        return found

    tried = drafts(2000, 1)
    assert all(tried[:TRIAL]), "it is tried first"
    assert 0 < sum(tried) < 500
    longest = max(len(run) for run in "".join("01"[t] for t in tried).split("1"))
    assert longest == LONGEST_REST
    assert all(drafts(2000, 3)[LONGEST_REST:])


def test_drafting_that_finds_nothing_goes_on_while_it_is_cheap() -> None:
    for drafting, goes_on in ((0.01, True), (0.2, False)):
        thrift = Thrift(lambda rows: float(rows))
        for _ in range(TRIAL):
            thrift.settle(0, 1, drafting, 1.0)
        assert thrift.rests() != goes_on


def test_a_wrong_cost_curve_is_noticed() -> None:
    """Everything three times slower is another load; only wide passes three times slower is not."""
    for wide, wrong in ((3.0, False), (9.0, True)):
        thrift = Thrift(lambda rows: 1.0)
        for _ in range(N_JUDGED):
            thrift.settle(0, 1, 0.0, 3.0)
            thrift.settle(8, 9, 0.0, wide)
        assert thrift.misjudges == wrong


def test_drafts_shrink_where_wide_passes_take_longer_than_the_curve_says() -> None:
    """A curve measured beside other work says that nine rows cost what one costs; they cost four times
    that."""
    tree = DraftTree(tuple(range(8)), (ROOT, *range(7)), (0.8,) * 8, sources=("a",) * 8)
    thrift = Thrift(lambda rows: 2.0)
    assert len(thrift.trim(tree)) == 8
    for _ in range(4):
        thrift.settle(0, 1, 0.0, 1.0)
        thrift.settle(8, 3, 0.0, 4.0)
    assert 0 < len(thrift.trim(tree)) < 8
    slower = Thrift(lambda rows: 2.0)
    for _ in range(4):
        slower.settle(0, 1, 0.0, 6.0)
        slower.settle(8, 3, 0.0, 6.0)
    assert len(slower.trim(tree)) == 8, "all passes slower alike is another load"


def test_what_was_learned_is_kept_and_refused_elsewhere(tiny_llama, tmp_path) -> None:
    rules = Stopping(max_new_tokens=20, ignore_eos=True)
    for name in ("token-recycling", "suffix", "hybrid", "stand", "aded"):
        engine = make_engine(tiny_llama, name, thrifty=False)
        first = engine.generate("abcabc", stopping=rules)[0]
        save_learned(engine, tmp_path / "kept.npz")
        fresh = make_engine(tiny_llama, name, thrifty=False)
        load_learned(fresh, tmp_path / "kept.npz")
        again = fresh.generate("abcabc", stopping=rules)[0]
        assert again.token_ids == first.token_ids
        assert again.stats.n_forward <= first.stats.n_forward
    with pytest.raises(LearnedError, match="engine: aded here suffix"):
        load_learned(make_engine(tiny_llama, "suffix"), tmp_path / "kept.npz")
    with pytest.raises(LearnedError, match="keeps nothing"):
        load_learned(make_engine(tiny_llama, "plain"), tmp_path / "kept.npz")
    with pytest.raises(LearnedError, match="keeps nothing"):
        save_learned(make_engine(tiny_llama, "prompt-lookup"), tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    with pytest.raises(LearnedError, match="holds nothing"):
        load_learned(make_engine(tiny_llama, "suffix"), tmp_path / "bad.npz")


@pytest.mark.parametrize("sampled", [False, True])
def test_engines_serve_model_generate(tiny_llama, sampled: bool, seed: int) -> None:
    options = {"max_new_tokens": 12, "pad_token_id": 258, "eos_token_id": None}
    options |= (
        {"do_sample": True, "temperature": 0.8, "top_k": 30} if sampled else {"do_sample": False}
    )
    engine = make_engine(tiny_llama, "hybrid", thrifty=False)
    torch.manual_seed(seed)
    got = tiny_llama.module.generate(
        ids(1), custom_generate=as_custom_generate(engine), repetition_penalty=1.3, **options
    )
    if sampled:
        torch.manual_seed(seed)
        options["temperature"] = 0.8
        engine_seed = int(torch.randint(2**31, ()))
        torch.manual_seed(engine_seed)
    want = tiny_llama.module.generate(ids(1), repetition_penalty=1.3, **options)
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize(
    "drawn",
    [
        {"typical_p": 0.6},
        {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"logits_processor": LogitsProcessorList([TemperatureLogitsWarper(0.5)])},
        {"temperature": 0.7, "typical_p": 0.5, "renormalize_logits": True},
    ],
    ids=["typical", "all four", "a processor of the user's", "in between"],
)
def test_processors_run_in_the_order_that_generate_gave_them(tiny_llama, drawn: dict) -> None:
    """Typical decoding looks at probabilities after temperature; two rows, a seed for each."""
    options = {"max_new_tokens": 8, "pad_token_id": 258, "eos_token_id": None, "do_sample": True}
    options |= {"top_k": 0} | drawn
    engine = make_engine(tiny_llama, "prompt-lookup", thrifty=False)
    torch.manual_seed(5)
    got = tiny_llama.generate(ids(2), custom_generate=as_custom_generate(engine), **options)
    torch.manual_seed(5)
    seeds = [int(torch.randint(2**31, ())) for _ in range(2)]
    for row, seed, mine in zip(ids(2), seeds, got, strict=True):
        torch.manual_seed(seed)
        assert tiny_llama.generate(row[None], **options)[0].tolist() == mine.tolist()


def test_several_samples_of_one_prompt_differ_and_unknown_wishes_are_refused(tiny_llama) -> None:
    options = {"max_new_tokens": 12, "pad_token_id": 258, "eos_token_id": None, "do_sample": True}
    engine = make_engine(tiny_llama, "prompt-lookup", thrifty=False)
    options |= {"custom_generate": as_custom_generate(engine)}
    made = tiny_llama.generate(ids(1), num_return_sequences=3, **options)
    assert len({tuple(row.tolist()) for row in made}) == 3, "alike by chance under 1e-20"
    for wish in ({"num_beams": 2}, {"return_dict_in_generate": True}):
        with pytest.raises(OptionError, match=f"{next(iter(wish))} must be"):
            tiny_llama.generate(ids(1), **options | wish)


def test_no_text_held_out_is_taught(tiny_llama) -> None:
    """Prompts are asked once, and texts that begin alike count as one."""
    prompts = training_prompts(600)
    assert len(set(prompts)) == 600
    assert training_prompts(40) == prompts[:40]
    twice = [ids(1, 12)[0].tolist()] * 9
    with pytest.raises(OptionError, match="1 texts are too few to hold 4 out"):
        distil(tiny_llama, twice, options=DistilOptions(held_out=4))
    tails = [[*twice[0], n] for n in range(9)]
    with pytest.raises(OptionError, match="1 texts are too few"):
        distil(tiny_llama, tails, options=DistilOptions(held_out=4, length=12))


def test_texts_read_together_give_what_each_gives_alone(tiny_llama) -> None:
    rules = DistilOptions(n_shared=1)
    texts = [ids(1, n, seed=n)[0].tolist() for n in (5, 12, 9)]
    for together, text in zip(_states(tiny_llama, texts, rules), texts, strict=True):
        (alone,) = _states(tiny_llama, [text], rules)
        for one, other in zip(together, alone, strict=True):
            assert one.shape == (len(text), 32)
            torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


def test_students_learn_are_kept_and_refuse_strangers(tiny_llama, tmp_path) -> None:
    texts = [ids(1, 24)[0].roll(n).tolist() for n in range(16)]
    options = DistilOptions(
        steps=30, batch=6, held_out=4, n_kept=64, save_every=10, learning_rate=5e-3
    )
    short = DistilOptions(steps=1, batch=6, held_out=4, n_kept=64, learning_rate=1e-9)
    _, before = distil(tiny_llama, texts, options=short)
    student, after = distil(tiny_llama, texts, options=options)
    assert after.kl_nats < before.kl_nats
    assert after.overlap >= before.overlap - 1e-3
    save_student(student, tmp_path / "s.safetensors", tiny_llama, {"steps": 30})
    opened = open_student(tiny_llama, tmp_path / "s.safetensors")
    assert opened.about == {"steps": 30}
    with torch.no_grad():
        mine, theirs = student.model(ids(1)).logits, opened.model(ids(1)).logits
    kept = list(student.kept_ids)
    assert torch.isinf(theirs[..., [t for t in range(260) if t not in kept]]).all()
    torch.testing.assert_close(mine[..., kept], theirs[..., kept], rtol=0.1, atol=0.05)
    made = generate(
        tiny_llama, ids(1)[0], engine="draft-chain", draft=str(tmp_path / "s.safetensors"),
        max_new_tokens=10, ignore_eos=True,
    )[0]  # fmt: skip
    plain = generate(tiny_llama, ids(1)[0], max_new_tokens=10, ignore_eos=True)[0]
    assert made.token_ids == plain.token_ids
    other = wrap_model(tiny_module("llama", seed=3))
    with pytest.raises(DraftError, match="other weights"):
        open_student(other, tmp_path / "s.safetensors")
    assert opened.model.is_from_files, "what its passes cost can be kept"
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "s.safetensors").read_bytes()[:-9])
    with pytest.raises(DraftError, match=r"cut.safetensors is damaged or no .safetensors file"):
        open_student(tiny_llama, tmp_path / "cut.safetensors")
    with pytest.raises(DraftError, match="layers must be from 0 to 2"):
        new_student(tiny_llama, layers=(7,))


def test_shared_layers_are_the_targets_own_and_nobody_elses_business(tiny_llama, tmp_path) -> None:
    texts = [ids(1, 20)[0].roll(n).tolist() for n in range(12)]
    options = DistilOptions(
        steps=4, batch=4, held_out=3, n_kept=64, n_shared=1, bfloat16=True, learning_rate=5e-3
    )
    before = {name: weight.clone() for name, weight in tiny_llama.module.named_parameters()}
    student, _ = distil(tiny_llama, texts, options=options)
    assert student.layers == (1, 2)
    assert student.model.n_layers == 3
    mine, theirs = student.model.module.model.layers, tiny_llama.module.model.layers
    shared = mine[0].mlp.up_proj.weight
    assert shared.data_ptr() == theirs[0].mlp.up_proj.weight.data_ptr()
    assert mine[0] is not theirs[0], "hooks on the target's layer do not see the student's passes"
    assert not torch.equal(mine[1].mlp.up_proj.weight, theirs[1].mlp.up_proj.weight)
    for name, weight in tiny_llama.module.named_parameters():
        assert torch.equal(weight, before[name]), name
    save_student(student, tmp_path / "s.safetensors", tiny_llama, {})
    opened = open_student(tiny_llama, tmp_path / "s.safetensors")
    assert (opened.n_shared, opened.layers) == (1, (1, 2))
    kept = list(student.kept_ids)
    with torch.no_grad():
        one, other = student.model(ids(1)).logits, opened.model(ids(1)).logits
    torch.testing.assert_close(one[..., kept], other[..., kept], rtol=0.1, atol=0.05)
    with pytest.raises(DraftError, match="n_shared must be from 0 to 2"):
        new_student(tiny_llama, n_shared=3)


def test_an_interrupted_distillation_ends_as_an_uninterrupted_one(tiny_llama, tmp_path) -> None:
    texts = [ids(1, 20)[0].roll(n).tolist() for n in range(12)]
    options = DistilOptions(steps=8, batch=4, held_out=3, n_kept=64, save_every=4)
    whole, _ = distil(tiny_llama, texts, options=options)

    def stop(done: int, total: int, note: str) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distil(tiny_llama, texts, options=options, checkpoint=tmp_path / "c.pt", progress=stop)
    resumed, _ = distil(tiny_llama, texts, options=options, checkpoint=tmp_path / "c.pt")
    for one, other in zip(
        whole.model.module.model.layers.parameters(),
        resumed.model.module.model.layers.parameters(),
        strict=True,
    ):
        assert torch.equal(one, other)


def test_what_was_made_for_others_is_not_taken_up(tiny_llama, tmp_path) -> None:
    """Neither texts of another model, seed or length, nor a checkpoint of other texts."""
    other = wrap_model(tiny_module("llama", seed=3), tiny_llama.tokenizer)
    prompts = ["ab", "cd", "ef"]
    texts = {}
    for name, model, more in (
        ("first", tiny_llama, {}), ("other model", other, {}), ("longer", tiny_llama, {"n_new": 9}),
        ("other seed", tiny_llama, {"seed": 1}), ("again", tiny_llama, {}),
    ):  # fmt: skip
        options = {"n_new": 6, "batch": 1, "seed": 0} | more
        texts[name] = write_texts(model, prompts, tmp_path / "texts", **options)
        (tmp_path / "fresh").mkdir(exist_ok=True)
        fresh = write_texts(model, prompts, tmp_path / "fresh" / name, **options)
        assert texts[name] == fresh, name
    assert texts["again"] == texts["first"] != texts["other model"]
    (tmp_path / "texts" / "000001.npz").write_bytes(b"cut")
    assert write_texts(tiny_llama, prompts, tmp_path / "texts", n_new=6, batch=1) == texts["first"]
    rules = DistilOptions(steps=4, batch=4, held_out=3, n_kept=64, save_every=4)
    rows = [ids(1, 20, seed=n)[0].tolist() for n in range(12)]
    more = [*rows[:11], rows[0]]
    distil(tiny_llama, rows, options=rules, checkpoint=tmp_path / "c.pt")
    taken, _ = distil(tiny_llama, more, options=rules, checkpoint=tmp_path / "c.pt")
    alone, _ = distil(tiny_llama, more, options=rules)
    for one, two in zip(
        taken.model.module.parameters(), alone.model.module.parameters(), strict=True
    ):
        assert torch.equal(one, two)
