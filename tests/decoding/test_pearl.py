"""PEARL: the schedule against plain decoding and closed forms, its processes against every death."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fluoroscope.decoding import Pearl, Sampler, Stopping, generate, make_engine
from fluoroscope.decoding.ahead import InlineAhead, ProcessAhead, ThreadAhead
from fluoroscope.decoding.drafters.draft_model import DraftModel
from fluoroscope.decoding.errors import DraftError
from fluoroscope.decoding.pearl import PearlState, explain, tokens_per_pass
from fluoroscope.decoding.sampling import SamplingOptions
from fluoroscope.probes import Model, wrap_model
from fluoroscope.probes.errors import OptionError
from tests.conftest import ids
from tests.families import tiny_module

PROMPT = ids(1)[0]


def double(seed: int) -> Model:
    return wrap_model(tiny_module("llama", seed=seed).double(), name=f"seed {seed}")


def near(target: Model, distance: float) -> Model:
    """A draft that mostly agrees with its target: its weights, a little displaced."""
    module = tiny_module("llama", seed=0).double()
    generator = torch.Generator().manual_seed(1)
    for weight, theirs in zip(module.parameters(), target.module.parameters(), strict=True):
        noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        weight.data = theirs.data + distance * noise
    return wrap_model(module, name="near")


def constant(probs: list[float]) -> Model:
    """A model that gives the same distribution after every text."""
    special = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    module = tiny_module(
        "llama", vocab_size=len(probs), num_hidden_layers=1, max_position_embeddings=20_000,
        tie_word_embeddings=False, **special,
    )  # fmt: skip
    body = module.model
    for part in body.layers:
        part.self_attn.o_proj.weight.data.zero_()
        part.mlp.down_proj.weight.data.zero_()
    body.embed_tokens.weight.data.fill_(1.0)
    body.norm.weight.data.fill_(1.0)
    module.lm_head.weight.data.copy_((torch.tensor(probs).log() / 32)[:, None].expand(-1, 32))
    return wrap_model(module, name="constant", check=False)


@pytest.fixture
def engine() -> Iterator[Pearl]:
    """Two processes; the draft mostly agrees."""
    target = double(0)
    made = make_engine(target, "pearl", draft=near(target, 2e-3), window=3, where="process")
    assert isinstance(made, Pearl)
    yield made
    made.close()


@cache
def plain_text() -> tuple[int, ...]:
    return generate(double(0), PROMPT, max_new_tokens=24, ignore_eos=True)[0].token_ids


@pytest.mark.parametrize("distance", [0.0, 4e-3, 1.0])
def test_greedy_is_plain_decoding_for_every_window(distance: float) -> None:
    """Float64; a draft that is its target, one that often agrees, and one that never does. Texts end in
    the middle of a window for most lengths."""
    target = double(0)
    draft = near(target, distance)
    for window in range(1, 9):
        made = make_engine(target, "pearl", draft=draft, window=window, where="inline")
        assert isinstance(made, Pearl)
        for length in (2, 15):
            rules = Stopping(max_new_tokens=length, ignore_eos=True)
            got = made.generate(PROMPT, stopping=rules)[0]
            assert got.token_ids == plain_text()[:length]
            assert got.stats.n_faults == 0
        if distance == 0:
            assert all(r.n_wasted == 0 for r in made.rounds)
            assert got.stats.n_forward <= 2 + 1 + -(-13 // window) + 1


def test_the_cache_after_every_round_is_that_of_the_text() -> None:
    target = double(0)
    made = make_engine(target, "pearl", draft=near(target, 4e-3), window=4, where="inline")
    with torch.inference_mode():
        made.prepare()
        state = made.begin(PROMPT)
        text = PROMPT.tolist()
        for _ in range(12):
            text += [token.id for token in state.step(60).emitted]
            assert state.target.ids == text[:-1]
        fresh = target(torch.tensor([text])).logits[0, -1]
        torch.testing.assert_close(state.target.extend(text[-1:])[-1], fresh)


def long_text(where: str, *, n: int, seed: int = 0) -> np.ndarray:
    """One sampled text of two constant models that differ."""
    made = make_engine(
        constant(LAW), "pearl", draft=constant(DRAFT_LAW), temperature=1.0, window=3, where=where,
        seed=seed,
    )  # fmt: skip
    assert isinstance(made, Pearl)
    text = made.generate(torch.tensor([0]), stopping=Stopping(max_new_tokens=n, ignore_eos=True))
    made.close()
    return np.array(text[0].token_ids)


LAW, DRAFT_LAW = [0.5, 0.4, 0.1], [0.85, 0.1, 0.05]


def p_of(text: np.ndarray, length: int) -> float:
    """Chi-square of the text cut into pieces of a length, against independent tokens."""
    pieces = text[: len(text) // length * length].reshape(-1, length)
    codes = (pieces * 3 ** np.arange(length)).sum(1)
    expected = np.array(LAW)
    for _ in range(length - 1):
        expected = np.outer(LAW, expected).ravel()
    counts = np.bincount(codes, minlength=3**length)
    wanted = expected * len(pieces)
    rare = wanted < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    wanted = np.append(wanted[~rare], wanted[rare].sum())
    return float(chisquare(counts[wanted > 0], wanted[wanted > 0]).pvalue)


@pytest.mark.slow
def test_sampled_pairs_and_triples_have_the_targets_law() -> None:
    """4,500 tokens; a false alarm has probability 1e-5 for each of the two."""
    text = long_text("inline", n=4500)
    assert p_of(text, 2) > 1e-5
    assert p_of(text, 3) > 1e-5


@pytest.mark.slow
def test_reusing_the_uniform_of_the_round_before_is_found_biased(monkeypatch) -> None:
    """The control: the published code's draws. Pairs fail the test above (here p is 1.3e-6)."""
    draw, decide = Sampler.uniform, PearlState._decide
    seen = {"last": 0.5, "reuse": False, "opened": False}

    def uniform(self: Sampler) -> float:
        if not seen["reuse"]:
            seen["last"] = draw(self)
        seen["reuse"] = False
        return float(seen["last"])

    def decided(self: PearlState, tree, beliefs, *, n_read: int):
        seen["reuse"] = bool(n_read and seen["opened"])
        seen["opened"] = n_read == 0
        return decide(self, tree, beliefs, n_read=n_read)

    monkeypatch.setattr(Sampler, "uniform", uniform)
    monkeypatch.setattr(PearlState, "_decide", decided)
    assert p_of(long_text("inline", n=4500), 2) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("window", [2, 5])
def test_tokens_per_pass_are_those_of_the_closed_form(window: int) -> None:
    """Acceptance is 1 - TV = 0.8 at every position; 1,500 tokens, five standard errors (1e-6)."""
    p, q = [0.5, 0.3, 0.15, 0.05], [0.4, 0.4, 0.05, 0.15]
    alpha = sum(map(min, p, q))
    made = make_engine(
        constant(p), "pearl", draft=constant(q), temperature=1.0, window=window, where="inline"
    )
    text = made.generate(
        torch.tensor([0]), stopping=Stopping(max_new_tokens=1500, ignore_eos=True)
    )[0]
    emitted = np.array([len(step.emitted) for step in text.trace.steps[1:]])
    # A run between two rejections is a renewal: standard error from its ratio estimator.
    expected = tokens_per_pass(alpha, window)
    ends = [i + 1 for i, r in enumerate(made.rounds) if r.n_wasted]  # type: ignore[attr-defined]
    runs = np.split(emitted, ends)[:-1]
    gaps = np.array([run.sum() - expected * len(run) for run in runs])
    passes = sum(len(run) for run in runs)
    got = sum(run.sum() for run in runs) / passes
    assert abs(got - expected) < 5 * gaps.std() * len(runs) ** 0.5 / passes
    assert tokens_per_pass(1.0, 6) == 6
    assert [round(tokens_per_pass(0.8, n), 2) for n in (2, 5, 8)] == [1.55, 2.28, 2.55]


@pytest.mark.parametrize("where", ["process", "thread"])
def test_the_same_text_wherever_the_draft_runs(where: str) -> None:
    """Sampled too: the draft's draws are its own, whatever the clock says."""
    inline = long_text("inline", n=40, seed=3)
    assert long_text(where, n=40, seed=3).tolist() == inline.tolist()


def test_two_processes_give_plain_decodings_text_again_and_again(engine: Pearl) -> None:
    rules = Stopping(max_new_tokens=30, ignore_eos=True)
    want = generate(engine.model, PROMPT, max_new_tokens=30, ignore_eos=True)[0].token_ids
    first = engine.generate(PROMPT, stopping=rules)[0]
    ahead = engine._ahead
    assert isinstance(ahead, ProcessAhead)
    assert ahead.pid != os.getpid()
    stream = iter_text(engine, rules)
    assert next(stream) == want[0]
    next(stream)
    stream.close()
    again = engine.generate(PROMPT, stopping=rules)[0]
    assert first.token_ids == again.token_ids == want
    assert again.stats.n_faults == 0
    assert engine._ahead is ahead, "one process serves all texts"
    assert {r.mode for r in engine.rounds} == {"pre-verify", "post-verify"}
    assert all(r.seconds_draft > 0 for r in engine.rounds if r.n_written)
    assert sum(r.n_read - 1 for r in engine.rounds) == again.stats.n_drafted
    assert "PEARL" in engine.explain()


def iter_text(engine: Pearl, rules: Stopping):
    """Token ids, one after the other, of the prompt of these tests."""
    with torch.inference_mode():
        engine.prepare()
        state = engine.begin(PROMPT)
        try:
            while True:
                for token in state.step(30).emitted:
                    yield token.id
        finally:
            state.end()


def test_a_killed_draft_costs_speed_and_nothing_else(engine: Pearl, caplog) -> None:
    """kill -9 in the middle of a text; the next text has a new process."""
    rules = Stopping(max_new_tokens=24, ignore_eos=True)
    want = generate(engine.model, PROMPT, max_new_tokens=24, ignore_eos=True)[0].token_ids
    stream = iter_text(engine, rules)
    got = [next(stream) for _ in range(5)]
    ahead = engine._ahead
    assert isinstance(ahead, ProcessAhead)
    assert ahead.pid is not None
    os.kill(ahead.pid, signal.SIGKILL)
    got += [next(stream) for _ in range(19)]
    assert tuple(got) == want
    assert "goes on without its draft" in caplog.text
    assert "is gone" in caplog.text
    assert ahead.closed
    made = engine.generate(PROMPT, stopping=rules)[0]
    assert made.token_ids == want
    assert made.stats.n_faults == 0
    assert engine._ahead is not ahead


def test_an_interrupt_ends_the_draft_and_the_engine_goes_on(engine: Pearl, monkeypatch) -> None:
    rules = Stopping(max_new_tokens=12, ignore_eos=True)
    want = engine.generate(PROMPT, stopping=rules)[0]
    ahead = engine._ahead
    assert isinstance(ahead, ProcessAhead)
    pid = ahead.pid

    def interrupted(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(ahead, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, stopping=rules)
    assert ahead.closed
    assert not alive(pid)
    assert engine.generate(PROMPT, stopping=rules)[0].token_ids == want.token_ids


def alive(pid: int | None) -> bool:
    """Whether a process runs; a dead one that nobody has waited for does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone_within(pid: int, seconds: float) -> bool:
    stop = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() > stop:
            return False
        time.sleep(0.05)
    return True


SCRIPT = """
import sys
import torch
from fluoroscope.decoding import Stopping, make_engine
from fluoroscope.probes import wrap_model
from tests.families import tiny_module

if __name__ == "__main__":
    target = wrap_model(tiny_module("llama", max_position_embeddings=100000))
    engine = make_engine(target, "pearl", draft=target, window=2, where="process")
    engine._start()
    print(engine._ahead.pid, flush=True)
    {then}
"""
FOREVER = (
    "engine.generate(torch.tensor([1, 2]), "
    "stopping=Stopping(max_new_tokens=99000, ignore_eos=True))"
)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("then", "sent", "code"),
    [
        (FOREVER, signal.SIGKILL, -signal.SIGKILL),
        pytest.param(FOREVER, signal.SIGINT, -signal.SIGINT, marks=pytest.mark.slow),
        pytest.param(FOREVER, signal.SIGTERM, -signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("raise SystemExit(7)", None, 7, marks=pytest.mark.slow),
    ],
    ids=["killed", "interrupted", "terminated", "ended"],
)
def test_the_drafts_process_ends_with_its_asker(tmp_path, then: str, sent, code: int) -> None:
    """However that ends: killed, interrupted from the terminal (both get the signal), by an error."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.replace("{then}", then)))
    root = Path(__file__).parents[2]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    asker = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PYTHONPATH": paths}, start_new_session=True,
    )  # fmt: skip
    assert asker.stdout is not None
    draft = int(asker.stdout.readline())
    if sent is not None:
        time.sleep(0.5)
        if sent == signal.SIGINT:
            os.killpg(asker.pid, sent)
        else:
            asker.send_signal(sent)
    assert asker.wait(60) in (code, 130 if sent == signal.SIGINT else code)
    asker.stdout.close()
    assert gone_within(draft, 20)


class Raising(DraftModel):
    """Fails in the middle of a window."""

    def grow(self, tokens, parents):
        raise RuntimeError("no more")


@pytest.mark.parametrize("kind", [InlineAhead, ThreadAhead])
def test_drafts_that_fail_are_passed_over(kind, monkeypatch, caplog) -> None:
    target = double(0)
    made = make_engine(target, "pearl", draft=double(7), window=4)
    assert isinstance(made, Pearl)
    failing = Raising(double(7), SamplingOptions())
    monkeypatch.setattr(made, "_make_ahead", lambda: kind(failing, 8))
    got = made.generate(PROMPT, stopping=Stopping(max_new_tokens=10, ignore_eos=True))[0]
    want = generate(target, PROMPT, max_new_tokens=10, ignore_eos=True)[0]
    assert got.token_ids == want.token_ids
    assert got.stats.n_faults == 1
    assert "no more" in caplog.text


@pytest.mark.parametrize("spoiled", [float("nan"), float("inf")])
def test_drafts_of_no_numbers_are_passed_over(spoiled: float, caplog) -> None:
    target, draft = double(0), double(7)
    draft.module.lm_head.weight.data[3] = spoiled
    for temperature in (0.0, 1.0):
        got = generate(
            target, PROMPT, engine="pearl", draft=draft, where="inline", window=3,
            temperature=temperature, max_new_tokens=8, ignore_eos=True,
        )[0]  # fmt: skip
        assert len(got.token_ids) == 8
        assert got.stats.n_faults >= 1
    assert "goes on without its draft" in caplog.text


def test_a_draft_that_cannot_start_leaves_plain_decoding(monkeypatch, caplog, tiny_llama) -> None:
    made = make_engine(tiny_llama, "pearl", draft=tiny_llama, window=2)
    assert isinstance(made, Pearl)

    def refuse():
        raise DraftError("no room")

    monkeypatch.setattr(made, "_make_ahead", refuse)
    got = made.generate(PROMPT, stopping=Stopping(max_new_tokens=6, ignore_eos=True))[0]
    want = generate(tiny_llama, PROMPT, max_new_tokens=6, ignore_eos=True)[0]
    assert got.token_ids == want.token_ids
    assert "no room" in caplog.text


def test_the_window_balances_both_costs_and_options_are_checked(tiny_llama, monkeypatch) -> None:
    from fluoroscope.decoding import CostCurve

    draft = wrap_model(tiny_module("llama", seed=7))
    made = make_engine(tiny_llama, "pearl", draft=draft, max_draft=6)
    assert isinstance(made, Pearl)
    curves = {id(tiny_llama): CostCurve((1, 9), (4.0, 4.8)), id(draft): CostCurve((1,), (1.0,))}
    monkeypatch.setattr(made, "cost_curve", lambda model: curves[id(model)])
    assert made.window == 4
    curves[id(draft)] = CostCurve((1,), (3.0,))
    assert made.window == 1
    curves[id(draft)] = CostCurve((1,), (0.1,))
    assert made.window == 6
    made.options = replace(made.options, window=5)
    assert made.window == 5
    with pytest.raises(OptionError, match="Nothing was drafted yet"):
        made.explain()
    for bad in ({"window": 9}, {"draft_threads": 0}):
        with pytest.raises(OptionError, match=next(iter(bad))):
            make_engine(tiny_llama, "pearl", **bad)
    with pytest.raises(OptionError, match="not exact for drafts of 'pearl'"):
        generate(tiny_llama, PROMPT, engine="pearl", draft=draft, where="inline", rule="k-sequence",
                 temperature=1.0)  # fmt: skip


def test_explanations_say_when_it_pays() -> None:
    """Alone: 2.28 tokens per round of 5 ms, against 3.69 per 10 ms in turn, and one per 5 ms."""
    good = explain(0.8, 5, 0.005, 0.005, 0.001)
    assert "PEARL pays here: 2.28 tokens per pass and 456" in good
    assert "200.0 for plain decoding and 368.9" in good
    assert "does not pay" in explain(0.2, 5, 0.005, 0.008, 0.001)


@pytest.mark.embedded
def test_the_embedded_model_and_its_student_in_two_processes(embedded) -> None:
    made = make_engine(embedded, "pearl", window=3, where="process")
    assert isinstance(made, Pearl)
    rules = Stopping(max_new_tokens=16, ignore_eos=True)
    got = made.generate("The capital of France is", stopping=rules)[0]
    made.close()
    plain = generate(embedded, "The capital of France is", max_new_tokens=16, ignore_eos=True)[0]
    assert got.token_ids == plain.token_ids
    assert got.stats.n_faults == 0


@pytest.mark.gpu
def test_on_a_gpu_the_draft_has_a_stream_of_its_own() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    target = wrap_model(tiny_module("llama").double().cuda())
    draft = wrap_model(tiny_module("llama", seed=7).double().cuda())
    want = generate(target, PROMPT, max_new_tokens=30, ignore_eos=True)[0]
    made = make_engine(target, "pearl", draft=draft, window=3)
    assert isinstance(made, Pearl)
    got = made.generate(PROMPT, stopping=Stopping(max_new_tokens=30, ignore_eos=True))[0]
    assert got.token_ids == want.token_ids
    assert isinstance(made._ahead, ThreadAhead)
    made.close()
