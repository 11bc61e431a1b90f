"""GGUF files, converted to what transformers opens in a second.

transformers reads them itself, dequantised; reading takes many times longer than opening the result,
so the result is kept (see `modelcache`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from .errors import DamagedModelError, MissingPackageError

MAGIC = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a file starts like a GGUF file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers' loading bars off the terminal for a while."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def convert_gguf(source: Path, folder: Path) -> None:
    """Write `source` as float32 safetensors, configuration and tokenizer into `folder`.

    Raises:
        DamagedModelError: The file cannot be read as GGUF.
        MissingPackageError: transformers needs another package to read it.
    """
    where, name = str(source.parent), source.name
    try:
        with without_progress_bars():
            tokenizer = AutoTokenizer.from_pretrained(where, gguf_file=name)
            module = AutoModelForCausalLM.from_pretrained(
                where, gguf_file=name, dtype=torch.float32
            )
    except (ValueError, KeyError, IndexError, OSError, ImportError, struct.error) as error:
        if "pip install" in str(error):
            raise MissingPackageError(f"Reading {name} needs a package: {error}") from error
        raise DamagedModelError(
            f"{name} could not be read as a GGUF model ({type(error).__name__}: {error}). "
            "If it was cut short, fetch it again; if its architecture is new, open the original "
            "checkpoint instead."
        ) from error
    # The weights are plain float32 now; without this, saving refuses them as "quantized".
    vars(module.config).pop("quantization_config", None)
    vars(module)["hf_quantizer"] = None
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
