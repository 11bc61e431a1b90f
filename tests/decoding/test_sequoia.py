"""Shapes of draft trees: dynamic programming against brute force, fitting, and engines with them."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.decoding import (
    ROOT,
    Beliefs,
    DraftTree,
    LearnedError,
    Observation,
    Sampler,
    Stopping,
    fit_template,
    generate,
    load_learned,
    make_engine,
    save_learned,
)
from fluoroscope.decoding.drafters.sequoia import RankCounts, SequoiaDrafter
from fluoroscope.decoding.drafters.sequoia_shape import BestShapes
from fluoroscope.decoding.drafters.shape import Shape, Slot
from fluoroscope.decoding.drafters.stand import StandDrafter
from fluoroscope.probes import wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.families import tiny_module

Forest = tuple["Forest", ...]


@cache
def forests(n_nodes: int, n_trees: int | None = None) -> tuple[Forest, ...]:
    """All ordered forests of so many nodes."""
    if n_nodes == 0:
        return ((),)
    found = []
    for first in range(1, n_nodes + 1):
        for children in forests(first - 1):
            found += [(children, *rest) for rest in forests(n_nodes - first)]
    return tuple(found)


def slots_of(forest: Forest, above: Slot = ()) -> Iterator[Slot]:
    for rank, children in enumerate(forest):
        yield (*above, rank)
        yield from slots_of(children, (*above, rank))


def worth(slots, acceptance) -> float:
    """Expected tokens per pass: one, and each slot with the chance that it is accepted."""
    return 1 + sum(float(np.prod([acceptance[rank] for rank in slot])) for slot in slots)


@settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(
    st.lists(st.floats(0.01, 1), min_size=6, max_size=6),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_the_best_shape_is_the_best_of_all_ordered_trees(raw, n_nodes: int, depth: int) -> None:
    """Acceptance need not fall with rank for the recursion to hold."""
    acceptance = (np.array(raw) / sum(raw)).tolist()
    best = BestShapes(acceptance, 6, 6)
    values = [
        worth(slots, acceptance)
        for forest in forests(n_nodes)
        if max(map(len, slots := list(slots_of(forest)))) <= depth
    ]
    shape = best.shape(n_nodes, depth)
    assert len(shape) == n_nodes
    assert shape.depth <= depth
    assert best.expected[n_nodes + 1, depth] == pytest.approx(max(values))
    assert worth(shape.slots, acceptance) == pytest.approx(max(values))


def test_more_nodes_are_never_worse_and_sure_first_children_make_a_chain() -> None:
    best = BestShapes([0.6, 0.2, 0.05], 20, 9)
    assert (np.diff(best.expected[2:, 9]) > 0).all()
    assert BestShapes([1.0, 0.0], 5, 9).shape(5, 9) == Shape.constant([1] * 5)


def test_size_follows_from_costs() -> None:
    """Free rows: all nodes. Dear rows: none. A dear draft: few levels."""
    best = BestShapes([0.5, 0.3, 0.1], 12, 6)
    assert len(best.choose(12, 6, lambda rows: 1.0, lambda rows: 0.0)) == 12
    assert len(best.choose(12, 6, lambda rows: float(rows), lambda rows: 1.0)) == 0
    wide = best.choose(12, 6, lambda rows: 1.0, lambda rows: 0.15)
    assert 0 < wide.depth < best.choose(12, 6, lambda rows: 1.0, lambda rows: 0.01).depth
    assert len(best.choose(3, 6)) == 3
    assert len(best.choose(0, 6)) == len(best.choose(5, 0)) == 0
    brute = max(
        (best.expected[n + 1, d] / (1 + 0.1 * n + 0.2 * d), n, d)
        for n in range(1, 13)
        for d in range(1, min(n, 6) + 1)
    )
    chosen = best.choose(12, 6, lambda rows: 0.9 + 0.1 * rows, lambda rows: 0.2)
    assert (len(chosen), chosen.depth <= brute[2]) == (brute[1], True)


def test_shapes_say_what_is_wrong_and_survive_storage() -> None:
    shape = Shape.of([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
    assert Shape.from_array(shape.array()) == shape
    assert shape.n_children == {(): 2, (0,): 2, (1,): 1, (0, 0): 1}
    assert shape.level_sizes == [2, 3, 1]
    assert Shape.constant([2, 1]) == Shape.of([(0,), (1,), (0, 0), (1, 0)])
    assert Shape.from_array(Shape(()).array()) == Shape(())
    for bad in ([(1,)], [(0, 0)], [(0,), (0,)]):
        with pytest.raises(OptionError, match="behind its parent"):
            Shape.of(bad)
    with pytest.raises(OptionError, match="level by level"):
        Shape(((0,), (0, 0), (1,)))


def test_the_likeliest_slots_are_those_of_greatest_product() -> None:
    acceptance = [0.6, 0.3, 0.1]
    every = Shape.constant([3, 3, 3]).slots
    values = sorted((worth([slot], acceptance) for slot in every), reverse=True)
    got = Shape.likeliest(acceptance, 9, 3)
    assert sorted((worth([s], acceptance) for s in got.slots), reverse=True) == pytest.approx(
        values[:9]
    )


def test_the_best_counted_slots_stay_and_move_up() -> None:
    counts = {(0,): 9, (1,): 2, (2,): 5, (0, 0): 1, (0, 1): 4, (2, 0): 5, (0, 1, 0): 4}
    assert Shape.best(counts, 5) == Shape.of([(0,), (1,), (1, 0), (0, 0), (0, 0, 0)])
    assert len(Shape.best(counts, 100)) == 7


def test_ranks_beyond_a_nodes_width_are_not_counted_as_missed() -> None:
    """Half of the first, a third of the second children are accepted; nobody tried a third one."""
    counts = RankCounts(3)
    for accepted in [0] * 3000 + [1] * 1000 + [None] * 2000:
        counts.observe(2, accepted)
    p = counts.acceptance()
    assert p[:2] == pytest.approx([1 / 2, 1 / 2 * 1 / 3], abs=2e-3)
    assert p[2] == pytest.approx(1 / 3 * 0.25, abs=2e-3), "the prior"


def test_a_refused_draw_whose_token_is_emitted_all_the_same_counts_as_refused(tiny_llama) -> None:
    """And every draft counts once: a step without one does not count the last one again."""
    engine = make_engine(tiny_llama, "sequoia", draft=draft(), by_cost=False, temperature=1.0)
    drafter = engine.drafter
    assert isinstance(drafter, SequoiaDrafter)
    sampler = Sampler(engine.options, torch.device("cpu"))
    row = torch.full((260,), 1 / 260)
    for law, tried, accepted in (
        ("without_replacement", [1, 1], [0, 0]),
        ("point", [1, 0], [1, 0]),
    ):
        proposals = {ROOT: row} if law != "point" else {}
        tree = DraftTree((4, 5), (ROOT, ROOT), (0.5, 0.5), law=law, proposals=proposals)
        beliefs = Beliefs(torch.zeros(3, 260), tree, [0], sampler)
        drafter.forget()
        drafter._whole = tree
        for _ in range(2):
            drafter.observe(Observation([0], tree, [], [4], beliefs))
        assert drafter.counts.tried[:2].tolist() == tried
        assert drafter.counts.accepted[:2].tolist() == accepted


def draft():
    return wrap_model(tiny_module("llama", seed=7), name="draft")


def test_a_draft_that_is_its_target_gets_a_chain_and_is_accepted_whole(tiny_llama) -> None:
    """The shape follows what is accepted: nothing but first children."""
    options = {"draft": tiny_llama, "max_draft": 6, "by_cost": False}
    engine = make_engine(tiny_llama, "sequoia", **options)
    rules = Stopping(max_new_tokens=60, ignore_eos=True)
    made = engine.generate(ids(1)[0], stopping=rules)[0]
    drafter = engine.drafter
    assert isinstance(drafter, SequoiaDrafter)
    assert drafter.counts.accepted[1:].sum() == 0
    assert drafter.shape(6, 8) == Shape.constant([1] * 6)
    assert made.stats.n_faults == 0
    assert made.trace.steps[-2].n_accepted == 6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sequoias_trees_have_the_shape_it_chose(tiny_llama, temperature: float) -> None:
    engine = make_engine(
        tiny_llama, "sequoia", draft=draft(), by_cost=False, temperature=temperature, max_draft=9
    )
    made = engine.generate(ids(1)[0], stopping=Stopping(max_new_tokens=20, ignore_eos=True))[0]
    assert made.stats.n_faults == 0
    sizes = {len(step.nodes) for step in made.trace.steps[1:3]}
    assert sizes == {9}
    for step in made.trace.steps[1:]:
        assert [node.depth for node in step.nodes] == sorted(node.depth for node in step.nodes)


def test_sequoias_counts_are_kept(tiny_llama, tmp_path) -> None:
    engine = make_engine(tiny_llama, "sequoia", draft=draft(), by_cost=False)
    engine.generate(ids(1)[0], stopping=Stopping(max_new_tokens=20, ignore_eos=True))
    save_learned(engine, tmp_path / "c.npz")
    fresh = make_engine(tiny_llama, "sequoia", draft=draft(), max_width=3)
    load_learned(fresh, tmp_path / "c.npz")
    assert fresh.drafter.memory()["tried"].tolist() == engine.drafter.memory()["tried"][:3].tolist()
    with pytest.raises(LearnedError, match="one per rank"):
        fresh.drafter.remember({"tried": np.zeros(3)})
    with pytest.raises(OptionError, match="max_width must be at least 1"):
        make_engine(tiny_llama, "sequoia", max_width=0)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_stands_template_is_fitted_to_what_is_accepted_and_kept(
    tiny_llama, tmp_path, temperature: float
) -> None:
    rules = Stopping(max_new_tokens=40, ignore_eos=True)
    engine = make_engine(tiny_llama, "stand", temperature=temperature, top_k=3)
    drafter = engine.drafter
    assert isinstance(drafter, StandDrafter)
    options, first = engine.options, drafter.template
    fitted = fit_template(engine, ["abcabcabc", "abcabd"] * 3, size=12, stopping=rules)
    assert 0 < len(fitted) <= 12
    assert fitted != first
    assert drafter.template == fitted
    assert engine.options is options
    save_learned(engine, tmp_path / "t.npz")
    fresh = make_engine(tiny_llama, "stand", temperature=temperature, top_k=3)
    load_learned(fresh, tmp_path / "t.npz")
    assert fresh.drafter.template == fitted
    made = fresh.generate("abcabcabc", stopping=rules)[0]
    assert made.stats.n_faults == 0
    if temperature == 0:
        assert (
            made.token_ids
            == generate(tiny_llama, "abcabcabc", ignore_eos=True, max_new_tokens=40)[0].token_ids
        )
    drafter.forget()
    assert drafter.template == first


def test_an_interrupted_fit_leaves_the_old_template(tiny_llama, monkeypatch) -> None:
    engine = make_engine(tiny_llama, "stand")
    drafter, options = engine.drafter, engine.options
    first = drafter.template

    def stop(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "generate", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_template(engine, ["ab"], size=4)
    assert (drafter.template, drafter.tally, engine.options) == (first, None, options)
    with pytest.raises(OptionError, match="size must be at least 1"):
        fit_template(engine, ["ab"], size=0)
    drafter.remember(drafter.table.arrays())
    assert drafter.template == first, "files from before templates were kept"
    with pytest.raises(LearnedError, match="template is damaged"):
        drafter.remember(drafter.table.arrays() | {"template": np.array([[1]])})
