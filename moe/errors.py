"""Errors of the experts' room.

FluoroscopeError
├── NoExpertsError (ValueError)         the model, or the layers asked for, have no experts
└── UnknownExpertError (LookupError)    no such expert in that layer
"""

from __future__ import annotations

from ..probes.errors import FluoroscopeError


class NoExpertsError(FluoroscopeError, ValueError):
    """The model, or every layer asked for, is dense."""


class UnknownExpertError(FluoroscopeError, LookupError):
    """A layer has no expert of that number, or is dense."""
