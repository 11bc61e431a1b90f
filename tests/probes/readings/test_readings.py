"""Readings: closed forms, planted phenomena, peers, and the embedded model's known facts."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from fluoroscope.probes import capture_corpus, from_texts, open_run, wrap_model
from fluoroscope.probes.errors import DamagedModelError, OptionError, RunMismatchError
from fluoroscope.probes.readings import (
    Texts,
    TunedLens,
    TunedLensOptions,
    ablation_story,
    attention_sinks,
    find_massive,
    layer_stats,
    linear_probe,
    logit_lens,
    next_token,
    texts_of,
    train_tuned_lens,
    translated_lens,
    varied_texts,
)
from fluoroscope.probes.readings.bootstrap import mean_with_interval
from fluoroscope.probes.readings.labels import CLASSES, line_start, token_class
from fluoroscope.probes.readings.linear_probe import control_labels, split_by_document
from fluoroscope.probes.readings.loss import token_scores
from fluoroscope.probes.readings.massive import massive_activations, neuron_contributions
from fluoroscope.probes.readings.sinks import (
    attention_entropy,
    importance,
    secondary_sinks,
    sink_rate,
)
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


def some_texts(n: int = 4, length: int = 24) -> Texts:
    generator = np.random.default_rng(0)
    ids = tuple(generator.integers(0, 256, length) for _ in range(n))
    return Texts(ids, tuple(f"d{number}" for number in range(n)))


def test_scores_equal_torchs_cross_entropy() -> None:
    logits, targets = torch.randn(9, 40), torch.randint(0, 40, (9,))
    loss, entropy, rank = token_scores(logits, targets)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, targets, reduction="none"))
    own = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(entropy, own)
    assert rank.tolist() == [
        int((row > row[target]).sum()) for row, target in zip(logits, targets, strict=True)
    ]
    _, flat, _ = token_scores(torch.zeros(1, 8), torch.tensor([3]))
    assert flat.item() == pytest.approx(np.log(8))


def test_loss_over_texts_is_the_mean_over_tokens(tiny_llama) -> None:
    texts = some_texts()
    found = next_token(tiny_llama, texts)
    with torch.no_grad():
        losses = [
            functional.cross_entropy(tiny_llama(t[None]).logits[0, :-1], t[1:], reduction="none")
            for t in map(torch.from_numpy, texts.ids)
        ]
    assert found.loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)
    assert found.loss_low <= found.loss <= found.loss_high
    np.testing.assert_allclose(found.loss_by_position, torch.stack(losses).mean(0), rtol=1e-4)
    assert found.n_tokens == 4 * 23


def test_intervals_cover_at_their_level() -> None:
    """95 % intervals over 200 samples of 40 documents: 88 to 99 % must cover (false alarm < 1e-4)."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        counts = generator.integers(5, 30, 40)
        sums = counts * generator.normal(1.0, 0.5, 40)
        _, low, high = mean_with_interval(sums[:, None], counts)
        covered += bool(low[0] <= 1.0 <= high[0])
    assert 0.88 <= covered / 200 <= 0.99
    assert np.isnan(mean_with_interval(np.ones((1, 1)), np.array([1]))[1]).all()


def test_sink_measures_have_their_closed_forms() -> None:
    uniform = torch.ones(64, 64).tril() / torch.arange(1, 65)[:, None]
    first = torch.zeros(64, 64)
    first[:, 0] = 1
    diagonal = torch.eye(64)
    harmonic = sum(1 / k for k in range(1, 65)) / 64
    assert importance(uniform)[0].item() == pytest.approx(harmonic, rel=1e-5)
    assert harmonic == pytest.approx(0.074, abs=5e-4)
    heads = torch.stack([uniform, first])[None]
    assert sink_rate(importance(heads))[0] == 0.5
    assert sink_rate(importance(first[None]))[0] == 1
    assert (sink_rate(importance(first[None]))[1:] == 0).all()
    late = sink_rate(importance(diagonal[None]))
    assert late[-1] == 1, "the edge: late keys have few queries"
    assert secondary_sinks(late.numpy()) == [0], "so they are left out"
    assert attention_entropy(uniform)[9].item() == pytest.approx(np.log(10), rel=1e-5)
    assert attention_entropy(first).abs().max() == 0


def test_sinks_do_not_depend_on_the_batch_split(tiny_llama) -> None:
    texts = some_texts(6, 16)
    whole = attention_sinks(tiny_llama, texts)
    halves = [
        attention_sinks(tiny_llama, Texts(texts.ids[a:b], texts.names[a:b]))
        for a, b in ((0, 3), (3, 6))
    ]
    np.testing.assert_allclose(whole.mass, (halves[0].mass + halves[1].mass) / 2, rtol=1e-5)
    np.testing.assert_allclose(
        whole.sink_rate, (halves[0].sink_rate + halves[1].sink_rate) / 2, atol=1e-9
    )
    assert "beside sdpa" in whole.source
    with pytest.raises(OptionError, match="one length"):
        attention_sinks(tiny_llama, Texts((texts.ids[0], texts.ids[1][:5]), ("a", "b")))


def test_norms_of_keys_and_values_are_those_of_the_projections(tiny_llama) -> None:
    """Rotary embedding turns keys and leaves their norms; two key-value heads of 8."""
    texts = some_texts(5, 16)
    found = attention_sinks(tiny_llama, texts)
    assert found.sinks is not None
    assert found.sinks[0] == 0
    seen: dict[str, list[torch.Tensor]] = {"k_proj": [], "v_proj": []}
    attention = tiny_llama.module.model.layers[2].self_attn
    hooks = [
        getattr(attention, name).register_forward_hook(
            lambda m, a, out, name=name: seen[name].append(out)
        )
        for name in seen
    ]
    with torch.no_grad():
        for ids in texts.ids:
            tiny_llama(torch.as_tensor(ids)[None])
    for hook in hooks:
        hook.remove()
    for name, norms in (("k_proj", found.key_norm), ("v_proj", found.value_norm)):
        heads = torch.cat(seen[name]).unflatten(-1, (2, 8)).double()
        expected = heads.norm(dim=-1).mean((0, 2)).numpy()
        assert norms is not None
        assert norms.shape == (3, 16)
        np.testing.assert_allclose(norms[2], expected, rtol=1e-4)


def test_learned_sinks_take_attention_away() -> None:
    found = attention_sinks(wrap_model(tiny_module("gpt_oss")), some_texts(3, 16))
    assert (found.virtual > 0).all()


def test_noise_has_no_massive_activation_and_a_planted_one_is_found() -> None:
    noise = torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert massive_activations(noise) == []
    noise[7, 30], noise[9, 2] = -2500.0, 900.0
    found = massive_activations(noise)
    assert [(p, c) for p, c, _ in found] == [(7, 30), (9, 2)]
    assert found[0][2] == -2500.0
    assert massive_activations(noise / 100) == [], "the absolute test is not scale-free"
    assert len(massive_activations(noise / 100, absolute=None)) == 2, "the ratio test is"


def test_a_planted_writer_is_found_and_its_ablation_told(tiny_llama) -> None:
    """One neuron of layer 1 is made to write dimension 5 at every token."""
    mlp = tiny_llama.module.model.layers[1].mlp
    with torch.no_grad():
        mlp.gate_proj.weight[3] = mlp.gate_proj.weight[3] * 20
        mlp.down_proj.weight[:, 3] = 0
        mlp.down_proj.weight[5, 3] = 1e4
    texts = some_texts()
    found = find_massive(tiny_llama, texts, ratio=100)
    assert (found.writer_layer, found.writer_channel, found.writer_neurons[0]) == (1, 5, 3)
    assert found.writer_contributions[0] == pytest.approx(found.writer_mlp, rel=0.05)
    story = ablation_story(tiny_llama, texts, found)
    assert story is not None
    assert story.conditions[0] == "nothing"
    assert story.largest[1] < 0.05 * story.largest[0]
    assert story.largest[-1] == pytest.approx(story.largest[0], rel=0.05)


def test_neuron_contributions_sum_to_the_output() -> None:
    hidden, down = torch.randn(12), torch.randn(6, 12)
    total = neuron_contributions(hidden, down, 4).sum()
    torch.testing.assert_close(total, (down @ hidden)[4])


def test_norms_are_those_of_the_stream(tiny_llama) -> None:
    texts = some_texts()
    found = layer_stats(tiny_llama, texts)
    with torch.no_grad():
        states = tiny_llama.module(
            torch.from_numpy(np.stack(texts.ids)), output_hidden_states=True
        ).hidden_states[1][:, 1:]
    assert found.resid[0] == pytest.approx(states.norm(dim=-1).mean().item(), rel=1e-5)
    assert np.isfinite(found.attention).all()


def test_the_last_layers_lens_is_the_model_itself(tiny_llama) -> None:
    found = logit_lens(tiny_llama, some_texts())
    own = next_token(tiny_llama, some_texts())
    assert found.kl[-1] == pytest.approx(0, abs=1e-6)
    assert found.agreement[-1] == 1
    assert found.loss[-1] == pytest.approx(own.loss, rel=1e-5)
    assert found.kl[0] > 0
    assert found.example_top_ids.shape == (3, 24, 3)
    assert (found.example_rank[:, -1] == -1).all()


def test_an_untrained_tuned_lens_is_the_logit_lens_and_training_improves_it(
    tiny_llama, tmp_path
) -> None:
    texts = some_texts(8)
    plain = logit_lens(tiny_llama, texts)
    from fluoroscope.probes.readings.tuned_lens import unembedding_digest

    fresh = TunedLens(3, 32, unembedding_digest(tiny_llama))
    np.testing.assert_allclose(translated_lens(tiny_llama, texts, fresh).kl, plain.kl, rtol=1e-6)
    options = TunedLensOptions(n_steps=60, batch_tokens=48)
    trained = train_tuned_lens(tiny_llama, texts, options)
    better = translated_lens(tiny_llama, texts, trained)
    assert better.kl[0] < 0.8 * plain.kl[0]
    assert better.kl[-1] == pytest.approx(0, abs=1e-6)
    again = train_tuned_lens(tiny_llama, texts, options)
    assert torch.equal(again.matrices[0], trained.matrices[0]), "seeded"
    trained.save(tmp_path / "lens")
    loaded = TunedLens.load(tmp_path / "lens", tiny_llama)
    assert torch.equal(loaded.matrices[1], trained.matrices[1])
    with pytest.raises(RunMismatchError, match="was trained for an unembedding"):
        TunedLens.load(tmp_path / "lens", wrap_model(tiny_module("llama", seed=5)))
    (tmp_path / "lens" / "tuned_lens.safetensors").write_bytes(b"x")
    with pytest.raises(DamagedModelError, match="no readable tuned lens"):
        TunedLens.load(tmp_path / "lens", tiny_llama)
    with pytest.raises(OptionError, match="n_steps must be"):
        TunedLensOptions(n_steps=0)


def test_python_labels_stand_where_python_says() -> None:
    pieces = [
        b"def",
        b" f",
        b"(",
        b"x",
        b"):",
        b"\n",
        b"   ",
        b" return",
        b" 1",
        b"  #",
        b" no",
        b"\n",
    ]
    names = [CLASSES[label] for label in token_class(pieces)]
    assert names == [
        "keyword", "name", "operator", "name", "operator", "newline", "space", "keyword", "number",
        "comment", "comment", "newline",
    ]  # fmt: skip
    assert line_start(pieces).tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert len(token_class([b"'''never", b" closed"])) == 2


def test_splits_never_cut_a_document() -> None:
    documents = np.repeat(np.arange(20), 7)
    split = split_by_document(documents)
    parts = [set(documents[part]) for part in (split.train, split.choose, split.test)]
    assert not (parts[0] & parts[1])
    assert not (parts[0] & parts[2])
    assert not (parts[1] & parts[2])
    assert len(split.train) + len(split.choose) + len(split.test) == 140
    with pytest.raises(OptionError, match="at least 6 documents"):
        split_by_document(np.arange(4))


def test_control_labels_are_fixed_per_token() -> None:
    tokens, labels = np.array([5, 6, 5, 7, 6]), np.array([0, 1, 1, 1, 0])
    control = control_labels(tokens, labels)
    assert control[0] == control[2]
    assert control[1] == control[4]


def test_a_probe_reads_what_is_there(tmp_path) -> None:
    """The embedding of a byte tokenizer tells a newline exactly."""
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    texts = [f"x = {n}\nprint(x)\n" * 4 for n in range(12)]
    run = capture_corpus(model, from_texts(texts), ["embed"], tmp_path / "r.h5", context=96)
    found = linear_probe(run, "line-start", ["embed"])
    assert found.accuracy[0] == 1
    assert found.token_identity == 1
    assert found.majority < 1
    assert found.control[0] <= found.accuracy[0]
    with pytest.raises(OptionError, match="label must be one of"):
        linear_probe(run, "colour")
    run.add_result("linear_probe", found)
    assert open_run(tmp_path / "r.h5").results == ("linear_probe",)


@pytest.mark.embedded
def test_the_embedded_models_story(embedded, tmp_path) -> None:
    """Layer 11 writes dimension 507 at the first token through neurons 1229 and 1487; without both
    the sinks go and about a nat is lost, without 192 random others nothing is."""
    import inspect
    import json

    text = inspect.getsource(json.decoder)
    ids = embedded.encode(text)[:200].numpy()
    texts = Texts((ids,), ("json/decoder.py",))
    massive = find_massive(embedded, texts)
    assert (massive.writer_layer, massive.writer_channel) == (11, 507)
    assert massive.writer_neurons[:2].tolist() == [1229, 1487]
    assert massive.event_position[0] == 0
    assert 2e4 < abs(massive.event_value[0]) < 3.5e4
    story = ablation_story(embedded, texts, massive)
    assert story is not None
    nothing, one, both, others = range(4)
    assert story.largest[both] < 0.02 * story.largest[nothing]
    assert story.sink_mass[nothing] > 0.4
    assert abs(story.sink_mass[one] - story.sink_mass[nothing]) < 0.1
    assert story.sink_mass[both] < 0.15
    assert story.loss[both] > story.loss[nothing] + 0.3
    assert abs(story.loss[others] - story.loss[nothing]) < 0.15


@pytest.mark.parametrize(("n_documents", "least", "most"), [(5, 0.88, 0.96), (30, 0.92, 0.975)])
def test_intervals_hold_the_mean_as_often_as_they_say(
    n_documents: int, least: float, most: float, seed: int
) -> None:
    """1,000 normal means at once: covered 92 and 95 % of the time; a standard deviation is under 0.9 %,
    so the bounds stand three and a half away (false alarm under 1e-3). Plain percentiles cover 84 % of
    five."""
    values = np.random.default_rng(seed).standard_normal((n_documents, 1000))
    _, low, high = mean_with_interval(values, np.ones(n_documents, dtype=np.int64))
    assert least < np.mean((low <= 0) & (high >= 0)) < most
    assert np.mean(low > 0) < 0.06


def test_windows_of_one_document_are_one_draw_of_the_interval(tiny_llama, seed: int) -> None:
    """Cutting documents in two changes no interval: as wide as over the whole ones."""
    generator = np.random.default_rng(seed)
    sums, counts = generator.standard_normal((12, 2)), generator.integers(5, 40, size=12)
    whole = mean_with_interval(sums, counts)
    halves = np.concatenate([sums * 0.3, sums * 0.7]), np.concatenate([counts - 2, counts * 0 + 2])
    cut = mean_with_interval(*halves, np.tile(np.arange(12), 2))
    for one, other in zip(whole, cut, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    assert (mean_with_interval(*halves)[1] != cut[1]).all(), "windows for documents would differ"
    texts = Texts(some_texts(4).ids, ("a", "b", "b#1", "a#1"))
    assert texts.documents.tolist() == [0, 1, 1, 0]
    loss = next_token(tiny_llama, texts)
    lens = logit_lens(tiny_llama, texts)
    assert loss.n_documents == lens.n_documents == 2
    # Over two documents a resampled mean is one of three; the ends are the documents' own means.
    alone = [
        next_token(tiny_llama, Texts((texts.ids[i], texts.ids[j]), ("x", "y"))).loss
        for i, j in ((0, 3), (1, 2))
    ]
    assert sorted(alone) == pytest.approx([loss.loss_low, loss.loss_high], rel=1e-5)
    np.testing.assert_allclose(lens.loss_low[-1], loss.loss_low, rtol=1e-4)
    one = next_token(tiny_llama, Texts(texts.ids, ("a", "a#1", "a#2", "a#3")))
    assert np.isnan(one.loss_low)
    assert np.isfinite(one.loss)


def test_varied_texts_take_a_second_window_last(tmp_path) -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    corpus = from_texts(["a" * 60, "b" * 19, "c" * 30, "d" * 45])
    run = capture_corpus(model, corpus, "embed", tmp_path / "r.h5", context=20)
    first = varied_texts(run, n_texts=3, length=20)
    assert len({int(ids[-1]) for ids in first.ids}) == 3, "one of each document; b is too short"
    assert not any("#" in name for name in first.names)
    assert len(first) == first.n_documents == 3
    more = varied_texts(run, n_texts=5, length=20)
    assert (len(more), more.n_documents) == (5, 3)
    assert len(varied_texts(run, n_texts=99, length=20)) == 6


def test_texts_come_cut_and_named(tmp_path) -> None:
    model = wrap_model(tiny_module("llama"), byte_tokenizer())
    corpus = from_texts(["a" * 40, "b" * 9, "c" * 30])
    run = capture_corpus(model, corpus, "embed", tmp_path / "r.h5", context=64)
    assert {len(ids) for ids in texts_of(run, n_tokens=100, cut=20).ids} == {20}
    assert len(texts_of(run, n_tokens=1)) == 1
    with pytest.raises(OptionError, match="at least 500 tokens"):
        texts_of(run, n_tokens=10, cut=500)
    batched = [numbers for numbers, _ in texts_of(run, n_tokens=100).batches()]
    assert sorted(n for numbers in batched for n in numbers) == [0, 1, 2]
