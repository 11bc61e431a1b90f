"""Showing: one self-contained HTML page from one run file."""

from .figure import Figure
from .page import build_report
from .pdf import BrowserError, print_pdf
from .redact import RedactedRun
from .tokens import visible
from .verdict import Statement, verdict_of

__all__ = [
    "BrowserError",
    "Figure",
    "RedactedRun",
    "Statement",
    "build_report",
    "print_pdf",
    "verdict_of",
    "visible",
]
