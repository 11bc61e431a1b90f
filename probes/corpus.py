"""Corpora: text to read, from wherever it lies. Nothing is downloaded.

The default is the running Python's own standard library, source and docstrings: real text of which
every machine that runs this has some.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import CorpusError, MissingPackageError

TEXT_FIELDS = ("text", "content", "prompt", "document", "body", "code")
"""Fields that hold the text of a record, looked for in this order."""

_SKIPPED = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "__pycache__",
    "lib2to3",
}


@dataclass(frozen=True)
class Document:
    """One text."""

    name: str
    """Where it is from, relative to the corpus."""
    text: str


@dataclass(frozen=True)
class Corpus:
    """Documents in a fixed order. Iterating reads them anew each time."""

    description: str
    """What it is, in words, without local paths."""
    read: Callable[[], Iterator[Document]]
    licence: str | None = None

    def __iter__(self) -> Iterator[Document]:
        return self.read()

    def __repr__(self) -> str:
        return f"Corpus({self.description})"


def open_corpus(
    spec: str | Path | Sequence[str | Path] | None = None, *, field: str | None = None
) -> Corpus:
    """Open text for reading.

    Args:
        spec: A text file; a directory (of text files, or a saved Hugging Face dataset); a .jsonl or
            .parquet file; several of these; None for the running Python's standard library.
        field: Which field of a record holds the text; None looks for a usual name.

    Raises:
        CorpusError: Nothing is there, it is empty, or it is not in the format its name says.
        MissingPackageError: Reading it needs a package that is not installed.
    """
    if spec is None or (not isinstance(spec, str | Path) and not list(spec)):
        return standard_library()
    paths = [Path(spec)] if isinstance(spec, str | Path) else [Path(part) for part in spec]
    for path in paths:
        if not path.exists():
            raise CorpusError(
                f"No text at {path}: give a file, a directory, .jsonl, .parquet or a saved dataset. "
                "Leave it out to read Python's standard library."
            )
    names = ", ".join(path.name for path in paths)

    def read() -> Iterator[Document]:
        for path in paths:
            yield from _read(path, field)

    return Corpus(names, read)


def from_texts(texts: Sequence[str], description: str = "texts given in code") -> Corpus:
    """A corpus of strings in hand."""
    return Corpus(
        description, lambda: (Document(f"text {i}", text) for i, text in enumerate(texts))
    )


def standard_library() -> Corpus:
    """The running Python's standard library: its modules' source, docstrings included.

    In an order that is fixed but mixes packages, so that the first few modules are a fair sample.
    """
    root = Path(sysconfig.get_path("stdlib"))

    def read() -> Iterator[Document]:
        inside = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
        kept = (name for name in inside if not _SKIPPED.intersection(Path(name).parts))
        for name in sorted(kept, key=_scattered):
            text = _decoded(root / name)
            if text:
                yield Document(name, text)

    return Corpus(
        f"standard library of Python {platform.python_version()} (source and docstrings)",
        read,
        licence="PSF-2.0",
    )


def corpus_digest(documents: Sequence[Document]) -> str:
    """SHA-256 over names and texts."""
    digest = hashlib.sha256()
    for document in documents:
        digest.update(json.dumps([document.name, document.text]).encode())
    return digest.hexdigest()


def _read(path: Path, field: str | None) -> Iterator[Document]:
    if path.is_dir():
        saved = (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists()
        yield from _saved_dataset(path, field) if saved else _directory(path, field)
    elif path.suffix in (".jsonl", ".ndjson"):
        yield from _jsonl(path, field)
    elif path.suffix == ".parquet":
        yield from _parquet(path, field)
    else:
        text = _decoded(path)
        if text is None:
            raise CorpusError(f"{path.name} must be UTF-8 text; it is not. Convert it first.")
        yield Document(path.name, text)


def _directory(path: Path, field: str | None) -> Iterator[Document]:
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        name = file.relative_to(path).as_posix()
        if file.suffix in (".jsonl", ".ndjson", ".parquet"):
            yield from (Document(f"{name}: {d.name}", d.text) for d in _read(file, field))
        elif (text := _decoded(file)) is not None:
            yield Document(name, text)


def _jsonl(path: Path, field: str | None) -> Iterator[Document]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except ValueError as error:
                raise CorpusError(
                    f"{path.name}, line {number}: expected one JSON value a line ({error})."
                ) from error
            yield Document(f"{path.name}:{number}", _text_of(record, field, path.name, number))


def _parquet(path: Path, field: str | None) -> Iterator[Document]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise _missing(path.name) from error
    file = parquet.ParquetFile(path)
    number = 0
    for batch in file.iter_batches(256):
        for record in batch.to_pylist():
            number += 1
            yield Document(f"{path.name}:{number}", _text_of(record, field, path.name, number))


def _saved_dataset(path: Path, field: str | None) -> Iterator[Document]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise _missing(path.name) from error
    loaded = load_from_disk(str(path))
    splits = loaded if isinstance(loaded, DatasetDict) else {path.name: loaded}
    for split, records in splits.items():
        for number, record in enumerate(records, start=1):
            yield Document(f"{split}:{number}", _text_of(record, field, path.name, number))


def _scattered(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _text_of(record: Any, field: str | None, where: str, number: int) -> str:
    if isinstance(record, str):
        return record
    if isinstance(record, dict):
        names = [field] if field else [name for name in TEXT_FIELDS if name in record]
        if names and isinstance(record.get(names[0]), str):
            return record[names[0]]
        held = ", ".join(map(str, record))
        expected = repr(field) if field else f"one of {', '.join(TEXT_FIELDS)}"
        raise CorpusError(
            f"{where}, record {number}: its text must be in field {expected}; it has {held}. "
            "Say which: open_corpus(..., field=...)."
        )
    raise CorpusError(f"{where}, record {number}: expected text or an object, got {record!r:.40}.")


def _decoded(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        return None


def _missing(name: str) -> MissingPackageError:
    return MissingPackageError(
        f"Reading {name} needs a package that is not installed: pip install 'fluoroscope[corpora]'"
    )
