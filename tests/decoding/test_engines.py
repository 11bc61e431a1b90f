"""Engines: the contract on all of them, families of models, and what the front end promises."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields

import pytest
import torch

from fluoroscope.decoding import (
    PromptError,
    RollBackError,
    Target,
    UnknownEngineError,
    engine_class,
    engines,
    generate,
    make_engine,
    register,
    save_generations,
)
from fluoroscope.decoding.plain import Plain
from fluoroscope.decoding.prompts import require_kind
from fluoroscope.probes import Model, Provenance, create_run, open_run, wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.decoding.contract import CHECKS, Case, free, own_greedy, sampling_has_the_models_law
from tests.families import tiny_module

NAMES = [about.name for about in engines()]
FAMILIES = ["llama", "gpt2", "gemma2", "gpt_neox", "opt", "qwen3", "phi3", "olmo2", "mixtral"]
RECURRENT = ["mamba2", "lfm2"]


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
def test_every_engine_keeps_the_contract(check: Callable[[Case], None], engine: str) -> None:
    check(Case(engine))


@pytest.mark.slow
@pytest.mark.parametrize("engine", NAMES)
def test_sampled_texts_have_the_models_joint_law(engine: str) -> None:
    sampling_has_the_models_law(Case(engine))


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate_token_for_token(engine: str, family: str) -> None:
    """In float64, so that no tie can be blamed (mixtral's kernels have none: float32); drafts are
    verified whole, not only where they pay."""
    module = tiny_module(family)
    model = wrap_model(module if family == "mixtral" else module.double(), name=family)
    prompt = ids(1, 9)[0].repeat(2)
    made = Case(engine).make(model).generate(prompt, stopping=free(24))[0]
    assert list(made.token_ids) == own_greedy(model, prompt, 24)
    assert made.stop_reason == "max_new_tokens"
    assert made.stats.n_faults == 0


@pytest.mark.parametrize("engine", NAMES)
@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_models_decode_plainly_and_refuse_drafts(engine: str, family: str) -> None:
    model = wrap_model(tiny_module(family), name=family)
    prompt = ids(1, 9)[0]
    if engine == "plain":
        made = generate(model, prompt, engine=engine, max_new_tokens=20, ignore_eos=True)[0]
        assert list(made.token_ids) == own_greedy(model, prompt, 20)
        return
    with pytest.raises(RollBackError, match="recurrent state"):
        generate(model, prompt, engine=engine, **Case(engine).needs(), max_new_tokens=20)


def test_a_short_context_can_be_measured_and_drafted_in() -> None:
    model = wrap_model(tiny_module("llama", max_position_embeddings=24))
    made = generate(model, ids(1)[0], engine="token-recycling", ignore_eos=True)[0]
    assert made.stop_reason == "context"
    assert len(made.token_ids) == 24 - 7


def test_bad_requests_are_named(tiny_llama) -> None:
    with pytest.raises(UnknownEngineError, match="Did you mean: plain"):
        generate(tiny_llama, "a", engine="plian")
    with pytest.raises(OptionError, match="no option width; it has cache, layout"):
        generate(tiny_llama, "a", width=3)
    for options in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 1.5}, {"max_new_tokens": 0}):
        with pytest.raises(OptionError, match=f"{next(iter(options))} must be"):
            generate(tiny_llama, "a", **options)
    with pytest.raises(OptionError, match="registered already"):
        register(Plain)


@pytest.mark.parametrize("engine", NAMES)
def test_options_of_other_types_are_named_and_defaults_are_of_theirs(tiny_llama, engine) -> None:
    """What the command line reads from NAME=VALUE may be anything."""
    kind = engine_class(engine).Options
    for field in fields(kind):
        made = make_engine(tiny_llama, engine, **{field.name: getattr(kind(), field.name)})
        assert made.options == kind()
        with pytest.raises(OptionError, match=f"{field.name} must be .*, got {{1}}"):
            make_engine(tiny_llama, engine, **{field.name: {1}})
    for name, value in (("seed", "abc"), ("seed", True), ("temperature", "hot"), ("top_k", 0.5)):
        with pytest.raises(OptionError, match=f"{name} must be (int|float)"):
            make_engine(tiny_llama, engine, **{name: value})


def test_what_is_no_prompt_is_named_before_anything_is_decoded(tiny_llama) -> None:
    """Also in a list: the second of two is found wrong before the first one is decoded."""
    row = ids(1)[0]
    for prompt, said in (
        (row[:0], "from 1 to 127 tokens, got 0. An empty prompt can begin"),
        (ids(1, 128)[0], "from 1 to 127 tokens, got 128. tiny llama holds 128"),
        (row + 300, "must be from 0 to 259, got"),
        (row - 300, "must be from 0 to 259, got"),
    ):
        with pytest.raises(PromptError, match=said):
            generate(tiny_llama, prompt)
        with pytest.raises(PromptError, match=said), no_passes(tiny_llama):
            generate(tiny_llama, [row, prompt])
    for prompt, said in (
        (ids(2), r"one row of integers, got torch.int64 of shape \(2, 7\)"),
        (row.float(), "one row of integers, got torch.float32"),
        (3, "a text or a tensor of token ids, got int"),
    ):
        with pytest.raises(PromptError, match=said):
            require_kind(prompt)
    with pytest.raises(PromptError, match="one row of integers"):
        generate(tiny_llama, ids(2))
    with pytest.raises(PromptError, match="at least one prompt"):
        generate(tiny_llama, [])
    with pytest.raises(OptionError, match="tiny llama has no chat template"):
        generate(tiny_llama, "a", chat=True)
    endless = wrap_model(tiny_module("mamba2"))
    with pytest.raises(PromptError, match="must have at least 1 token, got 0"):
        generate(endless, row[:0])


@contextmanager
def no_passes(model: Model) -> Iterator[None]:
    """Fails if the model runs."""

    def never(*_: object) -> None:
        raise AssertionError("the model ran")

    handle = model.module.register_forward_pre_hook(never)
    try:
        yield
    finally:
        handle.remove()


def test_rows_of_ids_and_single_names_are_taken_as_they_are(tiny_llama) -> None:
    rows = [*ids(2)]
    made = generate(tiny_llama, rows, max_new_tokens=9, ignore_eos=True, sites="embed")  # type: ignore[arg-type]
    one = generate(tiny_llama, rows[1], max_new_tokens=9, ignore_eos=True)[0]
    assert made[1].token_ids == one.token_ids
    assert made[1].states("embed").shape == (16, 32)
    end = tiny_llama.decode(one.token_ids[4:6])
    if end.isprintable():
        cut = generate(tiny_llama, rows[1], max_new_tokens=9, ignore_eos=True, stop=end)[0]
        assert cut.stop_reason == "stop_string"


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
    made = engine.generate(["ab", "c"], stopping=free(4), sites=["embed"])
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
