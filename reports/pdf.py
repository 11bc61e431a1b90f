"""The page as PDF, printed by an installed Chromium without a window.

Nothing is drawn anew: the print rules of the page's own style sheet do it, so what is printed here is
what a reader prints from a browser.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from ..probes.errors import FluoroscopeError
from ..probes.runfile.atomic import replacing

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
INSTALL = "apt-get install -y chromium"
TIMEOUT_S = 180.0


class BrowserError(FluoroscopeError, RuntimeError):
    """There is no browser to print with, or it did not print."""


def find_browser() -> str | None:
    """The Chromium to use: $FLUOROSCOPE_CHROMIUM, else one on the search path; None without."""
    named = os.environ.get("FLUOROSCOPE_CHROMIUM")
    if named:
        return named
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def print_pdf(page: Path, out: Path) -> Path:
    """Print a page to PDF.

    Args:
        page: The HTML file.
        out: The PDF to write; it appears whole or not at all.

    Raises:
        BrowserError: No Chromium is installed, or it failed.
    """
    browser = find_browser()
    if browser is None:
        raise BrowserError(
            f"A PDF is printed by Chromium, and none is installed. Install it ({INSTALL}), name one "
            f"with FLUOROSCOPE_CHROMIUM, or open {page.name} in any browser and print it from there."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial, tempfile.TemporaryDirectory(prefix="fluoroscope-") as profile:
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--no-pdf-header-footer",
            "--virtual-time-budget=20000",
            f"--print-to-pdf={partial.resolve()}",
            page.resolve().as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium refuses to run as root otherwise
        _run(command)
        if not partial.is_file() or not partial.read_bytes()[:5] == b"%PDF-":
            raise BrowserError(f"{browser} ended without writing a PDF of {page.name}.")
    return out


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except OSError as error:
        raise BrowserError(f"{command[0]} cannot be started: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise BrowserError(f"{command[0]} did not print within {TIMEOUT_S:.0f} s.") from error
    if done.returncode:
        raise BrowserError(
            f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}"
        )
