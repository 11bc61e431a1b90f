import dataclasses

import pytest
import torch

from fluoroscope.probes.errors import OptionError
from fluoroscope.probes.seq2seq import CONSTRUCTIONS, TaskOptions, TrainingOptions, train
from fluoroscope.probes.seq2seq.layers import Seq2Seq, Seq2SeqOptions
from fluoroscope.probes.seq2seq.lm import CausalLM
from fluoroscope.probes.seq2seq.palm import PartialAttention, PartialAttentionLM
from fluoroscope.probes.seq2seq.red import CONSTRAINTS, RegularisedEncoderDecoder

SIZE = Seq2SeqOptions(d_vocab=11, d_model=16, n_layers=2, n_heads=2, max_positions=32)
LENGTHS = torch.tensor([7, 4, 1])


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    source = torch.randint(0, 11, (3, 7), generator=generator)
    target = torch.randint(0, 11, (3, 6), generator=generator)
    return source, LENGTHS, target


def every_model() -> list[Seq2Seq]:
    return [
        CausalLM(SIZE),
        RegularisedEncoderDecoder(SIZE),
        *(RegularisedEncoderDecoder(SIZE, CONSTRAINTS - {left}) for left in sorted(CONSTRAINTS)),
        PartialAttentionLM(SIZE),
        PartialAttentionLM(SIZE, "none"),
    ]


@pytest.mark.parametrize("model", every_model(), ids=lambda m: type(m).__name__)
def test_no_logit_sees_a_later_target_token_or_padding(model: Seq2Seq) -> None:
    """The leak of public code: short sources in a batch of unequal lengths."""
    source, lengths, target = batch()
    before, memory = model(source, lengths, target)
    changed = target.clone()
    changed[:, 3:] = (changed[:, 3:] + 1) % 11
    torch.testing.assert_close(model.decode(memory, changed)[:, :3], before[:, :3])
    assert not torch.allclose(model.decode(memory, changed)[:, 3:], before[:, 3:])
    padded = source.clone()
    padded[1, 4:], padded[2, 1:] = 5, 6
    torch.testing.assert_close(model(padded, lengths, target)[0], before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", every_model(), ids=lambda m: type(m).__name__)
def test_a_batch_is_its_rows(model: Seq2Seq) -> None:
    source, lengths, target = batch()
    together = model(source, lengths, target)[0]
    for row, n in enumerate(lengths.tolist()):
        alone = model(source[row : row + 1, :n], lengths[row : row + 1], target[row : row + 1])[0]
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


def test_five_constraints_make_the_encoder_decoder_a_causal_lm() -> None:
    source, lengths, target = batch()
    lm, red = CausalLM(SIZE), RegularisedEncoderDecoder(SIZE)
    state = {key.replace("layers.", "encoder.", 1): v for key, v in lm.state_dict().items()}
    red.load_state_dict(state | {k.replace("encoder.", "decoder.", 1): v for k, v in state.items()})
    logits, memory = red(source, lengths, target)
    for row, n in enumerate(lengths.tolist()):
        whole = torch.cat([source[row, :n], target[row]])[None]
        exact = lm.rows(whole)[0]
        torch.testing.assert_close(logits[row], exact[n:], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(memory.logits[row, :n], exact[:n], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(lm(source, lengths, target)[0], logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("left", sorted(CONSTRAINTS - {"source-loss"}))
def test_each_constraint_left_out_changes_the_numbers(left: str) -> None:
    source, lengths, target = batch()
    full = RegularisedEncoderDecoder(SIZE)
    less = RegularisedEncoderDecoder(SIZE, CONSTRAINTS - {left})
    less.load_state_dict(full.state_dict(), strict=False)
    if left == "shared":
        less.decoder.load_state_dict(full.encoder.state_dict())
        less.decoder[0].mlp[0].weight.data *= 2
    assert not torch.allclose(
        full(source, lengths, target)[0], less(source, lengths, target)[0], atol=1e-4
    )


def test_without_its_output_partial_attention_is_the_base() -> None:
    source, lengths, target = batch()
    base = PartialAttentionLM(SIZE, "none")
    palm = PartialAttentionLM(SIZE, "zero")
    palm.load_state_dict(base.state_dict(), strict=False)
    torch.testing.assert_close(palm(source, lengths, target)[0], base(source, lengths, target)[0])


def test_the_memory_read_once_serves_every_step() -> None:
    source, lengths, target = batch()
    model = PartialAttentionLM(SIZE)
    whole, memory = model(source, lengths, target)
    for step in range(1, target.shape[1] + 1):
        again = model(source, lengths, target[:, :step])[0]
        torch.testing.assert_close(model.decode(memory, target[:, :step]), again)
        torch.testing.assert_close(again[:, -1], whole[:, step - 1], rtol=1e-5, atol=1e-5)


def test_source_loss_is_the_mean_over_tokens_that_are_there() -> None:
    source, lengths, _ = batch()
    lm, palm = CausalLM(SIZE), PartialAttentionLM(SIZE)
    for model, shift in ((lm, 1), (palm, 0)):
        memory = model.encode(source, lengths)
        log_probs = memory.logits.log_softmax(-1)
        losses = [
            -log_probs[row, place, source[row, place + shift]]
            for row, n in enumerate(lengths.tolist())
            for place in range(n - shift)
        ]
        torch.testing.assert_close(model.source_loss(memory, source), torch.stack(losses).mean())
    free = RegularisedEncoderDecoder(SIZE, CONSTRAINTS - {"source-loss"})
    assert free.source_loss(free.encode(source, lengths), source) == 0


def test_partial_attention_reads_a_net_with_its_residual_around_the_second_map() -> None:
    half = PartialAttentionLM(SIZE).partials[0]
    assert isinstance(half, PartialAttention)
    source = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))
    first = torch.nn.functional.gelu(half.first(source))
    torch.testing.assert_close(half.read(source), half.second(first) + first)


def test_a_targets_language_and_positions_are_its_own() -> None:
    source, lengths, target = batch()
    palm = PartialAttentionLM(SIZE)
    memory = palm.encode(source, lengths)
    before = palm.decode(memory, target)
    with torch.no_grad():
        palm.language.weight[0] += 1
        torch.testing.assert_close(palm.decode(memory, target), before)
        palm.language.weight[1] += torch.arange(16.0)
    assert not torch.allclose(palm.decode(memory, target), before, atol=1e-3)
    torch.testing.assert_close(palm.encode(source, lengths).present, memory.present)
    for model in (palm, RegularisedEncoderDecoder(SIZE, CONSTRAINTS - {"consecutive"})):
        memory = model.encode(source, lengths)
        before = model.decode(memory, target)
        with torch.no_grad():  # positions begin again at 0 and end with the target's length
            model.vocabulary.positions.weight[target.shape[1] :] += 1
            torch.testing.assert_close(model.decode(memory, target), before)
            model.vocabulary.positions.weight[0] += torch.arange(16.0)
        assert not torch.allclose(model.decode(memory, target)[:, 0], before[:, 0], atol=1e-3)


def test_without_layerwise_coordination_every_layer_reads_the_encoders_end() -> None:
    source, lengths, _ = batch()
    model = RegularisedEncoderDecoder(SIZE, CONSTRAINTS - {"layerwise"})
    memory = model.encode(source, lengths)
    for layer in memory.layers:
        torch.testing.assert_close(model.vocabulary.logits(layer), memory.logits)


def test_constructions_are_what_they_are_called() -> None:
    built = {name: make(SIZE) for name, make in CONSTRUCTIONS.items()}
    assert set(built) == {"lm", "palm", "palm-no-partial", *(f"red-no-{c}" for c in CONSTRAINTS)}
    assert isinstance(built["lm"], CausalLM)
    for name, left_out in (("palm", False), ("palm-no-partial", True)):
        palm = built[name]
        assert isinstance(palm, PartialAttentionLM)
        assert (len(palm.partials) == 0) == left_out
    for constraint in CONSTRAINTS:
        red = built[f"red-no-{constraint}"]
        assert isinstance(red, RegularisedEncoderDecoder)
        assert red.constraints == CONSTRAINTS - {constraint}


def test_the_sources_own_loss_is_trained_with_its_weight() -> None:
    task = TaskOptions(n_items=3, n_symbols=4, n_filler=0)
    recipe = TrainingOptions(n_steps=2, n_rows=4, seeds=(0,))

    def trained(weight: float) -> torch.Tensor:
        size = dataclasses.replace(SIZE, d_vocab=task.d_vocab, source_weight=weight)
        return train(CausalLM(size), task, recipe, seed=0).get_parameter("vocabulary.tokens.weight")

    assert not torch.equal(trained(1.0), trained(0.0))
    torch.testing.assert_close(trained(0.5), trained(0.5))


def test_wrong_options_are_refused() -> None:
    with pytest.raises(OptionError, match="multiple of n_heads"):
        dataclasses.replace(SIZE, n_heads=3)
    with pytest.raises(OptionError, match="constraints must be among"):
        RegularisedEncoderDecoder(SIZE, {"tied"})
    source, lengths, target = batch()
    with pytest.raises(OptionError, match="max_positions=13"):
        RegularisedEncoderDecoder(dataclasses.replace(SIZE, max_positions=12))(
            source, lengths, target
        )
