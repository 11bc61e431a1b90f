"""Engines: a battery that every registered engine has to pass, and plain decoding against generate."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import PreTrainedModel

from fluoroscope.decoding import (
    PromptError,
    RollBackError,
    Stopping,
    Target,
    UnknownEngineError,
    engines,
    generate,
    make_engine,
    register,
    save_generations,
)
from fluoroscope.decoding.plain import Plain
from fluoroscope.decoding.seq2seq import BlockWriter, BlockWriterOptions
from fluoroscope.decoding.trace import KINDS
from fluoroscope.probes import Model, Provenance, capture, create_run, open_run, wrap_model
from fluoroscope.probes.errors import OptionError, UnknownSiteError
from tests.conftest import ids, n_hooks
from tests.families import tiny_module

NAMES = [about.name for about in engines()]
FAMILIES = ["llama", "gpt2", "gemma2", "gpt_neox", "opt", "qwen3", "phi3", "olmo2", "mixtral"]
RECURRENT = ["mamba2", "lfm2"]
DRAFTED = {"draft-chain", "dyspec", "rsd-c", "rsd-s", "sequoia", "pearl"}


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
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    return tiny_module("llama", seed=seed, vocab_size=vocab_size, **special)


def needs_of(engine: str, vocab_size: int = 260) -> dict[str, object]:
    """Options without which an engine cannot run on a tiny model."""
    if engine == "gad":
        return {"writer": block_writer(vocab_size)}
    alone = {"where": "inline"} if engine == "pearl" else {}
    return {"draft": draft_model(vocab_size)} | alone if engine in DRAFTED else {}


def verified_whole(engine: str) -> dict[str, object]:
    """Options with which drafts are fed whole, not only where they pay."""
    return needs_of(engine) | ({} if engine == "plain" else {"thrifty": False})


def own_greedy(model, prompt: torch.Tensor, n: int) -> list[int]:
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 258}
    return model.generate(prompt[None], max_new_tokens=n, **options)[0, len(prompt) :].tolist()


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate_token_for_token(engine: str, family: str) -> None:
    """In float64, so that no tie can be blamed (mixtral's kernels have none: float32); drafts are
    verified whole, not only where they pay."""
    module = tiny_module(family)
    model = wrap_model(module if family == "mixtral" else module.double(), name=family)
    prompt = ids(1, 9)[0].repeat(2)
    options = verified_whole(engine)
    made = generate(model, prompt, engine=engine, max_new_tokens=24, ignore_eos=True, **options)[0]
    assert list(made.token_ids) == own_greedy(model, prompt, 24)
    assert made.stop_reason == "max_new_tokens"
    assert made.stats.n_faults == 0


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_decode_plainly_and_refuse_drafts(engine: str, family: str) -> None:
    model = wrap_model(tiny_module(family), name=family)
    prompt = ids(1, 9)[0]
    if engine == "plain":
        made = generate(
            model, prompt, engine=engine, **needs_of(engine), max_new_tokens=20, ignore_eos=True
        )[0]
        assert list(made.token_ids) == own_greedy(model, prompt, 20)
        return
    with pytest.raises(RollBackError, match="recurrent state"):
        generate(model, prompt, engine=engine, **needs_of(engine), max_new_tokens=20)


@pytest.mark.parametrize("engine", NAMES)
def test_sampling_with_a_seed_equals_generate_with_it(engine: str, tiny_llama, seed: int) -> None:
    """Drawn drafts have draws of their own: the same law, another text; the seed still decides."""
    options = {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
    needs = needs_of(engine)
    made = generate(tiny_llama, ids(1)[0], engine=engine, max_new_tokens=12, seed=seed,
                    ignore_eos=True, **options, **needs)[0]  # fmt: skip
    torch.manual_seed(seed)
    own = tiny_llama.generate(
        ids(1), do_sample=True, max_new_tokens=12, eos_token_id=None, pad_token_id=258, **options
    )
    if engine not in DRAFTED | {"stand"}:
        assert list(made.token_ids) == own[0, 7:].tolist()
    again = generate(tiny_llama, ids(1)[0], engine=engine, max_new_tokens=12, seed=seed,
                     ignore_eos=True, **options, **needs)[0]  # fmt: skip
    assert again.token_ids == made.token_ids


@pytest.mark.slow
@pytest.mark.parametrize("engine", NAMES)
def test_sampled_texts_have_the_models_joint_law(engine: str) -> None:
    """Chi-square of 1,200 texts of three tokens over six symbols, of which the second and third may be
    drafted, at temperature 1.3 with top-k 5; a false alarm has probability 1e-4 per engine."""
    model = wrap_model(small_vocabulary(6), name="six symbols")
    options: dict[str, object] = {"temperature": 1.3, "top_k": 5}
    options |= needs_of(engine, 6)
    if engine != "plain":
        options["thrifty"] = False
    prompt = torch.tensor([1, 2, 3, 1, 2])
    expected = joint_law(model, prompt, temperature=1.3, top_k=5)
    chosen = make_engine(model, engine, **options)
    counts = np.zeros(6**3)
    rules = Stopping(max_new_tokens=4, ignore_eos=True)
    for number in range(1200):
        chosen.options = replace(chosen.options, seed=number)
        a, b, c, _ = chosen.generate(prompt, stopping=rules)[0].token_ids
        counts[36 * a + 6 * b + c] += 1
    assert chi_square_p(counts, expected) > 1e-4


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


@pytest.mark.parametrize("engine", NAMES)
def test_states_are_those_of_a_plain_forward_pass(engine: str, tiny_llama) -> None:
    """float32; one token at a time against all at once differs by rounding: 1e-5."""
    sites = ["layers.*.resid_post", "layers.1.mlp.hidden"]
    made = generate(
        tiny_llama, "hello", engine=engine, **needs_of(engine), max_new_tokens=6, sites=sites
    )[0]
    text = torch.tensor([*made.prompt_ids, *made.token_ids])
    with torch.no_grad(), capture(tiny_llama, *sites) as acts:
        tiny_llama(text[None])
    for site in acts:
        torch.testing.assert_close(made.states(site), acts[site][0], rtol=1e-4, atol=1e-5)
    with pytest.raises(UnknownSiteError, match="sites="):
        made.states("embed")


@pytest.mark.parametrize("engine", NAMES)
def test_traces_account_for_every_token(engine: str, tiny_llama) -> None:
    made = generate(
        tiny_llama, "hello", engine=engine, **needs_of(engine), max_new_tokens=6, ignore_eos=True
    )[0]
    assert [token.id for token in made.trace.tokens] == list(made.token_ids)
    assert made.stats.n_emitted == len(made.token_ids) == 6
    assert sum(step.seconds for step in made.trace.steps) <= made.stats.seconds
    with torch.no_grad():
        whole = torch.tensor([*made.prompt_ids, *made.token_ids])[None]
        log_probs = tiny_llama(whole).logits[0].double().log_softmax(-1)
    for number, token in enumerate(made.trace.tokens):
        row = log_probs[len(made.prompt_ids) + number - 1]
        assert token.kind in KINDS
        assert token.prob == pytest.approx(row.exp()[token.id].item(), rel=1e-3)
        assert token.entropy == pytest.approx(-(row.exp() * row).sum().item(), rel=1e-3)
        assert token.top_ids[token.rank] == token.id if token.rank < 5 else True


@pytest.mark.parametrize("engine", NAMES)
def test_stop_conditions(engine: str, tiny_llama) -> None:
    free = generate(
        tiny_llama, "ab", engine=engine, **needs_of(engine), max_new_tokens=10, ignore_eos=True
    )[0]
    third = free.token_ids[2]
    tiny_llama.module.generation_config.eos_token_id = third
    first = free.token_ids.index(third)
    ended = generate(tiny_llama, "ab", engine=engine, **needs_of(engine), max_new_tokens=10)[0]
    assert ended.token_ids == free.token_ids[: first + 1]
    assert ended.stop_reason == "eos"
    tiny_llama.module.generation_config.eos_token_id = 257
    letter = tiny_llama.decode([third])
    if letter.isprintable() and letter.strip():
        cut = generate(
            tiny_llama, "ab", engine=engine, **needs_of(engine), max_new_tokens=10, stop=[letter]
        )[0]
        assert letter not in cut.text
        assert cut.stop_reason == "stop_string"
    long = generate(
        tiny_llama,
        ids(1, 120)[0],
        engine=engine,
        **needs_of(engine),
        max_new_tokens=50,
        ignore_eos=True,
    )[0]
    assert long.stop_reason == "context"
    assert len(long.token_ids) == 8


@pytest.mark.parametrize("engine", NAMES)
def test_two_runs_are_equal_and_leave_no_hook(engine: str, tiny_llama) -> None:
    before = n_hooks(tiny_llama.module)
    first = generate(
        tiny_llama,
        ["ab", "cd"],
        engine=engine,
        **needs_of(engine),
        max_new_tokens=5,
        sites=["embed"],
    )
    second = generate(tiny_llama, ["ab", "cd"], engine=engine, **needs_of(engine), max_new_tokens=5)
    assert [g.token_ids for g in first] == [g.token_ids for g in second]
    chosen = make_engine(tiny_llama, engine, **needs_of(engine))
    stream = chosen.stream("ab", stopping=Stopping(max_new_tokens=5))
    next(stream)
    stream.close()
    assert n_hooks(tiny_llama.module) == before
    streamed = [t.id for t in chosen.stream("ab", stopping=Stopping(max_new_tokens=5))]
    assert tuple(streamed) == first[0].token_ids


@pytest.mark.parametrize("engine", NAMES)
def test_a_prompts_text_does_not_depend_on_the_seeds_of_earlier_ones(
    engine: str, tiny_llama
) -> None:
    """Draws begin anew with every text: with nothing kept, equal seeds give equal texts and drafts."""
    options: dict[str, object] = {"temperature": 1.0, "seed": 3} | verified_whole(engine)
    if engine != "plain":
        options["keep"] = False
    chosen = make_engine(tiny_llama, engine, **options)
    rules = Stopping(max_new_tokens=12, ignore_eos=True)
    first, _, again = chosen.generate(["abab", "c", "abab"], stopping=rules)
    assert first.token_ids == again.token_ids
    assert [step.nodes for step in first.trace.steps] == [step.nodes for step in again.trace.steps]


@pytest.mark.parametrize("engine", NAMES)
def test_a_capture_around_an_engine_sees_its_passes_and_no_others(engine: str) -> None:
    """The model is measured and checked before its first draft; that is not what it says."""
    model = wrap_model(tiny_module("llama", seed=5))
    chosen = make_engine(model, engine, **needs_of(engine))
    with capture(model, "layers.0.resid_post") as acts:
        made = chosen.generate(ids(1)[0], stopping=Stopping(max_new_tokens=6, ignore_eos=True))[0]
    rows = 7 + sum(1 + len(step.nodes) for step in made.trace.steps[1:])
    assert acts["layers.0.resid_post"].shape[1] == rows


def test_a_short_context_can_be_measured_and_drafted_in() -> None:
    model = wrap_model(tiny_module("llama", max_position_embeddings=24))
    made = generate(model, ids(1)[0], engine="token-recycling", ignore_eos=True)[0]
    assert made.stop_reason == "context"
    assert len(made.token_ids) == 24 - 7


def test_bad_requests_are_named(tiny_llama) -> None:
    with pytest.raises(UnknownEngineError, match="Did you mean: plain"):
        generate(tiny_llama, "a", engine="plian")
    with pytest.raises(OptionError, match="no option width; it has layout"):
        generate(tiny_llama, "a", width=3)
    for options in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
            generate(tiny_llama, "a", **options)
    with pytest.raises(PromptError, match="from 1 to 128 tokens, got 0"):
        generate(tiny_llama, torch.zeros(0, dtype=torch.int64))
    with pytest.raises(PromptError, match="at least one prompt"):
        generate(tiny_llama, [])
    with pytest.raises(OptionError, match="registered already"):
        register(Plain)


def test_a_target_rolls_back_exactly_or_says_why_not(tiny_llama) -> None:
    recurrent_model = wrap_model(tiny_module("mamba2"))
    with torch.inference_mode():
        target = Target(tiny_llama)
        target.prefill(ids(1)[0])
        expected = target.extend([5])
        target.roll_back(7)
        target.extend([9, 9])
        target.roll_back(7)
        assert len(target) == 7
        torch.testing.assert_close(target.extend([5]), expected)
        recurrent = Target(recurrent_model)
        recurrent.prefill(ids(1)[0])
        with pytest.raises(RollBackError, match="cannot be cut back"):
            recurrent.roll_back(3)


def test_traces_are_stored_row_by_row(tiny_llama, tmp_path) -> None:
    engine = make_engine(tiny_llama, "plain")
    rules = Stopping(max_new_tokens=4, ignore_eos=True)
    made = engine.generate(["ab", "c"], stopping=rules, sites=["embed"])
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    run = open_run(tmp_path / "r.h5")
    save_generations(run, engine, made)
    save_generations(run, engine, made)
    with run.reading() as file:
        group = file["trace/plain"]
        assert group["tokens/id"][()].tolist() == [t for g in made for t in g.token_ids]
        assert group["tokens/position"][()].tolist() == [2, 3, 4, 5, 1, 2, 3, 4]
        assert group["tokens/prompt"][()].tolist() == [0] * 4 + [1] * 4
        assert group["prompts/offsets"][()].tolist() == [0, 2, 3]
        assert group["states/embed"].shape == (6 + 5, 32)
        assert group["steps/n_emitted"][()].sum() == 8
    assert run.traces == ("plain",)


def test_chat_prompts_use_the_template(tiny_llama) -> None:
    tiny_llama.tokenizer.chat_template = "<{{ messages[0]['content'] }}>"
    made = generate(tiny_llama, "hi", chat=True, max_new_tokens=1)[0]
    assert made.prompt == "<hi>"


@pytest.mark.embedded
def test_the_embedded_model_decodes_as_generate_does(embedded) -> None:
    prompt = embedded.encode("Once upon a time there was a researcher who")
    made = generate(embedded, prompt, max_new_tokens=24, ignore_eos=True)[0]
    assert list(made.token_ids) == own_greedy(embedded, prompt, 24)
