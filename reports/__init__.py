"""Showing: one self-contained HTML page from one run file."""

from .figure import Figure
from .page import build_report
from .tokens import visible

__all__ = ["Figure", "build_report", "visible"]
