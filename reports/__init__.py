"""Showing: one self-contained HTML page from one run file."""

from .contents import figures_of
from .figure import Figure
from .files import choose, save_figures
from .following import follow_run
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
    "choose",
    "figures_of",
    "follow_run",
    "print_pdf",
    "save_figures",
    "verdict_of",
    "visible",
]
