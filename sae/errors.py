"""Errors of the sparse autoencoders' room.

FluoroscopeError
├── ActivationsError (ValueError)   rows that no dictionary can be trained on
├── SaeFileError (OSError)          a stored autoencoder that cannot be read as one
├── CheckpointError (OSError)       a checkpoint of another run, or a damaged one
└── DivergedError (RuntimeError)    training left the finite numbers; the last checkpoint is kept
"""

from __future__ import annotations

from ..probes.errors import FluoroscopeError


class ActivationsError(FluoroscopeError, ValueError):
    """Rows are not finite, do not vary, are too few, or have another width than expected."""


class SaeFileError(FluoroscopeError, OSError):
    """A folder or file does not hold an autoencoder in the format said."""


class CheckpointError(FluoroscopeError, OSError):
    """A checkpoint does not fit the training it is to continue, or is damaged."""


class DivergedError(FluoroscopeError, RuntimeError):
    """A loss became infinite or not a number."""
