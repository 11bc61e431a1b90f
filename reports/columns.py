"""Columns for the page's scripts: typed arrays in base64, compressed where they are large.

A hundred thousand rows as JSON are 2.9 MB of text that has to be parsed; as typed arrays they are views
into one buffer. Arrays are little-endian and begin at multiples of eight bytes, which views need.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from ..probes.errors import OptionError

COMPRESS_FROM = 32_768
"""Bytes from which columns are compressed; below, inflating costs more than it saves."""
KINDS = ("u1", "u2", "u4", "i1", "i2", "i4", "f4")
"""Types of column; those a browser has arrays for and that cost at most four bytes."""
ALIGNED = 8


def packed(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Columns as one JSON object: where each lies, and all of them in base64.

    Args:
        columns: One-dimensional arrays, or such as are to be read in row-major order, of a type of
            `KINDS`.

    Raises:
        OptionError: A column has another type.
    """
    places: dict[str, list[Any]] = {}
    data = bytearray()
    for name, values in columns.items():
        kind = f"{values.dtype.kind}{values.dtype.itemsize}"
        if kind not in KINDS:
            raise OptionError(
                f"Column {name} must be of one of {', '.join(KINDS)}, got {values.dtype}; convert it."
            )
        data.extend(b"\0" * (-len(data) % ALIGNED))
        places[name] = [kind, len(data), int(values.size)]
        data.extend(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).tobytes())
    large = len(data) > COMPRESS_FROM
    stored = gzip.compress(bytes(data), 6, mtime=0) if large else bytes(data)
    return {"columns": places, "gzip": large, "data": base64.b64encode(stored).decode()}


def unpacked(held: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Columns from what `packed` made."""
    data = base64.b64decode(held["data"])
    data = gzip.decompress(data) if held["gzip"] else data
    return {
        name: np.frombuffer(data, dtype=f"<{kind}", count=count, offset=start)
        for name, (kind, start, count) in held["columns"].items()
    }


def smallest(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the smallest type that holds them."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in ("u1", "u2", "u4") if low >= 0 else ("i1", "i2", "i4"):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    raise OptionError(f"Whole numbers of a column must fit into 32 bits, got {low} to {high}.")


def as_json(value: Any) -> str:
    """JSON as every reader takes it: sorted, without spaces, and null for NaN and infinities."""
    return json.dumps(_finite(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(held) for key, held in value.items()}
    return [_finite(held) for held in value] if isinstance(value, list | tuple) else value


def inert(value: Any) -> Markup:
    """JSON that cannot end its script element or be taken for markup."""
    text = as_json(value)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
