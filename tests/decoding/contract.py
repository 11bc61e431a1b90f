"""What every engine has to keep, whatever its paper: a battery run on all that are registered.

    for name, check in CHECKS.items():
        check(Case("my-engine"))

An engine gets all of it by registering. What an engine needs is found out: one whose options name a
draft or a block writer is given one that knows nothing of its target. `case.whole` has drafts verified
whole, not only where they pay, so that the decisions are exercised and not the thrift. Engines that
are not lossless by their own word are spared the two checks of the text's law. Exact checks run in
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import LogitsProcessor, PreTrainedModel

from fluoroscope.decoding import Engine, Stopping, engine_class, make_engine, static_cache
from fluoroscope.decoding.seq2seq import BlockWriter, BlockWriterOptions
from fluoroscope.decoding.trace import KINDS
from fluoroscope.probes import Model, capture, wrap_model
from fluoroscope.probes.errors import UnknownSiteError
from tests.conftest import ids, n_hooks
from tests.decoding.recording import stand_in
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

N_TEXTS, FALSE_ALARM = 1200, 1e-4
"""Texts drawn for the law's chi-square, and how often it is red for a sound engine."""


@cache
def draft_model(vocab_size: int = 260, dtype: torch.dtype = torch.float32) -> Model:
    """A draft that knows nothing of its target: another seed."""
    return wrap_model(small_vocabulary(vocab_size, seed=7).to(dtype), name="draft")


@cache
def block_writer(vocab_size: int = 260) -> BlockWriter:
    """A block writer that was taught nothing."""
    shape = BlockWriterOptions(d_model=16, n_heads=2, d_mlp=16, n_encoder=1, n_decoder=1)
    return BlockWriter(vocab_size, shape).eval()


def small_vocabulary(vocab_size: int, *, seed: int = 0) -> PreTrainedModel:
    """A tiny model without special tokens."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return tiny_module("llama", seed=seed, vocab_size=vocab_size, **special)


def tiny() -> Model:
    """A tiny model with a tokenizer, float32."""
    return wrap_model(tiny_module("llama"), byte_tokenizer(), name="tiny llama")


@dataclass(frozen=True)
class Case:
    """An engine under test.

    Args:
        engine: Its registered name.
    """

    engine: str

    def has(self, option: str) -> bool:
        """Whether the engine has an option."""
        return option in {field.name for field in fields(engine_class(self.engine).Options)}

    @property
    def lossless(self) -> bool:
        """Whether it promises the target's text."""
        return engine_class(self.engine).about.lossless

    def needs(self, vocab_size: int = 260) -> dict[str, Any]:
        """Options without which it cannot run on a tiny model; nothing starts another process."""
        given: dict[str, Any] = {
            "draft": lambda: draft_model(vocab_size),
            "writer": lambda: block_writer(vocab_size),
            "where": lambda: "inline",
        }
        return {option: make() for option, make in given.items() if self.has(option)}

    def whole(self, vocab_size: int = 260) -> dict[str, Any]:
        """Options with which drafts are verified whole."""
        return self.needs(vocab_size) | ({"thrifty": False} if self.has("thrifty") else {})

    def make(self, model: Model, **options: Any) -> Engine:
        """The engine for a model; drafts are verified whole unless `options` say otherwise."""
        return make_engine(model, self.engine, **self.whole(model.d_vocab) | options)


def greedy_is_plain(case: Case) -> None:
    """In float64, where no tie can be blamed, every token is that of the model's own generate."""
    if not case.lossless:
        return
    model = wrap_model(tiny_module("llama").double(), name="double")
    prompt = ids(1, 9)[0].repeat(2)
    (made,) = case.make(model).generate(prompt, stopping=free(24))
    assert list(made.token_ids) == own_greedy(model, prompt, 24)
    assert made.stop_reason == "max_new_tokens"
    assert made.stats.n_faults == 0


def packed_weights_change_no_promise(case: Case) -> None:
    """With weights packed the text is that of plain decoding with weights packed, and states agree.

    Float32: a tie closer than rounding would differ for a reason of its own; these texts have none.
    """
    model = tiny()
    plain = make_engine(model, "plain", layout="packed").generate("abab", stopping=free(16))[0]
    made = case.make(model, layout="packed").generate("abab", stopping=free(16), sites=["embed"])[0]
    if case.lossless:
        assert made.token_ids == plain.token_ids
    assert not any("forward" in part.__dict__ for part in model.module.modules())


def a_static_cache_changes_no_text(case: Case) -> None:
    """Float64: attending empty places under a mask leaves every token, also of one beyond the first
    buffers (of eight tokens here), and the states."""
    model = wrap_model(tiny_module("llama").double(), name="double")
    prompt, site = ids(1, 9)[0].repeat(2), "layers.1.resid_post"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_cache, "ROOM", 8)
        (made,) = case.make(model, cache="static").generate(prompt, stopping=free(24), sites=[site])
    assert made.stats.n_faults == 0
    if case.lossless:
        assert list(made.token_ids) == own_greedy(model, prompt, 24)
    text = torch.tensor([*made.prompt_ids, *made.token_ids])
    with torch.no_grad(), capture(model, site) as acts:
        model(text[None])
    torch.testing.assert_close(made.states(site), acts[site][0], rtol=1e-7, atol=1e-7)


def recorded_passes_change_no_text(case: Case) -> None:
    """Float64: passes filled up to a recorded size leave every token, in a first generation and in one
    that is lent the first one's buffers; both replay, and a text under capture does not."""
    model = wrap_model(tiny_module("llama").double(), name="double")
    prompt = ids(1, 9)[0].repeat(2)
    with pytest.MonkeyPatch.context() as patch:
        replayed = stand_in(patch)
        made = case.make(model, cache="graph")
        texts = [made.generate(prompt, stopping=free(24))[0]]
        n_first = len(replayed)
        texts.append(made.generate(prompt, stopping=free(24))[0])
        n_both = len(replayed)
        watched = made.generate(prompt, stopping=free(24), sites=["embed"])[0]
    assert 0 < n_first < n_both
    if not case.has("draft"):
        assert len(replayed) == n_both, "who looks inside sees real passes"
    for text in (*texts, watched):
        assert text.stats.n_faults == 0
        if case.lossless:
            assert list(text.token_ids) == own_greedy(model, prompt, 24)


def sampling_has_the_models_law(case: Case) -> None:
    """Chi-square of 1,200 texts of three tokens over six symbols, of which the second and third may be
    drafted, at temperature 1.3 with top-k 5; a false alarm has probability 1e-4 per engine."""
    if not case.lossless:
        return
    model = wrap_model(small_vocabulary(6), name="six symbols")
    prompt = torch.tensor([1, 2, 3, 1, 2])
    expected = joint_law(model, prompt, temperature=1.3, top_k=5)
    chosen = case.make(model, temperature=1.3, top_k=5)
    counts = np.zeros(6**3)
    for number in range(N_TEXTS):
        chosen.options = replace(chosen.options, seed=number)
        a, b, c, _ = chosen.generate(prompt, stopping=free(4))[0].token_ids
        counts[36 * a + 6 * b + c] += 1
    assert chi_square_p(counts, expected) > FALSE_ALARM


def seeds_decide(case: Case) -> None:
    """Equal seeds, equal texts; where drafts are matched, those that generate draws with that seed."""
    model, options = tiny(), {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "seed": 0}
    texts = [
        case.make(model, **options).generate(ids(1)[0], stopping=free(12))[0].token_ids
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    drafter = getattr(case.make(model, **options), "drafter", None)
    drawn = case.has("draft") if drafter is None else drafter.law != "point"
    if case.lossless and not drawn:
        torch.manual_seed(options.pop("seed"))
        own = model.generate(
            ids(1),
            do_sample=True,
            max_new_tokens=12,
            eos_token_id=None,
            pad_token_id=258,
            **options,
        )
        assert list(texts[0]) == own[0, 7:].tolist()


def earlier_prompts_seeds_do_not_matter(case: Case) -> None:
    """Draws begin anew with every text: with nothing kept, equal seeds give equal texts and drafts."""
    options: dict[str, Any] = {"temperature": 1.0, "seed": 3}
    if case.has("keep"):
        options["keep"] = False
    first, _, again = case.make(tiny(), **options).generate(
        ["abab", "c", "abab"], stopping=free(12)
    )
    assert first.token_ids == again.token_ids
    assert [step.nodes for step in first.trace.steps] == [step.nodes for step in again.trace.steps]


def traces_account_for_every_token(case: Case) -> None:
    """Rows of the trace sum to the tokens; probabilities are those of one plain pass (1e-3)."""
    model = tiny()
    (made,) = case.make(model).generate("hello", stopping=free(6))
    trace, stats = made.trace, made.stats
    assert [token.id for token in trace.tokens] == list(made.token_ids)
    assert stats.n_emitted == len(made.token_ids) == 6
    assert stats.n_drafted == sum(len(step.nodes) for step in trace.steps)
    assert stats.n_accepted == sum(node.accepted for step in trace.steps for node in step.nodes)
    assert sum(step.seconds for step in trace.steps) <= stats.seconds
    with torch.no_grad():
        whole = torch.tensor([*made.prompt_ids, *made.token_ids])[None]
        log_probs = model(whole).logits[0].double().log_softmax(-1)
    for number, token in enumerate(trace.tokens):
        row = log_probs[len(made.prompt_ids) + number - 1]
        assert token.kind in KINDS
        assert token.prob == pytest.approx(row.exp()[token.id].item(), rel=1e-3)
        assert token.entropy == pytest.approx(-(row.exp() * row).sum().item(), rel=1e-3)
        assert token.top_ids[token.rank] == token.id if token.rank < 5 else True


def states_are_those_of_a_plain_pass(case: Case) -> None:
    """float32; one token at a time against all at once differs by rounding: 1e-5."""
    model, sites = tiny(), ["layers.*.resid_post", "layers.1.mlp.hidden"]
    (made,) = case.make(model).generate("hello", stopping=Stopping(max_new_tokens=6), sites=sites)
    text = torch.tensor([*made.prompt_ids, *made.token_ids])
    with torch.no_grad(), capture(model, *sites) as acts:
        model(text[None])
    for site in acts:
        torch.testing.assert_close(made.states(site), acts[site][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownSiteError, match="sites="):
        made.states("embed")


def captures_see_the_text_and_nothing_else(case: Case) -> None:
    """The model is measured and checked before its first draft; that is not what it says."""
    model = wrap_model(tiny_module("llama", seed=5))
    chosen = make_engine(model, case.engine, **case.needs())
    with capture(model, "layers.0.resid_post") as acts:
        (made,) = chosen.generate(ids(1)[0], stopping=free(6))
    rows = 7 + sum(1 + len(step.nodes) for step in made.trace.steps[1:])
    assert acts["layers.0.resid_post"].shape[1] == rows


def texts_stop_where_they_should(case: Case) -> None:
    """At an end token, before a stop string, at the length asked for, at the end of the context."""
    model = tiny()
    chosen = case.make(model)
    free_text = chosen.generate("ab", stopping=free(10))[0].token_ids
    third = free_text[2]
    model.module.generation_config.eos_token_id = third
    ended = chosen.generate("ab", stopping=Stopping(max_new_tokens=10))[0]
    assert ended.token_ids == free_text[: free_text.index(third) + 1]
    assert ended.stop_reason == "eos"
    model.module.generation_config.eos_token_id = 257
    letter = model.decode([third])
    if letter.isprintable() and letter.strip():
        cut = chosen.generate("ab", stopping=Stopping(max_new_tokens=10, stop=(letter,)))[0]
        assert letter not in cut.text
        assert cut.stop_reason == "stop_string"
    long = chosen.generate(ids(1, 120)[0], stopping=free(50))[0]
    assert (long.stop_reason, len(long.token_ids)) == ("context", 8)


def streams_are_texts_and_can_be_left(case: Case) -> None:
    """Token by token the same text; a stream that is left leaves no hook, no layout and no trace."""
    model = tiny()
    before = n_hooks(model.module)
    first = case.make(model).generate(["ab", "cd"], stopping=free(5), sites=["embed"])
    second = case.make(model).generate(["ab", "cd"], stopping=free(5))
    assert [g.token_ids for g in first] == [g.token_ids for g in second]
    chosen = case.make(model)
    stream = chosen.stream("ab", stopping=free(5))
    next(stream)
    stream.close()
    assert_untouched(model, before)
    assert tuple(t.id for t in chosen.stream("ab", stopping=free(5))) == first[0].token_ids


def an_exception_leaves_engine_and_model_usable(case: Case) -> None:
    """Raised in the middle of a pass and in a processor: it comes out, hooks and layouts are gone, and
    the same engine writes the same text afterwards."""
    model = tiny()
    chosen = case.make(model, layout="packed")
    expected = chosen.generate("abab", stopping=free(8))[0].token_ids
    before = n_hooks(model.module)
    for raised in (KeyboardInterrupt, RuntimeError("in the middle")):
        n_left = 2

        def stop(*_: object, raised: Any = raised) -> None:
            nonlocal n_left
            n_left -= 1
            if not n_left:
                raise raised

        handle = model.module.model.layers[1].register_forward_hook(stop)
        with pytest.raises(raised if isinstance(raised, type) else type(raised)):
            chosen.generate("abab", stopping=free(8), sites=["embed"])
        handle.remove()
        assert_untouched(model, before)
        assert chosen.generate("abab", stopping=free(8))[0].token_ids == expected


def processors_are_heeded(case: Case) -> None:
    """A processor that forbids what would have come next changes the text as it changes plain's."""
    if not case.lossless:
        return
    model = wrap_model(tiny_module("llama").double(), name="double")
    prompt = ids(1, 9)[0]
    banned = own_greedy(model, prompt, 4)
    with torch.inference_mode():
        texts = []
        for chosen in (make_engine(model, "plain"), case.make(model)):
            state = chosen.begin(prompt, processors=[Forbid(banned)])
            text: list[int] = []
            while len(text) < 10:
                text += [token.id for token in state.step(10 - len(text)).emitted]
            texts.append(text[:10])
            state.end()
    assert texts[0] == texts[1]
    assert not set(texts[0]) & set(banned)


CHECKS: dict[str, Callable[[Case], None]] = {
    check.__name__: check
    for check in (
        greedy_is_plain,
        packed_weights_change_no_promise,
        a_static_cache_changes_no_text,
        recorded_passes_change_no_text,
        seeds_decide,
        earlier_prompts_seeds_do_not_matter,
        traces_account_for_every_token,
        states_are_those_of_a_plain_pass,
        captures_see_the_text_and_nothing_else,
        texts_stop_where_they_should,
        streams_are_texts_and_can_be_left,
        an_exception_leaves_engine_and_model_usable,
        processors_are_heeded,
    )
}
"""The battery. `sampling_has_the_models_law` takes longer and stands beside it."""


class Forbid(LogitsProcessor):
    """Some tokens never."""

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.index_fill(-1, torch.tensor(self._tokens), -torch.inf)


def free(n: int) -> Stopping:
    """So many tokens, whatever they are."""
    return Stopping(max_new_tokens=n, ignore_eos=True)


def own_greedy(model: Model, prompt: torch.Tensor, n: int) -> list[int]:
    """What the model's own generate writes."""
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 258}
    return model.generate(prompt[None], max_new_tokens=n, **options)[0, len(prompt) :].tolist()


def assert_untouched(model: Model, n_hooks_before: int) -> None:
    """No hook more than before, and no map whose forward was exchanged."""
    assert n_hooks(model.module) == n_hooks_before
    assert not any("forward" in part.__dict__ for part in model.module.modules())


def joint_law(model: Model, prompt: torch.Tensor, *, temperature: float, top_k: int) -> np.ndarray:
    """Exact probabilities of all texts of three tokens."""
    texts = torch.cartesian_prod(*[torch.arange(6)] * 3)
    rows = torch.cat([prompt.expand(len(texts), -1), texts], 1)
    with torch.no_grad():
        logits = model(rows).logits[:, len(prompt) - 1 : -1].double() / temperature
    least = logits.topk(top_k, -1).values[..., -1:]
    probs = logits.masked_fill(logits < least, -torch.inf).softmax(-1)
    return probs.gather(-1, texts[..., None])[..., 0].prod(-1).numpy()


def chi_square_p(counts: np.ndarray, law: np.ndarray) -> float:
    """p-value; texts expected fewer than five times share a class."""
    expected = law * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(expected[~rare], expected[rare].sum())
    if wanted[-1] == 0:
        assert observed[-1] == 0, "a text of probability zero occurred"
        observed, wanted = observed[:-1], wanted[:-1]
    return float(chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue)
