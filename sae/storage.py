"""A trained autoencoder on disk: `sae.safetensors` and `sae.json` in one folder.

The JSON holds the architecture, all options, the metadata (site, model, training) and a digest of the
weights, so that a file cut short or a pair mixed up is noticed. Unknown options are refused by name.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..probes.runfile.atomic import replacing
from .architectures import make_sae
from .base import SparseAutoencoder
from .errors import SaeFileError

SCHEMA = "fluoroscope.sae/1"
WEIGHTS, OPTIONS = "sae.safetensors", "sae.json"


def save_sae(sae: SparseAutoencoder, folder: str | Path) -> Path:
    """Write weights and options; each file appears whole or not at all.

    Args:
        sae: What to write; its `metadata` is written with it.
        folder: Made if new; an autoencoder there is replaced.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
    with replacing(folder / WEIGHTS) as partial:
        save_file(tensors, partial)
        digest = hashlib.sha256(partial.read_bytes()).hexdigest()
    stored = {
        "schema": SCHEMA,
        "options": sae.describe(),
        "metadata": sae.metadata,
        "weights_sha256": digest,
    }
    with replacing(folder / OPTIONS) as partial:
        partial.write_text(json.dumps(stored, indent=1, sort_keys=True))
    return folder


def load_sae(folder: str | Path) -> SparseAutoencoder:
    """Read an autoencoder that `save_sae` wrote.

    Raises:
        SaeFileError: There is none, it is damaged, or a newer version wrote it.
    """
    folder = Path(folder)
    stored = _read_options(folder / OPTIONS)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise SaeFileError(
            f"{folder.name} must hold {WEIGHTS}; it does not. Train or copy it again."
        )
    if hashlib.sha256(weights.read_bytes()).hexdigest() != stored["weights_sha256"]:
        raise SaeFileError(
            f"{WEIGHTS} in {folder.name} is not the file that {OPTIONS} describes; it is damaged or "
            "from another training. Copy the folder again."
        )
    options = dict(stored["options"])
    sae = make_sae(options.pop("architecture"), **options)
    try:
        sae.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise SaeFileError(
            f"The weights in {folder.name} do not fit its options: {error}"
        ) from error
    sae.metadata = stored["metadata"]
    return sae.eval()


def _read_options(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise SaeFileError(
            f"{path.parent.name} must hold {path.name}; it does not. `load_any` reads the formats of "
            "SAELens, sparsify and dictionary_learning."
        ) from error
    except ValueError as error:
        raise SaeFileError(f"{path} must be JSON: {error}") from error
    schema = stored.get("schema") if isinstance(stored, dict) else None
    if schema != SCHEMA:
        raise SaeFileError(
            f"{path} must be of schema {SCHEMA}, got {schema!r}; update fluoroscope."
        )
    missing = {"options", "metadata", "weights_sha256"} - stored.keys()
    if missing or "architecture" not in stored["options"]:
        raise SaeFileError(
            f"{path} lacks {', '.join(sorted(missing)) or 'the architecture'}; it is damaged. Copy the "
            "folder again."
        )
    return stored
