"""Showing: one self-contained HTML page from one run file."""

from .figure import Figure
from .page import build_report
from .pdf import BrowserError, print_pdf
from .redact import RedactedRun
from .tokens import visible

__all__ = ["BrowserError", "Figure", "RedactedRun", "build_report", "print_pdf", "visible"]
