"""Building a feature index: every active latent of every row of a run, by row and by latent.

Rows are encoded once, in order, and their active latents appended to a file without a name; then
the entries are sorted by latent and falling activation, as many latents at a time as fit into the
memory allowed. Nothing stands under the index's name before it is whole.

Memory: one chunk of rows with its codes, the offsets (8 bytes a row, 8 a latent), and
`memory_bytes` for sorting; a single latent that fires more often than fits there takes what it
needs.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Int64

from ...probes.digest import tensors_digest
from ...probes.errors import OptionError
from ...probes.runfile import Run
from ...probes.runfile.atomic import replacing
from ..base import SparseAutoencoder
from ..metrics.dictionary import Dictionary, atoms_of, sparse_codes
from .index import KIND, SCHEMA, FeatureIndex, index_path

Progress = Callable[[int, int, str], None]

ENTRY = np.dtype([("latent", np.int32), ("value", np.float32)])
SORT_BYTES = 64
"""Memory one entry needs while it is sorted."""
READ_ENTRIES = 2**21


def kept_rows(run: Run) -> Bool[np.ndarray, " tokens"]:
    """Rows that dictionaries are judged on: neither a special token nor first in their text.

    The first position carries the massive activation of many models whatever token stands there.
    """
    tokens = run.tokens
    kept = tokens.positions() > 0
    if run.has_vocabulary:
        kept &= ~np.isin(tokens.ids, sorted(run.vocabulary.special))
    return kept


def made_from(run: Run, dictionary: Dictionary) -> dict[str, Any]:
    """What an index is of, ready for JSON: it is stale where any of this has changed."""
    tensors = {"W_dec": atoms_of(dictionary)}
    options = None
    if isinstance(dictionary, SparseAutoencoder):
        tensors, options = dictionary.state_dict(), dictionary.describe()
    return {
        "dictionary_digest": tensors_digest(tensors.items()),
        "options": json.loads(json.dumps(options)),
        "weights_digest": run.provenance.model.get("weights_digest"),
        "run_created": run.provenance.created,
        "n_rows": len(run.tokens.ids),
    }


@torch.no_grad()
def build_index(
    run: Run,
    site: str,
    dictionary: Dictionary,
    path: str | Path | None = None,
    *,
    name: str = "sae",
    chunk_rows: int = 2048,
    memory_bytes: int = 2**28,
    progress: Progress | None = None,
) -> FeatureIndex:
    """Encode a run's rows of one site and index what fires where.

    Rows that `kept_rows` leaves out are in the index without any active latent.

    Args:
        run: The run file.
        site: Which of its sites the dictionary reads.
        dictionary: An autoencoder or a baseline.
        path: Where the index goes; None puts it beside the run file.
        name: Which dictionary it is, for the file's name.
        chunk_rows: Rows encoded at once.
        memory_bytes: Memory for sorting.
        progress: Called with rows done, rows in all.

    Raises:
        UnknownSiteError: The run has no rows of that site.
        OptionError: The rows have another width than the dictionary reads.
    """
    held = run.activations[site]
    atoms = atoms_of(dictionary)
    if held.row_shape != (atoms.shape[1],):
        raise OptionError(
            f"{site} has rows of shape {held.row_shape}, the dictionary reads {atoms.shape[1]} "
            "columns; give the site it was trained on."
        )
    target = index_path(run.path, site, name) if path is None else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    meta = {
        "site": site,
        "name": name,
        "d_sae": len(atoms),
        "n_kept": int(kept_rows(run).sum()),
        **made_from(run, dictionary),
    }
    with (
        tempfile.TemporaryFile(dir=target.parent) as entries,
        replacing(target) as partial,
        h5py.File(partial, "w", libver="latest") as file,
    ):
        file.attrs["kind"], file.attrs["schema"] = KIND, SCHEMA
        file.attrs["meta"] = json.dumps(meta)
        offsets, counts = _encode(run, site, dictionary, entries, len(atoms), chunk_rows, progress)
        _write_rows(file, offsets, entries)
        _write_latents(file, offsets, counts, entries, memory_bytes, progress)
    return FeatureIndex(target)


def _encode(
    run: Run,
    site: str,
    dictionary: Dictionary,
    entries: IO[bytes],
    d_sae: int,
    chunk_rows: int,
    progress: Progress | None,
) -> tuple[Int64[np.ndarray, " rows_plus_1"], Int64[np.ndarray, " latents"]]:
    held, kept = run.activations[site], kept_rows(run)
    per_row = np.zeros(len(held), dtype=np.int64)
    counts = np.zeros(d_sae, dtype=np.int64)
    for start in range(0, len(held), chunk_rows):
        chosen = np.flatnonzero(kept[start : start + chunk_rows])
        rows = held.read(slice(start, start + chunk_rows)).float()[torch.from_numpy(chosen)]
        codes = sparse_codes(dictionary, rows)
        values, latents = codes.values.float().cpu().numpy(), codes.indices.cpu().numpy()
        owner = codes.rows.cpu().numpy()
        there = values != 0
        chunk = np.empty(int(there.sum()), dtype=ENTRY)
        chunk["latent"], chunk["value"] = latents[there], values[there]
        entries.write(chunk.tobytes())
        per_row[start + chosen] = np.bincount(owner[there], minlength=len(chosen))
        counts += np.bincount(chunk["latent"], minlength=d_sae)
        if progress is not None:
            progress(min(start + chunk_rows, len(held)), len(held), "encoding")
    entries.flush()
    return np.concatenate([[0], per_row.cumsum()]).astype(np.int64), counts


def _read(entries: IO[bytes], n: int) -> Iterator[tuple[int, np.ndarray]]:
    """Entries in pieces, with the number of the first."""
    entries.seek(0)
    for start in range(0, n, READ_ENTRIES):
        data = entries.read(ENTRY.itemsize * min(READ_ENTRIES, n - start))
        yield start, np.frombuffer(data, dtype=ENTRY)


def _flat(file: h5py.File, name: str, n: int, dtype: Any) -> h5py.Dataset:
    """A contiguous dataset, so that it can be mapped."""
    return file.create_dataset(name, shape=(n,), dtype=dtype, fillvalue=None)


def _write_rows(file: h5py.File, offsets: np.ndarray, entries: IO[bytes]) -> None:
    n = int(offsets[-1])
    file["rows/offsets"] = offsets
    latents = _flat(file, "rows/latents", n, np.int32)
    values = _flat(file, "rows/values", n, np.float32)
    for start, piece in _read(entries, n):
        latents[start : start + len(piece)] = piece["latent"]
        values[start : start + len(piece)] = piece["value"]


def _write_latents(
    file: h5py.File,
    offsets: np.ndarray,
    counts: np.ndarray,
    entries: IO[bytes],
    memory_bytes: int,
    progress: Progress | None,
) -> None:
    """Entries again, latent after latent, the strongest first."""
    starts = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
    n, d_sae = int(starts[-1]), len(counts)
    file["latents/offsets"] = starts
    rows = _flat(file, "latents/rows", n, np.int64)
    values = _flat(file, "latents/values", n, np.float32)
    sums, squares = np.zeros(d_sae), np.zeros(d_sae)
    room = max(memory_bytes // SORT_BYTES, 1)
    first = 0
    while first < d_sae:
        last = max(int(np.searchsorted(starts, starts[first] + room, side="right")) - 1, first + 1)
        latent, row, value = _gather(entries, offsets, n, first, last)
        order = np.lexsort((row, -np.abs(value), latent))
        where = slice(int(starts[first]), int(starts[last]))
        if where.start < where.stop:
            rows[where], values[where] = row[order], value[order]
            sums += np.bincount(latent, np.abs(value), minlength=d_sae)
            squares += np.bincount(latent, value.astype(float) ** 2, minlength=d_sae)
        first = last
        if progress is not None:
            progress(first, d_sae, "sorting by latent")
    file["latents/sum"], file["latents/sum_of_squares"] = sums, squares


def _gather(
    entries: IO[bytes], offsets: np.ndarray, n: int, first: int, last: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latent, row and value of all entries of a range of latents."""
    found = []
    for start, piece in _read(entries, n):
        at = np.flatnonzero((piece["latent"] >= first) & (piece["latent"] < last))
        row = np.searchsorted(offsets, start + at, side="right") - 1
        found.append((piece["latent"][at].astype(np.int64), row, piece["value"][at]))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    latent, row, value = (np.concatenate(part) for part in zip(*found, strict=True))
    return latent, row, value
