"""The layout of a run file and its version, in one place. `docs/run-file.md` says it in prose.

    /                     attrs: schema, created, complete, provenance (JSON), shards (JSON)
    /tokens/ids           (N,)  int32, flat token axis                       [virtual: in shards]
    /tokens/offsets       (D+1,) int64; document d is ids[offsets[d]:offsets[d+1]]
    /documents/name       (D,) text;  /documents/index (D,) int64, number in the corpus
    /vocabulary/bytes     (B,) uint8, all token bytes; /vocabulary/offsets (V+1,); /vocabulary/special
    /activations/<site>   (N, ...) attrs dtype, axes                         [virtual: in shards]
    /trace/<engine>/      what a decoding engine did
    /results/<name>/      one group per analysis, attribute `kind`

bfloat16 has no HDF5 type: its bits are stored as uint16 and the attribute `dtype` says so.
"""

from __future__ import annotations

import numpy as np
import torch

SCHEMA = 1
"""Version of the layout; readers refuse newer ones."""

ROOT_KIND = "fluoroscope run"
"""Value of the root attribute `kind`, which tells a run file from any other HDF5 file."""

STORED = {
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(np.uint16),
    torch.int64: np.dtype(np.int64),
    torch.int32: np.dtype(np.int32),
}
"""How each torch type is stored."""


def dtype_name(dtype: torch.dtype) -> str:
    """Name of a torch type as stored in the attribute `dtype`."""
    return str(dtype).removeprefix("torch.")


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The tensor's bytes as an array of the stored type, without copying where possible."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def to_torch(array: np.ndarray, dtype: str) -> torch.Tensor:
    """The tensor behind a stored array, without copying."""
    if dtype == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
