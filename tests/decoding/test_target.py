"""The target against forward passes without a cache: random trees, commits, windows, refusals."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluoroscope.decoding import (
    Drafter,
    DraftError,
    DraftTree,
    RollBackError,
    SparseProbs,
    Stopping,
    Target,
    generate,
    static_cache,
)
from fluoroscope.decoding.registry import make_engine
from fluoroscope.decoding.speculative import Speculative
from fluoroscope.decoding.target import CACHES, CacheKind
from fluoroscope.decoding.tree import Law
from fluoroscope.decoding.treecheck import branching_fault
from fluoroscope.probes import capture, wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.decoding.recording import stand_in
from tests.families import tiny_module

WINDOWED = {"mistral": {}, "gemma2": {"sliding_window": 4}, "gemma3": {"sliding_window": 4}}
FAMILIES = ["llama", "gpt2", "gpt_neox", "opt", "qwen3", "phi3", "olmo2", "stablelm", *WINDOWED]


@st.composite
def forests(draw) -> list[int]:
    """Parents of up to ten pending tokens; the first follows the text."""
    n = draw(st.integers(1, 10))
    return [-1, *(draw(st.integers(0, node - 1)) for node in range(1, n))]


def paths_of(parents: list[int]) -> list[list[int]]:
    found: list[list[int]] = []
    for node, parent in enumerate(parents):
        found.append([*(found[parent] if parent >= 0 else []), node])
    return found


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    ("family", "attention"),
    [(f, a) for f in FAMILIES for a in ("sdpa", "eager") if (f, a) != ("gemma2", "sdpa")],
)
def test_trees_in_the_cache_equal_paths_without_one(
    family: str, attention: str, cache: CacheKind, monkeypatch
) -> None:
    """Twelve random forests and commits in float64: 1e-7; eager attention takes its softmax in float32
    whatever the precision: 1e-5. Static buffers hold sixteen tokens at first."""
    monkeypatch.setattr(static_cache, "ROOM", 16)
    stand_in(monkeypatch)
    close = {"rtol": 1e-5, "atol": 1e-5} if attention == "eager" else {"rtol": 1e-7, "atol": 1e-7}
    module = tiny_module(family, **WINDOWED.get(family, {})).double()
    module.set_attn_implementation(attention)
    model = wrap_model(module, name=family, check=False)
    assert branching_fault(model) is None

    @settings(max_examples=12, deadline=None, database=None, derandomize=True)
    @given(parents=forests(), split=st.integers(1, 10), choice=st.integers(0, 9))
    def check(parents: list[int], split: int, choice: int) -> None:
        text = ids(1, 9)[0]
        tokens = [(7 * node + 3) % 250 for node in range(len(parents))]
        with torch.inference_mode():
            target = Target(model, rolls_back=True, cache=cache)
            target.prefill(text)
            rows = [target.feed(tokens[:split], parents[:split])]
            if tokens[split:]:
                rows.append(target.feed(tokens[split:], parents[split:]))
            got = torch.cat(rows)
            paths = paths_of(parents)
            for node, path in enumerate(paths):
                whole = torch.cat([text, torch.tensor([tokens[step] for step in path])])
                torch.testing.assert_close(got[node], model(whole[None]).logits[0, -1], **close)
            kept = paths[choice % len(paths)]
            target.commit(kept)
            after = target.extend([11])[-1]
            whole = torch.cat([text, torch.tensor([*(tokens[step] for step in kept), 11])])
            torch.testing.assert_close(after, model(whole[None]).logits[0, -1], **close)
            assert target.ids == whole.tolist()

    check()


def test_static_buffers_keep_their_shapes(tiny_llama, monkeypatch) -> None:
    """Attention sees as many places at every step, until a text outgrows them."""
    monkeypatch.setattr(static_cache, "ROOM", 16)
    seen = []
    update = static_cache.FixedLayer.update

    def watched(layer, *states):
        keys, values = update(layer, *states)
        seen.append(keys.shape[-2])
        return keys, values

    monkeypatch.setattr(static_cache.FixedLayer, "update", watched)
    with torch.inference_mode():
        target = Target(tiny_llama, cache="static")
        target.prefill(ids(1, 9)[0])
        for token in range(1, 9):
            target.extend([token])
        target.roll_back(5)
        target.extend(range(1, 12))
    n_layers = tiny_llama.n_layers
    assert seen == [16] * n_layers * 8 + [48] * n_layers * 2
    assert len(target) == 16


def test_a_recurrent_model_has_no_static_cache() -> None:
    model = wrap_model(tiny_module("mamba2"), name="mamba2", check=False)
    with pytest.raises(RollBackError, match="growing cache"):
        Target(model, cache="static")


def test_a_model_that_misreads_trees_is_refused(tiny_llama, monkeypatch) -> None:
    """Positions that ignore what the engine says: logits differ from the paths', and it is noticed."""
    module = tiny_module("llama")
    forward = module.model.rotary_emb.forward

    def by_place(x, position_ids):
        start = position_ids.min()
        return forward(x, torch.arange(position_ids.shape[1])[None] + start)

    monkeypatch.setattr(module.model.rotary_emb, "forward", by_place)
    model = wrap_model(module, name="stubborn", check=False)
    assert "gives other logits for a branching draft" in (branching_fault(model) or "")
    with pytest.raises(Exception, match="drafts trees, but stubborn"):
        generate(model, ids(1)[0], engine="token-recycling")
    with pytest.raises(OptionError, match="Use cache='growing'"):
        generate(model, ids(1)[0], cache="static")
    assert branching_fault(tiny_llama) is None


def fails(error: Exception) -> DraftTree:
    raise error


DRAFTS: dict[str, Callable[[int], DraftTree]] = {
    "raises": lambda budget: fails(ZeroDivisionError("no idea")),
    "constant": lambda budget: DraftTree.chain([7] * budget),
    "outside": lambda budget: DraftTree.chain([10**6]),
    "twins": lambda budget: DraftTree((5, 5), (-1, -1), (1.0, 1.0)),
    "too long": lambda budget: DraftTree.chain([1] * (budget + 40)),
    "too wide": lambda budget: DraftTree(
        tuple(range(budget + 1)), (-1,) * (budget + 1), (0.5,) * (budget + 1)
    ),
    "branches": lambda budget: DraftTree((5, 6), (-1, -1), (1.0, 1.0)),
    "fractions": lambda budget: DraftTree.chain([1.5, 2.0]),  # type: ignore[list-item]
    "unsure": lambda budget: DraftTree.chain([3, 4], [float("nan"), 0.5]),
    "oversure": lambda budget: DraftTree((3, 4), (-1, 0), (0.2, 40.0)),
    "drawn": lambda budget: DraftTree(
        (3,), (-1,), (0.5,), law="iid", proposals={-1: torch.ones(260) / 260}
    ),
    "fails late": lambda budget: DraftTree.chain([3]),
}


class Nonsense(Drafter):
    """Drafts whatever it is told to, or fails."""

    def __init__(self, kind: str) -> None:
        self._kind, self._calls = kind, 0
        self.branches = kind != "branches"  # type: ignore[misc]

    def begin(self, prompt, logits=None) -> None:
        if self._kind == "fails to begin":
            raise RuntimeError("not today")

    def propose(self, text, budget: int) -> DraftTree:
        self._calls += 1
        if self._kind == "fails late" and self._calls > 2:
            raise RuntimeError("lost")
        return DRAFTS.get(self._kind, lambda budget: DraftTree())(budget)

    def observe(self, seen) -> None:
        if self._kind == "fails late":
            raise RuntimeError("did not understand")


HARMLESS = ["constant", "empty"]
NONSENSE = [*(kind for kind in DRAFTS if kind != "constant"), "fails to begin"]


@pytest.mark.parametrize("kind", [*HARMLESS, *NONSENSE])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nonsense_costs_speed_never_text(tiny_llama, kind: str, temperature: float) -> None:
    plain = generate(
        tiny_llama, ids(1)[0], max_new_tokens=14, temperature=temperature, ignore_eos=True
    )[0]
    for thrifty in (False, True):
        engine = make_engine(tiny_llama, "prompt-lookup", temperature=temperature, thrifty=thrifty)
        assert isinstance(engine, Speculative)
        engine._learned = Nonsense(kind)
        rules = Stopping(max_new_tokens=14, ignore_eos=True)
        made = engine.generate(ids(1)[0], stopping=rules)[0]
        assert made.token_ids == plain.token_ids
        assert bool(made.stats.n_faults) == (kind in NONSENSE)


@pytest.mark.parametrize("law", ["iid", "without_replacement"])
def test_drawn_drafts_that_cannot_have_been_drawn_are_refused(law: Law) -> None:
    fair = torch.tensor([0.5, 0.5, 0.0])

    def tree(row: Tensor | SparseProbs, tokens: tuple[int, ...] = (0,)) -> DraftTree:
        n = len(tokens)
        return DraftTree(tokens, (-1,) * n, (0.5,) * n, law=law, proposals={-1: row})

    tree(fair).check(3)
    tree(SparseProbs((0, 2), (0.25, 0.75))).check(3)
    DraftTree(law=law).check(3)
    for row, said in (
        (fair[:2], "must have 3 entries"),
        (fair * 2, r"sums are \[2.0\]"),
        (torch.tensor([1.5, -0.5, 0.0]), "must be distributions"),
        (torch.tensor([float("nan"), 0.5, 0.5]), "must be distributions"),
        (SparseProbs((0, 5), (0.5, 0.5)), "Proposed token ids must be from 0 to 2"),
    ):
        with pytest.raises(DraftError, match=said):
            tree(row).check(3)
    if law == "iid":
        tree(fair, (1, 1)).check(3)
    else:
        with pytest.raises(DraftError, match="without replacement must differ"):
            tree(fair, (1, 1)).check(3)


def test_every_row_is_labelled_and_only_the_texts_are_states(tiny_llama) -> None:
    made = generate(
        tiny_llama, ids(1)[0].repeat(3), engine="token-recycling", max_new_tokens=12,
        ignore_eos=True, sites=["layers.1.resid_post"], thrifty=False,
    )[0]  # fmt: skip
    kinds = made.rows.kinds
    assert len(kinds) == len(made.all_states("layers.1.resid_post"))
    assert kinds.count("prompt") == 21
    assert "rejected" in kinds
    text = torch.tensor([*made.prompt_ids, *made.token_ids])
    with torch.no_grad(), capture(tiny_llama, "layers.1.resid_post") as acts:
        tiny_llama(text[None])
    states = acts["layers.1.resid_post"][0]
    torch.testing.assert_close(made.states("layers.1.resid_post"), states, rtol=1e-4, atol=1e-5)


def test_the_log_follows_the_path_not_the_order(tiny_llama) -> None:
    """A root with two children, the second of which is accepted with its own child."""
    with torch.inference_mode():
        target = Target(tiny_llama, rolls_back=True)
        target.prefill(ids(1)[0])
        target.feed([5, 6, 7, 8], [-1, 0, 0, 2])
        assert target.log.kinds[7:] == ("pending",) * 4
        target.commit([0, 2, 3])
    assert target.log.kinds == ("prompt",) * 7 + ("bonus", "rejected", "accepted", "accepted")
    assert target.log.positions.tolist()[7:] == [7, 8, 8, 9]
    assert target.log.is_text.sum() == len(target) == 10
