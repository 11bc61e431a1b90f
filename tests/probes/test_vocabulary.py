"""Token bytes, against what the tokenizer itself decodes."""

import pytest
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from fluoroscope.probes.vocabulary import read_vocabulary
from tests.tokenizers_ import byte_tokenizer

PIECES = ["<s>", "<0x0A>", "<0xE2>", "▁", "▁the", "a", "Ġ", "ħ", "☃"]


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """Pieces as Llama's and Gemma's: spaces as "▁", bytes by name, Maltese letters among the text."""
    tokenizer = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(PIECES)}, merges=[]))
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")
    wrapped.add_tokens([AddedToken("▁▁▁", normalized=False)])
    return wrapped


def test_every_byte_has_its_token() -> None:
    vocabulary = read_vocabulary(byte_tokenizer())
    assert sorted(vocabulary.token_bytes[:256]) == [bytes([byte]) for byte in range(256)]
    assert vocabulary.token_bytes[259] == b"<|x|>"
    assert vocabulary.special == {256, 257, 258, 259}


def test_sentencepiece_bytes_and_spaces() -> None:
    tokenizer = sentencepiece_like()
    vocabulary = read_vocabulary(tokenizer)
    expected = [b"<s>", b"\n", b"\xe2", b" ", b" the", b"a", "Ġ".encode(), "ħ".encode()]
    assert list(vocabulary.token_bytes) == [*expected, "☃".encode(), b"   "]
    assert vocabulary.special == {0}
    for index in (1, 3, 4, 5, 6, 7, 8, 9):
        assert vocabulary.token_bytes[index].decode() == tokenizer.decode([index])


@pytest.mark.embedded
def test_the_embedded_vocabulary_agrees_with_its_tokenizer(embedded) -> None:
    vocabulary = embedded.vocabulary
    lossy = [token.decode(errors="replace") for token in vocabulary.token_bytes]
    own = embedded.tokenizer.batch_decode(
        [[index] for index in range(len(vocabulary))], clean_up_tokenization_spaces=False
    )
    assert lossy == own
