"""Errors of the superposition measure.

FluoroscopeError
├── BadCodesError (ValueError)          codes that are not finite, or of another width
└── NotConvergedError (ValueError)      layers were to be ranked whose curves still rise
"""

from __future__ import annotations

from ...probes.errors import FluoroscopeError


class BadCodesError(FluoroscopeError, ValueError):
    """Codes, masses or norms that no share can be computed from."""


class NotConvergedError(FluoroscopeError, ValueError):
    """Every layer's F(n) still rises: an order among them would be an order of sample sizes."""
