"""Generations read back from a run file are those that were written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fluoroscope.decoding import Stopping, make_engine, save_generations
from fluoroscope.decoding.kept import differing, identity_of, kept_generations
from fluoroscope.decoding.row_readings import read_rows
from fluoroscope.probes import Model, Provenance, Run, create_run, open_run, wrap_model
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

RULES = Stopping(max_new_tokens=5, ignore_eos=True)
SITES = ("layers.*.resid_post", "embed")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    with create_run(tmp_path / "r.h5", provenance=Provenance()) as writer:
        writer.close()
    return open_run(tmp_path / "r.h5")


def other_weights() -> Model:
    """The tiny model with its head doubled."""
    module = tiny_module("llama")
    with torch.no_grad():
        module.lm_head.weight.mul_(2)
    return wrap_model(module, byte_tokenizer(), name="other")


@pytest.mark.parametrize("name", ["plain", "prompt-lookup", "token-recycling"])
def test_what_comes_back_is_what_was_written(tiny_llama: Model, run: Run, name: str) -> None:
    engine = make_engine(tiny_llama, name, layout="plain")
    made = engine.generate(["abab abab", "c"], stopping=RULES, sites=SITES)
    made[1] = replace(made[1], stats=replace(made[1].stats, n_faults=2))
    identity = identity_of(engine, RULES, SITES)
    assert identity["sites"] == ["embed", *(f"layers.{i}.resid_post" for i in range(3))]
    assert kept_generations(run, engine, identity) == []
    save_generations(run, engine, made, identity=identity)
    back = kept_generations(run, engine, identity)
    assert len(back) == 2
    for one, two in zip(made, back, strict=True):
        got = two.generation
        for field in ("prompt", "prompt_ids", "token_ids", "text", "stop_reason", "stats"):
            assert getattr(got, field) == getattr(one, field), field
        for site in ("embed", "layers.1.resid_post"):
            torch.testing.assert_close(got.states(site), one.states(site), rtol=0, atol=0)
        for step, other in zip(one.trace.steps, got.trace.steps, strict=True):
            assert [node.token for node in step.nodes] == [node.token for node in other.nodes]
            assert [n.source for n in step.nodes] == [n.source for n in other.nodes]
            assert (step.seconds, step.seconds_verify) == (other.seconds, other.seconds_verify)
            for token, again in zip(step.emitted, other.emitted, strict=True):
                assert (token.id, token.kind, token.rank) == (again.id, again.kind, again.rank)
                assert token.top_ids == again.top_ids
                assert again.prob == pytest.approx(token.prob, rel=1e-6)
        readings = read_rows(tiny_llama, one)
        assert readings is not None
        assert two.readings is not None
        assert two.readings.n_left_out == readings.n_left_out
        for column in ("layers", "position", "kind", "node", "norm", "top_ids"):
            np.testing.assert_array_equal(
                getattr(two.readings, column), getattr(readings, column), err_msg=column
            )


def test_an_identity_differs_where_anything_that_decides_does(tiny_llama: Model, run: Run) -> None:
    engine = make_engine(tiny_llama, "plain", layout="plain")
    identity = identity_of(engine, RULES)
    assert differing(run, engine, identity) == [], "nothing there, nothing differs"
    save_generations(run, engine, engine.generate("ab", stopping=RULES), identity=identity)
    assert differing(run, engine, identity) == []
    seeded = make_engine(tiny_llama, "plain", layout="plain", seed=1)
    assert differing(run, seeded, identity_of(seeded, RULES)) == ["options"]
    longer = replace(RULES, max_new_tokens=6, stop=("x",))
    assert differing(run, engine, identity_of(engine, longer)) == ["stopping"]
    changed = make_engine(other_weights(), "plain", layout="plain")
    assert differing(run, changed, identity_of(changed, RULES)) == ["weights"]
    assert kept_generations(run, changed, identity_of(changed, RULES)) == []


def test_a_drafts_weights_decide_too(tiny_llama: Model) -> None:
    other = other_weights()
    engine = make_engine(tiny_llama, "draft-chain", draft=other, layout="plain")
    assert identity_of(engine, RULES)["weights"] == [
        tiny_llama.weights_digest, other.weights_digest
    ]  # fmt: skip
    assert tiny_llama.weights_digest != other.weights_digest
