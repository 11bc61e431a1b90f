"""Encoder-decoder targets against transformers' own generate; block writers and generalised Aggressive
Decoding."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from fluoroscope.decoding import (
    Beliefs,
    DraftTree,
    RollBackError,
    Sampler,
    SamplingOptions,
    generate,
    make_engine,
)
from fluoroscope.decoding.drafters.gad import TopBeta
from fluoroscope.decoding.errors import DraftError
from fluoroscope.decoding.seq2seq import (
    BlockWriter,
    BlockWriterOptions,
    Numerals,
    TeachOptions,
    open_block_writer,
    open_seq2seq,
    save_block_writer,
    teach_block_writer,
    teach_target,
)
from fluoroscope.decoding.seq2seq.nar import MASK, PAD
from fluoroscope.decoding.seq2seq.numerals import in_words
from fluoroscope.decoding.seq2seq.teach import HIDDEN, cut_pairs, reveal
from fluoroscope.probes import Model
from fluoroscope.probes.errors import OptionError, UnsupportedArchitectureError
from tests.conftest import ids
from tests.families import tiny_module

TASK = Numerals(3)
SMALL = BlockWriterOptions(d_model=32, n_heads=2, d_mlp=32, n_encoder=1, n_decoder=1)


def tiny(family: str = "bart", *, d_vocab: int = TASK.d_vocab, decoder_layers: int = 2) -> Model:
    """Random weights."""
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "bart":
            module = BartForConditionalGeneration(BartConfig(
                vocab_size=d_vocab, d_model=32, encoder_layers=1, decoder_layers=decoder_layers,
                encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=48,
                decoder_ffn_dim=48, max_position_embeddings=128, dropout=0.0, attention_dropout=0.0,
                forced_eos_token_id=None, **ends,
            ))  # fmt: skip
        else:
            module = T5ForConditionalGeneration(T5Config(
                vocab_size=d_vocab, d_model=32, d_kv=16, d_ff=48, num_layers=1,
                num_decoder_layers=decoder_layers, num_heads=2, dropout_rate=0.0, **ends,
            ))  # fmt: skip
        for weight in module.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
    return open_seq2seq(module.double().eval(), name=f"tiny {family}")


def own(model: Model, source: torch.Tensor, n: int, **options) -> list[int]:
    made = model.module.inner.generate(
        source[None], max_new_tokens=n, num_beams=1, eos_token_id=None, pad_token_id=0, **options
    )
    return made[0, 1:].tolist()


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("engine", ["plain", "prompt-lookup", "aggressive", "gad", "pearl"])
def test_greedy_equals_generate_of_the_encoder_decoder(engine: str, family: str) -> None:
    """Float64; in BART the decoder has more layers than the encoder (T5's own `generate` fails then).
    Drafts: a copy of the source, an untaught writer's, and those of a model of other weights."""
    model = tiny(family, decoder_layers=3 if family == "bart" else 1)
    source = torch.tensor([5, 9, 7, 5, 9, 11, 8, 2])
    options: dict[str, object] = {} if engine == "plain" else {"thrifty": False}
    if engine == "gad":
        options["writer"] = BlockWriter(TASK.d_vocab, SMALL).eval()
    if engine == "pearl":
        options |= {"draft": tiny(family, decoder_layers=1), "where": "inline", "window": 3}
    made = generate(model, source, engine=engine, max_new_tokens=20, ignore_eos=True, **options)[0]
    assert list(made.token_ids) == own(model, source, 20, do_sample=False)
    assert made.stats.n_faults == 0
    again = generate(model, source, engine=engine, max_new_tokens=20, ignore_eos=True, **options)[0]
    assert again.token_ids == made.token_ids


def test_sampling_with_a_seed_equals_generate_with_it(seed: int) -> None:
    model, source = tiny(), torch.tensor([5, 9, 7, 2])
    options: dict[str, object] = {"writer": BlockWriter(TASK.d_vocab, SMALL).eval()}
    made = generate(
        model, source, engine="gad", max_new_tokens=12, ignore_eos=True, temperature=0.9, seed=seed,
        thrifty=False, **options,
    )[0]  # fmt: skip
    torch.manual_seed(seed)
    assert list(made.token_ids) == own(model, source, 12, do_sample=True, temperature=0.9, top_k=0)


def test_what_encoder_decoders_cannot_do_is_said() -> None:
    model = tiny()
    with pytest.raises(RollBackError, match="reads single continuations only"):
        generate(model, torch.tensor([5, 2]), engine="token-recycling")
    with pytest.raises(UnsupportedArchitectureError, match="must be an encoder-decoder"):
        open_seq2seq(tiny_module("llama"))
    assert "encoder-decoder" not in repr(generate(model, torch.tensor([5, 2]), max_new_tokens=2))


def test_a_source_copied_whole_takes_one_pass_per_block(monkeypatch) -> None:
    """A target that repeats its source: input-guided drafts of the whole rest are accepted whole."""
    from fluoroscope.decoding.drafters.aggressive import SourceDrafter

    model = tiny()
    source = torch.tensor([5, 9, 7, 6, 11, 8, 12, 2])
    text = own(model, source, 20, do_sample=False)
    monkeypatch.setattr(
        SourceDrafter, "propose",
        lambda self, said, budget: DraftTree.chain(
            text[len(said) - len(source) : len(said) - len(source) + budget]
        ),
    )  # fmt: skip
    made = generate(model, source, engine="aggressive", max_new_tokens=20, ignore_eos=True,
                    thrifty=False)[0]  # fmt: skip
    assert list(made.token_ids) == text
    assert made.stats.n_forward == 2


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(st.integers(0, 99_999))
def test_numbers_read_back_from_their_words(number: int) -> None:
    values = {word: n for n, word in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
         "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
         "nineteen"]
    )} | {w: 10 * n for n, w in enumerate(
        ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], start=2
    )}  # fmt: skip
    total = part = 0
    for word in in_words(number).split():
        if word == "hundred":
            part *= 100
        elif word == "thousand":
            total, part = part * 1000, 0
        elif word != "and":
            part += values[word]
    assert total + part == number
    assert TASK.decode(TASK.encode(in_words(number))) == in_words(number)


def test_cuts_leave_something_to_teach_and_what_is_shown_is_a_share_of_the_wrong() -> None:
    outputs = [[3, 4, 5, 6, 2], [7, 2], [8]]
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        given, labels = cut_pairs(outputs, 3, draw)
        for row, label, output in zip(given.tolist(), labels.tolist(), outputs, strict=True):
            cut = row.index(MASK)
            assert row[:cut] == output[:cut]
            assert row[cut : cut + 3] == [MASK] * 3
            assert set(row[cut + 3 :]) <= {PAD}
            taught = [token for token in label if token != HIDDEN]
            assert taught == output[cut : cut + 3]
            assert taught
        shown = reveal(labels, torch.zeros_like(labels), 0.5, draw)
        n_masked = (labels != HIDDEN).sum(1)
        assert shown.sum(1).tolist() == (n_masked * 0.5).long().tolist()
        assert not (shown & (labels == HIDDEN)).any()
        assert not reveal(labels, labels, 1.0, draw).any(), "nothing was wrong"


def test_a_writer_sees_every_mask_and_no_padding() -> None:
    torch.manual_seed(0)
    writer = BlockWriter(20, SMALL).eval()
    memory = writer.encode(torch.tensor([[3, 4, 2, PAD, PAD]]))
    short = writer.encode(torch.tensor([[3, 4, 2]]))
    with torch.no_grad():
        one = writer(memory, torch.tensor([[5, MASK, MASK, PAD]]))[0, :3]
        other = writer(short, torch.tensor([[5, MASK, MASK]]))[0]
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        changed = writer(short, torch.tensor([[5, MASK, 9]]))[0, 1]
        assert (changed - other[1]).abs().max() > 1e-4, "not causal"
    tokens, trust = writer.write(short, [5], 6)
    again, surer = writer.write(short, [5], 6, rounds=3)
    assert len(tokens) == len(again) == len(trust) == len(surer) == 6
    assert MASK not in again
    assert writer.write(short, [5] * 127, 6)[0] == writer.write(short, [5] * 127, 1)[0]
    assert writer.write(short, [5] * 128, 6) == ([], [])


def test_tolerance_accepts_more_with_beta_and_tau_and_one_is_greedy() -> None:
    logits = torch.tensor([[2.0, 1.5, 0.9, -1.0]]).repeat(3, 1)
    sampler = Sampler(SamplingOptions(), torch.device("cpu"))
    tree = DraftTree.chain([2, 1])
    beliefs = Beliefs(logits, tree, [0], sampler)

    def accepted(beta: int, tau: float) -> int:
        path, token = TopBeta(beta, tau).verify(tree, beliefs)
        assert token == 0, "corrections are the target's likeliest"
        return len(path)

    assert [accepted(1, 9.0), accepted(3, 0.0), accepted(2, 9.0), accepted(3, 1.0)] == [0, 0, 0, 0]
    assert accepted(3, 1.2) == 2
    grid = [[accepted(beta, tau) for tau in (0.0, 0.6, 1.2, 5.0)] for beta in (1, 2, 3, 4)]
    assert all(list(row) == sorted(row) for row in grid)
    assert all(list(column) == sorted(column) for column in zip(*grid, strict=True))


def test_an_engine_says_what_its_options_make_of_its_promise() -> None:
    model, writer = tiny(), BlockWriter(TASK.d_vocab, SMALL)
    for options, kept in (({}, True), ({"beta": 3}, True), ({"beta": 3, "tau": 1.0}, False)):
        assert make_engine(model, "gad", writer=writer, **options).lossless == kept
    assert make_engine(model, "plain").lossless


def test_writers_are_kept_and_refuse_strangers(tmp_path) -> None:
    model, file = tiny(), tmp_path / "w.safetensors"
    writer = BlockWriter(TASK.d_vocab, SMALL).eval()
    save_block_writer(writer, file, model)
    opened = open_block_writer(model, file)
    memory = writer.encode(torch.tensor([[3, 2]]))
    assert opened.write(opened.encode(torch.tensor([[3, 2]])), [], 5) == writer.write(memory, [], 5)
    source = torch.tensor([5, 9, 2])
    made = generate(model, source, engine="gad", writer=str(file), max_new_tokens=8)[0]
    assert made.token_ids == generate(model, source, max_new_tokens=8)[0].token_ids
    with pytest.raises(DraftError, match="other weights"):
        open_block_writer(tiny("t5"), file)
    with pytest.raises(DraftError, match="No block writer at none"):
        open_block_writer(model, tmp_path / "none.safetensors")
    with pytest.raises(DraftError, match="needs a block writer"):
        generate(model, source, engine="gad")
    with pytest.raises(DraftError, match="has 9 tokens and the target"):
        generate(model, source, engine="gad", writer=BlockWriter(9, SMALL))
    for bad in ({"beta": 0}, {"tau": -1.0}, {"beta": 3, "tau": 1.0, "temperature": 1.0}):
        with pytest.raises(OptionError, match=next(iter(bad))):
            generate(model, source, engine="gad", writer=writer, **bad)
    with pytest.raises(OptionError, match="encoder-decoder model"):
        teach_block_writer(tiny_llama_model(), [[1]])
    with pytest.raises(OptionError, match="multiple of n_heads"):
        BlockWriterOptions(d_model=10, n_heads=4)


def tiny_llama_model() -> Model:
    from fluoroscope.probes import wrap_model

    return wrap_model(tiny_module("llama"))


def test_a_source_too_long_for_the_writer_is_decoded_plainly(tiny_llama) -> None:
    shape = BlockWriterOptions(d_model=16, n_heads=2, n_encoder=1, n_decoder=1, max_positions=6)
    writer = BlockWriter(260, shape).eval()
    made = generate(tiny_llama, ids(1)[0], engine="gad", writer=writer, max_new_tokens=5)[0]
    assert made.stats.n_drafted == made.stats.n_faults == 0


@pytest.mark.slow
def test_a_taught_writer_saves_passes_and_changes_nothing() -> None:
    """Two small models, a few minutes: number words to digits, checked against the truth."""
    task = Numerals(3)
    module = tiny(d_vocab=task.d_vocab).module.inner.float()
    for weight in module.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.05)
    pairs = task.pairs(3000, seed=0)
    teach_target(module, pairs, options=TeachOptions(steps=500))
    model = open_seq2seq(module)
    writer = teach_block_writer(
        model, [source for source, _ in pairs[:1500]], options=TeachOptions(steps=500)
    )
    right = n_plain = n_gad = n_lossy = 0
    for source, output in task.pairs(30, seed=1):
        prompt = torch.tensor(source)
        plain = generate(model, prompt, max_new_tokens=40)[0]
        gad = generate(
            model, prompt, engine="gad", writer=writer, thrifty=False, max_new_tokens=40
        )[0]
        assert gad.token_ids == plain.token_ids
        lossy = generate(model, prompt, engine="gad", writer=writer, thrifty=False, beta=5, tau=3.0,
                         max_new_tokens=40)[0]  # fmt: skip
        right += list(plain.token_ids) == output
        n_plain, n_gad = n_plain + plain.stats.n_forward, n_gad + gad.stats.n_forward
        n_lossy += lossy.stats.n_forward
    assert right >= 10
    assert n_gad < 0.7 * n_plain
    assert n_lossy <= n_gad
