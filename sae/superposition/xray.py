"""What an X-ray of a model adds about superposition."""

from __future__ import annotations

from collections.abc import Callable

from ...probes.results import Result
from ...probes.runfile import Run
from .journal import Journal
from .layers import LayerOptions, layer_superposition

Progress = Callable[[int, int, str], None]

QUICK = LayerOptions(expansion=1.0, n_steps=150, batch_rows=256, max_rows=8192)
"""A profile of some seconds per layer; dictionaries this short fit poorly, which their FVU says."""


def superposition_readings(
    run: Run,
    options: LayerOptions = QUICK,
    *,
    n_sites: int = 5,
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Results for a run file, by name: effective features of some layers' residual stream.

    Empty where the run holds no residual stream, or too few rows for one batch.

    Args:
        run: A run file with rows of `layers.*.resid_post`.
        options: One recipe for all layers.
        n_sites: Layers read, evenly from first to last.
        progress: Called with (done, total, note).
    """
    held = [site for site in run.sites if site.endswith(".resid_post")]
    held.sort(key=lambda site: int(site.split(".")[1]))
    usable = run.tokens.offsets[-1] - options.skip_first * run.tokens.n_documents
    if not held or usable < 2 * options.batch_rows:
        return {}
    last = len(held) - 1
    chosen = list(
        dict.fromkeys(held[round(i * last / max(n_sites - 1, 1))] for i in range(n_sites))
    )
    journal = Journal(None, "layers", options)
    return {
        "superposition_layers": layer_superposition(
            run, chosen, options, journal=journal, progress=progress
        )
    }
