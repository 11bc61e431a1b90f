"""Estimates of the information chapter, as columns of a table and in words."""

from __future__ import annotations

from typing import Any

import numpy as np

CHAPTER = "Information"
INTERVAL = "95 % bootstrap over documents"


def bounded_columns(name: str, estimates: np.ndarray) -> dict[str, Any]:
    """Value, low and high of estimates as three columns."""
    ends = ("", " low", " high")
    return {f"{name}{end}": estimates[:, i].tolist() for i, end in enumerate(ends)}


def in_words(estimate: np.ndarray) -> str:
    """An estimate and its bounds."""
    return f"{estimate[0]:.3f} ({estimate[1]:.3f} to {estimate[2]:.3f})"
