"""GGUF files, written here and opened for real; and when a conversion is made anew."""

import os
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fluoroscope.probes import Model, capture, digest, list_cached, open_model
from fluoroscope.probes.digest import file_digest, remembered_digest
from fluoroscope.probes.errors import DamagedModelError
from tests.conftest import ids
from tests.tokenizers_ import byte_tokenizer

HEADS, KV_HEADS, LAYERS, D_MODEL, D_MLP, VOCABULARY = 4, 2, 2, 32, 64, 260
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=D_MODEL, intermediate_size=D_MLP,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS,
        max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False,
        bos_token_id=256, eos_token_id=257, pad_token_id=258, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(path: Path, module: LlamaForCausalLM, kind: gguf.GGMLQuantizationType) -> None:
    """The module as llama.cpp's converter would write it."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(D_MODEL)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    writer.add_rope_dimension_count(D_MODEL // HEADS)
    writer.add_vocab_size(VOCABULARY)
    tokens = [*byte_tokenizer().convert_ids_to_tokens(list(range(VOCABULARY - 1))), "ab"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * 3 + [1])
    writer.add_token_merges(["a b"])
    for name, value in (("bos", 256), ("eos", 257), ("pad", 258)):
        getattr(writer, f"add_{name}_token_id")(value)
    for name, tensor in module.state_dict().items():
        add(writer, name, tensor.numpy(), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add(writer: gguf.GGUFWriter, name: str, values: np.ndarray, kind) -> None:
    renamed = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name not in renamed:
        _, _, layer, *part, _ = name.split(".")
        renamed[name] = f"blk.{layer}.{NAMES['.'.join(part)]}.weight"
    for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
        if part in name:  # rotary halves interleaved, as llama.cpp wants them
            split = values.reshape(heads, 2, -1, values.shape[-1])
            values = split.swapaxes(1, 2).reshape(values.shape)
    if values.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
        writer.add_tensor(renamed[name], np.ascontiguousarray(values))
    else:
        stored = gguf.quants.quantize(np.ascontiguousarray(values), kind)
        writer.add_tensor(renamed[name], stored, raw_dtype=kind)


def opened(path: Path, cache: Path) -> Model:
    return open_model(path, cache_dir=cache)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf", llama(), gguf.GGMLQuantizationType.F32)
    return tmp_path / "tiny.gguf"


@pytest.mark.filterwarnings("ignore")
def test_a_float_file_opens_with_the_numbers_it_was_written_from(file: Path, tmp_path) -> None:
    model = opened(file, tmp_path / "cache")
    with torch.no_grad(), capture(model, "layers.1.resid_post") as acts:
        logits = model(ids()).logits
    with torch.no_grad():
        torch.testing.assert_close(logits, llama()(ids()).logits, rtol=0, atol=0)
    assert acts["layers.1.resid_post"].shape == (2, 7, D_MODEL)
    assert model.name == "tiny"
    assert [held.source_digest for held in list_cached(tmp_path / "cache")] == [file_digest(file)]
    text = "naïve (x) -> ☃ abba"
    assert 259 in model.encode(text, bos=False), "merges are read"
    assert model.decode(model.encode(text, bos=False)) == text


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_file_opens_with_the_numbers_its_format_keeps(tmp_path: Path) -> None:
    """Q8_0 keeps 32 weights as multiples of the largest / 127: each is off by half a step at most, and
    the step itself, a float16, by 2^-11 (127 steps: a sixteenth of a step)."""
    write_gguf(tmp_path / "tiny.gguf", llama(), gguf.GGMLQuantizationType.Q8_0)
    model = opened(tmp_path / "tiny.gguf", tmp_path / "cache")
    exact = llama()
    for name in ("q_proj", "v_proj"):
        found = getattr(model.module.model.layers[1].self_attn, name).weight
        wanted = getattr(exact.model.layers[1].self_attn, name).weight
        blocks = (found - wanted).detach().reshape(-1, 32).abs().amax(1)
        size = wanted.detach().reshape(-1, 32).abs().amax(1)
        assert not torch.equal(found, wanted), "it is quantised"
        assert (blocks <= size / 127 * (1 / 2 + 1 / 16)).all()
    with torch.no_grad():
        logits, plain = model(ids()).logits, exact(ids()).logits
    assert torch.corrcoef(torch.stack([logits.ravel(), plain.ravel()]))[0, 1] > 0.999


@pytest.mark.filterwarnings("ignore")
def test_a_changed_file_of_equal_size_and_time_is_converted_anew(file: Path, tmp_path) -> None:
    settled = time.time() - 3600
    os.utime(file, (settled, settled))
    first = opened(file, tmp_path / "cache")
    size = file.stat().st_size
    write_gguf(file, llama(seed=1), gguf.GGMLQuantizationType.F32)
    os.utime(file, (settled, settled))
    assert (file.stat().st_size, file.stat().st_mtime) == (size, settled)
    second = opened(file, tmp_path / "cache")
    assert second.weights_digest != first.weights_digest
    with torch.no_grad():
        assert torch.equal(second(ids()).logits, llama(seed=1)(ids()).logits)
    assert len(list_cached(tmp_path / "cache")) == 2


def test_a_file_cut_short_is_told(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DamagedModelError, match="could not be read as a GGUF model"):
        opened(file, tmp_path / "cache")
    assert list_cached(tmp_path / "cache") == []


def test_a_digest_is_remembered_once_the_file_has_settled(tmp_path: Path, monkeypatch) -> None:
    file, reads = tmp_path / "f", []
    file.write_bytes(b"one")

    def counting(path: Path) -> str:
        reads.append(path)
        return file_digest(path)

    monkeypatch.setattr(digest, "file_digest", counting)
    fresh = [remembered_digest(file, tmp_path / "memory") for _ in range(2)]
    assert len(reads) == 2, "a file this young may change again within its clock's tick"
    monkeypatch.setattr(digest, "SETTLED_S", -1.0)
    settled = [remembered_digest(file, tmp_path / "memory") for _ in range(3)]
    assert len(reads) == 3
    assert {*fresh, *settled} == {file_digest(file)}
    file.write_bytes(b"two")
    assert remembered_digest(file, tmp_path / "memory") == file_digest(file)
    note = next((tmp_path / "memory").glob("*.json"))
    note.write_text("no JSON")
    assert remembered_digest(file, tmp_path / "memory") == file_digest(file)
