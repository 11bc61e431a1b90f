"""Text as HDF5 can hold it."""

from __future__ import annotations

from collections.abc import Iterable

import h5py
import numpy as np


def storable(text: str) -> str:
    r"""A text without NUL and lone surrogates, which HDF5 cannot hold: written out as \x00, \udc80."""
    kept = text.encode("utf-8", errors="backslashreplace").decode()
    return kept.replace("\x00", "\\x00")


def text_array(texts: Iterable[str]) -> np.ndarray:
    """Texts as an array that h5py writes as UTF-8 strings."""
    return np.array([storable(str(text)) for text in texts], dtype=h5py.string_dtype())
