"""Corpora and batching: every format, every bad input, no waste and no padding in the file."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fluoroscope.probes import from_texts, open_corpus, wrap_model
from fluoroscope.probes.batching import padding_share, plan, windows
from fluoroscope.probes.corpus import Document
from fluoroscope.probes.errors import CorpusError, OptionError
from tests.families import tiny_module
from tests.tokenizers_ import byte_tokenizer

MODEL = wrap_model(tiny_module("llama"), byte_tokenizer())


def texts(corpus) -> list[str]:
    return [document.text for document in corpus]


def test_every_format_gives_its_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("alpha")
    (tmp_path / "b.jsonl").write_text('{"text": "beta"}\n\n"gamma"\n')
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"content": ["delta", "epsilon"]}), tmp_path / "c.parquet")
    assert texts(open_corpus(tmp_path / "a.txt")) == ["alpha"]
    assert texts(open_corpus(tmp_path / "b.jsonl")) == ["beta", "gamma"]
    assert texts(open_corpus(tmp_path / "c.parquet")) == ["delta", "epsilon"]
    assert texts(open_corpus(tmp_path)) == ["alpha", "beta", "gamma", "delta", "epsilon"]
    assert texts(open_corpus([tmp_path / "a.txt", str(tmp_path / "b.jsonl")]))[0] == "alpha"


@pytest.mark.filterwarnings("ignore")
def test_saved_datasets_are_read(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"text": ["one", "two"]}).save_to_disk(str(tmp_path / "saved"))
    assert texts(open_corpus(tmp_path / "saved")) == ["one", "two"]


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="No text at"):
        open_corpus(tmp_path / "none")
    (tmp_path / "bad.jsonl").write_text('{"text": "ok"}\n{broken\n')
    with pytest.raises(CorpusError, match=r"bad\.jsonl, line 2"):
        texts(open_corpus(tmp_path / "bad.jsonl"))
    (tmp_path / "field.jsonl").write_text(json.dumps({"words": "x"}))
    with pytest.raises(CorpusError, match="it has words"):
        texts(open_corpus(tmp_path / "field.jsonl"))
    assert texts(open_corpus(tmp_path / "field.jsonl", field="words")) == ["x"]
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(CorpusError, match="must be UTF-8"):
        texts(open_corpus(tmp_path / "bytes.txt"))
    with pytest.raises(CorpusError, match="no text that gives tokens"):
        windows(MODEL, from_texts(["", "  \n"]), context=8)


def test_the_default_is_the_standard_library_in_a_fixed_mixed_order() -> None:
    first = [d.name for d, _ in zip(open_corpus(), range(20), strict=False)]
    assert first == [d.name for d, _ in zip(open_corpus(), range(20), strict=False)]
    assert len({name.split("/")[0] for name in first}) > 5
    assert not any("site-packages" in name or "test/" in name for name in first)
    assert "PSF" in (open_corpus().licence or "")


def test_windows_cut_documents_without_loss() -> None:
    found = windows(
        MODEL, [Document("d", "abcdefghij"), Document("", ""), Document("e", "xy")], context=4
    )
    assert [w.name for w in found] == ["d", "d#1", "d#2", "e"]
    joined = np.concatenate([w.ids for w in found if w.name.startswith("d")])
    assert MODEL.decode(joined.tolist()) == "abcdefghij"
    assert len(windows(MODEL, from_texts(["abcdefghij"]), context=4, per_document=2)) == 2
    with pytest.raises(OptionError, match="per_document must be at least 1"):
        windows(MODEL, from_texts(["abcdefghij"]), context=4, per_document=0)
    assert (
        sum(len(w.ids) for w in windows(MODEL, from_texts(["abcdefghij"]), context=4, n_tokens=6))
        == 6
    )


def test_bos_is_explicit() -> None:
    corpus = from_texts(["abcdef"])
    always = windows(MODEL, corpus, context=4, bos="always")
    assert [w.ids[0] for w in always] == [MODEL.tokenizer.bos_token_id] * 2
    assert max(len(w.ids) for w in always) == 4
    never = windows(MODEL, corpus, context=4, bos="never")
    assert MODEL.tokenizer.bos_token_id not in np.concatenate([w.ids for w in never])


def test_options_out_of_range_are_refused() -> None:
    with pytest.raises(OptionError, match="context must be from 2 to 128"):
        windows(MODEL, from_texts(["abc"]), context=500)
    found = windows(MODEL, from_texts(["abcdefgh"]), context=8)
    with pytest.raises(OptionError, match="at least the longest window, 8"):
        plan(found, batch_tokens=4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(60, 400))
def test_batches_hold_every_window_once_and_waste_little(lengths: list[int], size: int) -> None:
    found = windows(MODEL, from_texts(["x" * n for n in lengths]), context=64)
    batches = plan(found, batch_tokens=size)
    inside = sorted(w.index for batch in batches for w in batch.windows)
    assert inside == list(range(len(found)))
    assert padding_share(batches) <= 0.1
    for batch in batches:
        assert batch.mask.sum() == batch.n_tokens
        assert len(batch.windows) * max(len(w.ids) for w in batch.windows) <= size
