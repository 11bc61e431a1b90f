import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from fluoroscope.probes import Run, open_run
from fluoroscope.probes.errors import MissingResultError, NotARunFileError, OptionError
from fluoroscope.sae import SparseAutoencoder, make_sae
from fluoroscope.sae.features import FeatureIndex, build_index, find_tokens, index_path, kept_rows
from fluoroscope.sae.features.asking import open_index
from fluoroscope.sae.metrics import RandomDecoder

from .conftest import SITE


@pytest.fixture
def dense(tiny_run: Run, rows: torch.Tensor, dictionary: RandomDecoder) -> np.ndarray:
    codes = dictionary.encode(rows).numpy()
    codes[~kept_rows(tiny_run)] = 0
    return codes


@pytest.mark.parametrize("memory_bytes", [2**28, 4000, 1])
def test_index_holds_what_the_dictionary_says(
    tiny_run: Run, dictionary: RandomDecoder, dense: np.ndarray, path: Path, memory_bytes: int
) -> None:
    index = build_index(tiny_run, SITE, dictionary, path, chunk_rows=37, memory_bytes=memory_bytes)
    again = np.zeros_like(dense)
    firing = index.on_rows(0, index.n_rows)
    again[firing.rows, firing.latents] = firing.values
    np.testing.assert_allclose(again, dense, atol=1e-5)
    for latent in range(index.d_sae):
        found, values = index.top_rows(latent, 7)
        sizes = np.abs(dense[:, latent])
        np.testing.assert_allclose(np.abs(values), np.sort(sizes[sizes > 0])[::-1][:7], rtol=1e-4)
        np.testing.assert_allclose(dense[found, latent], values, atol=1e-5)
    np.testing.assert_array_equal(index.counts(), (dense != 0).sum(0))
    np.testing.assert_allclose(index.maxima(), np.abs(dense).max(0), rtol=1e-4)
    np.testing.assert_allclose(index.density(), (dense != 0).sum(0) / kept_rows(tiny_run).sum())


def test_strongest_features_of_a_text(
    tiny_run: Run, dictionary: RandomDecoder, dense: np.ndarray, path: Path
) -> None:
    index = build_index(tiny_run, SITE, dictionary, path)
    found = index.strongest(5, 25, 6)
    peaks = np.abs(dense[5:25]).max(0)
    order = np.argsort(-peaks)[:6]
    np.testing.assert_array_equal(found.latents, order)
    np.testing.assert_allclose(np.abs(found.peaks), peaks[order], rtol=1e-4)
    np.testing.assert_array_equal(found.rows, 5 + np.abs(dense[5:25, order]).argmax(0))


def test_contexts_hold_the_windows_and_stay_in_their_document(
    tiny_run: Run, dictionary: RandomDecoder, dense: np.ndarray, path: Path
) -> None:
    index = build_index(tiny_run, SITE, dictionary, path)
    latent = int(index.counts().argmax())
    found = index.top_contexts(tiny_run, latent, 8, before=6, after=3)
    tokens = tiny_run.tokens
    for row, ids, values in zip(found.rows, found.ids, found.values, strict=True):
        assert ids[6] == tokens.ids[row]
        inside = np.flatnonzero(ids >= 0)
        span = row - 6 + inside
        assert {tokens.document_of(int(r)) for r in span} == {tokens.document_of(int(row))}
        np.testing.assert_array_equal(ids[inside], tokens.ids[span])
        np.testing.assert_allclose(values[inside], dense[span, latent], atol=1e-5)
    starts = tokens.offsets[found.documents]
    ends = {
        tuple(tokens.ids[max(r - 7, s) : r + 1]) for r, s in zip(found.rows, starts, strict=True)
    }
    assert len(ends) == len(found.rows)


def test_quantile_contexts_come_from_their_fifth(
    tiny_run: Run, dictionary: RandomDecoder, path: Path
) -> None:
    index = build_index(tiny_run, SITE, dictionary, path)
    latent = int(index.counts().argmax())
    contexts, group = index.quantile_contexts(tiny_run, latent, groups=5, per_group=3)
    values = np.abs(contexts.values[:, 20])
    for lower, upper in ((1, 0), (2, 1), (4, 3)):
        assert values[group == lower].max() <= values[group == upper].min()
    same, _ = index.quantile_contexts(tiny_run, latent, groups=5, per_group=3)
    np.testing.assert_array_equal(same.rows, contexts.rows)


def test_tokens_are_found_within_documents_only(tiny_run: Run) -> None:
    tokens = tiny_run.tokens
    needle = tokens.ids[3:9]
    expected = [
        row
        for row in range(len(tokens.ids) - 5)
        if np.array_equal(tokens.ids[row : row + 6], needle)
        and tokens.document_of(row) == tokens.document_of(row + 5)
    ]
    assert find_tokens(tiny_run, needle).tolist() == expected
    border = int(tokens.offsets[1])
    across = tokens.ids[border - 2 : border + 2]
    assert border - 2 not in find_tokens(tiny_run, across)
    with pytest.raises(OptionError, match="at least one token"):
        find_tokens(tiny_run, tokens.ids[:0])


def test_a_failed_build_leaves_nothing(
    tiny_run: Run, path: Path, dictionary: RandomDecoder
) -> None:
    def stop(done: int, total: int, note: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(tiny_run, SITE, dictionary, path, progress=stop)
    assert list(path.parent.iterdir()) == []
    with pytest.raises(MissingResultError, match="no feature index"):
        FeatureIndex(path)


def test_wrong_width_and_other_files_are_refused(
    tiny_run: Run, path: Path, rows: torch.Tensor
) -> None:
    other = RandomDecoder(rows[:, :8], 16, 2, generator=torch.Generator())
    with pytest.raises(OptionError, match="the dictionary reads 8 columns"):
        build_index(tiny_run, SITE, other, path)
    with h5py.File(path, "w"):
        pass
    with pytest.raises(NotARunFileError, match="no feature index"):
        FeatureIndex(path)


def test_rows_and_features_out_of_range_are_refused(
    tiny_run: Run, dictionary: RandomDecoder, path: Path
) -> None:
    index = build_index(tiny_run, SITE, dictionary, path)
    with pytest.raises(OptionError, match="got 48"):
        index.top_rows(48)
    with pytest.raises(OptionError, match="Rows must be within"):
        index.on_rows(0, index.n_rows + 1)


def test_an_index_of_another_dictionary_or_run_is_built_again(
    tiny_run: Run, tmp_path: Path, rows: torch.Tensor
) -> None:
    """The same atoms behind another encoder, k, or run file of as many rows are another index."""
    shutil.copytree(tiny_run.path.parent, tmp_path / "run")
    run = open_run(tmp_path / "run" / "run.h5")
    made: list[int] = []

    def index_of(sae: SparseAutoencoder, run: Run = run) -> np.ndarray:
        before = len(made)
        index = open_index(run, SITE, sae, progress=lambda *_: made.append(1))
        built.append(len(made) > before)
        return index.on_rows(0, index.n_rows).latents

    built: list[bool] = []
    sae = make_sae("topk", d_in=rows.shape[1], d_sae=48, k=5)
    first = index_of(sae)
    np.testing.assert_array_equal(index_of(sae), first)
    fewer = make_sae("topk", d_in=rows.shape[1], d_sae=48, k=4)
    assert torch.equal(fewer.W_dec, sae.W_dec)
    assert len(index_of(fewer)) < len(first)
    index_of(sae)
    with torch.no_grad():
        sae.b_enc[7] = 50.0
    assert (index_of(sae) == 7).sum() > (first == 7).sum()
    assert built == [True, False, True, True, True]
    with h5py.File(run.path, "a") as file:
        provenance = json.loads(file.attrs["provenance"]) | {"created": "2020-01-01T00:00:00"}
        file.attrs["provenance"] = json.dumps(provenance)
    again = open_run(run.path)
    index_of(sae, again)
    assert built[-1]


def test_the_index_stands_beside_the_run(tmp_path: Path) -> None:
    path = index_path(tmp_path / "run.h5", "layers.1.resid_post", "top k/64")
    assert path.name == "layers.1.resid_post.top-k-64.h5"
    assert path.parent == tmp_path / "run.features"
