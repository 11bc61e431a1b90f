"""Read a corpus with a model and keep the states at chosen sites in a run file.

The forward pass ends after the last site asked for, so what lies above (the unembedding over the
whole vocabulary included) does not run; writing overlaps with computing; padding is never stored.
Interrupted captures go on where they stopped, and the file is then the same as without interruption.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from .batching import Batch, Bos, Window, plan, windows
from .capture import capture
from .corpus import Corpus
from .errors import IncompleteError, OptionError
from .model import Model
from .ranks import Rank, this_rank, wait_until
from .rows import Mask
from .runfile import Provenance, Run, RunWriter, create_run, link_parts, open_run, remove_run
from .runfile.schema import STORED
from .runfile.writer import SHARD_BYTES
from .sites import Site

Progress = Callable[[int, int, str], None]
"""Called with (tokens done, tokens in all, a few words)."""

CONTEXT = 256
"""Longest window in tokens where none is asked for."""

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16,
          "float64": torch.float64}  # fmt: skip


def capture_corpus(
    model: Model,
    corpus: Corpus,
    sites: str | Sequence[str],
    path: str | Path,
    *,
    n_tokens: int | None = None,
    context: int | None = None,
    batch_tokens: int = 2048,
    dtype: str = "float32",
    bos: Bos = "auto",
    per_document: int | None = None,
    resume: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Read `corpus` and store the rows of `sites`.

    Under `torchrun` or `accelerate launch` every rank reads its share of the windows into shards of
    its own, and rank 0 links them.

    Args:
        model: An opened model with a tokenizer.
        corpus: What to read.
        sites: Site names or globs; every site must have one row per token.
        path: The run file.
        n_tokens: Stop after this many tokens; None reads all.
        context: Longest window in tokens; longer documents are cut. None takes 256, or what the
            model can attend to if that is less.
        batch_tokens: Positions per forward pass.
        dtype: How rows are stored: float32, bfloat16, float16 or float64.
        bos: Beginning-of-sequence token: "auto", "always" or "never"; recorded in the file.
        per_document: At most this many windows of one document, for variety; None for all.
        resume: Whether to go on with a file of the same origin.
        overwrite: Whether to delete a file that is there.
        progress: Called after every batch.

    Raises:
        OptionError: An option is out of range, or a site has no row per token.
        UnknownSiteError: The model has no such site.
        CorpusError: There is no text.
        RunExistsError: There is a file, and it may be neither continued nor overwritten.
        RunMismatchError: The file came from something else.
        IncompleteError: The disk is (or would be) full; what was committed is kept.
    """
    path = Path(path)
    chosen = model.sites.resolve(sites)
    _require_rows(chosen)
    if dtype not in DTYPES:
        raise OptionError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}.")
    context = min(CONTEXT, model.max_positions or CONTEXT) if context is None else context
    found = windows(
        model, corpus, context=context, bos=bos, n_tokens=n_tokens, per_document=per_document
    )
    provenance = Provenance(
        model=model.info.as_dict(),
        corpus={
            "description": corpus.description,
            "licence": corpus.licence,
            "digest": _digest(found),
        },
        sites=tuple(site.name for site in chosen),
        settings={
            "context": context,
            "batch_tokens": batch_tokens,
            "dtype": dtype,
            "bos": bos,
            "n_tokens": n_tokens,
            "per_document": per_document,
        },
    )
    rank = this_rank()
    if rank.world == 1:
        batches = plan(found, batch_tokens=batch_tokens)
        _capture_part(
            model, chosen, batches, path, provenance, DTYPES[dtype],
            resume=resume, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    else:
        _capture_ranked(
            model, chosen, found, path, provenance, DTYPES[dtype], rank,
            batch_tokens=batch_tokens, resume=resume, overwrite=overwrite, progress=progress,
        )  # fmt: skip
    return open_run(path)


def _capture_ranked(
    model: Model,
    sites: tuple[Site, ...],
    found: list[Window],
    path: Path,
    provenance: Provenance,
    dtype: torch.dtype,
    rank: Rank,
    *,
    batch_tokens: int,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
) -> None:
    """This rank's contiguous share of the windows, then (rank 0) the links to everybody's."""
    if path.exists() and not overwrite and open_run(path).complete:
        return
    parts = [path.with_name(f"{path.stem}.rank{n:04d}.h5") for n in range(rank.world)]
    bounds = np.linspace(0, len(found), rank.world + 1).astype(int)
    mine = found[bounds[rank.number] : bounds[rank.number + 1]]
    batches = plan(mine, batch_tokens=batch_tokens) if mine else []
    _capture_part(
        model, sites, batches, parts[rank.number], provenance, dtype,
        resume=resume, overwrite=overwrite, progress=progress, prefix=f"rank{rank.number:04d}-",
    )  # fmt: skip
    if rank.is_first:
        wait_until(lambda: all(_is_complete(part) for part in parts), what="The other ranks")
        if overwrite:
            remove_run(path)
        link_parts(path, parts, provenance, complete=True)
    else:
        wait_until(lambda: path.exists() and open_run(path).complete, what="Rank 0")


def _capture_part(
    model: Model,
    sites: tuple[Site, ...],
    batches: list[Batch],
    path: Path,
    provenance: Provenance,
    dtype: torch.dtype,
    *,
    resume: bool,
    overwrite: bool,
    progress: Progress | None,
    prefix: str = "",
) -> None:
    total = sum(batch.n_tokens for batch in batches)
    writer = create_run(
        path, provenance=provenance, resume=resume, overwrite=overwrite, prefix=prefix
    )
    _require_disk(path, sites, total, dtype)
    with writer:
        if model.has_tokenizer:
            writer.set_vocabulary(model.vocabulary)
        writer.set_axes({site.name: site.axes[2:] for site in sites})
        done = writer.n_documents
        tokens = 0
        for number, batch in enumerate(batches):
            if done >= len(batch.windows):
                done -= len(batch.windows)
            else:
                if not writer.is_expecting:
                    writer.expect(_shard_rows(batches[number:], sites, dtype, skip=done))
                _capture_batch(model, sites, batch, writer, dtype, skip=done)
                done = 0
            tokens += batch.n_tokens
            if progress is not None:
                progress(tokens, total, f"waited {writer.stall_s:.1f} s for the disk")
        writer.close(complete=True)


def _capture_batch(
    model: Model,
    sites: tuple[Site, ...],
    batch: Batch,
    writer: RunWriter,
    dtype: torch.dtype,
    *,
    skip: int,
) -> None:
    """Run one batch and append its windows from number `skip` on (the others are in the file).

    Every site's rows go to the writer at the moment they are computed.
    """
    names = [site.name for site in sites]
    mask = batch.mask
    options = {"attention_mask": mask.long().to(model.device)} if batch.is_padded else {}
    pad_id = int(batch.windows[0].ids[0])
    kept = batch.windows[skip:]
    first = sum(len(window.ids) for window in batch.windows[:skip])

    def keep(site: str, rows: torch.Tensor) -> None:
        flat = (rows if batch.is_padded else rows.flatten(0, 1))[first:]
        writer.put(site, torch.empty(flat.shape, dtype=dtype).copy_(flat))

    with (
        torch.inference_mode(),
        capture(
            model, *names, rows=Mask(mask) if batch.is_padded else "all", sink=keep, stop_early=True
        ),
    ):
        model(batch.ids(pad_id), use_cache=False, **options)
    writer.append(
        [window.name for window in kept],
        [window.index for window in kept],
        [window.ids for window in kept],
    )


def _shard_rows(
    batches: Sequence[Batch], sites: tuple[Site, ...], dtype: torch.dtype, *, skip: int
) -> int:
    """Rows of the next shard: whole batches until it is large enough, less what is in the file."""
    row_bytes = sum(site.width or 0 for site in sites) * STORED[dtype].itemsize
    n_rows = 0
    for batch in batches:
        n_rows += batch.n_tokens
        if n_rows * row_bytes >= SHARD_BYTES:
            break
    return n_rows - sum(len(window.ids) for window in batches[0].windows[:skip])


def _require_rows(sites: Iterable[Site]) -> None:
    for site in sites:
        if site.kind == "attn.pattern":
            raise OptionError(
                f"{site.name} has no row per token and is not stored whole; use its statistics "
                "(fluoroscope.probes.readings.sinks) or capture(...) on single texts."
            )


def _require_disk(path: Path, sites: tuple[Site, ...], n_tokens: int, dtype: torch.dtype) -> None:
    width = sum(site.width or 0 for site in sites)
    needed = n_tokens * width * STORED[dtype].itemsize
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise IncompleteError(
            f"{needed / 1e9:.1f} GB are needed beside {path.name}, {free / 1e9:.1f} GB are free. Ask "
            "for fewer tokens or sites, store bfloat16, or write to another disk."
        )


def _is_complete(part: Path) -> bool:
    return part.exists() and open_run(part).complete


def _digest(found: Sequence[Window]) -> str:
    digest = hashlib.sha256()
    for window in found:
        digest.update(window.name.encode())
        digest.update(window.ids.tobytes())
    return digest.hexdigest()
