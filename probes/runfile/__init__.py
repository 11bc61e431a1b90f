"""The run file: one HDF5 file per run, the interface between the rooms."""

from .activations import Activations
from .create import create_run, link_parts, remove_run
from .provenance import Provenance
from .reader import Run, open_run
from .tokens import Tokens
from .verify import VerifyReport
from .writer import RunWriter

__all__ = [
    "Activations",
    "Provenance",
    "Run",
    "RunWriter",
    "Tokens",
    "VerifyReport",
    "create_run",
    "link_parts",
    "open_run",
    "remove_run",
]
