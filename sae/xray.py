"""What an X-ray of a model adds for trained dictionaries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from ..probes.model import Model
from ..probes.results import Result
from ..probes.runfile import Run
from .base import SparseAutoencoder
from .evaluate import evaluate
from .features.asking import open_index
from .features.cards import CardOptions, feature_cards
from .features.paths import pursuit_paths
from .heldout import EvaluateOptions
from .mp import MpSae

Progress = Callable[[int, int, str], None]


def dictionary_readings(
    model: Model,
    run: Run,
    dictionaries: Mapping[str, SparseAutoencoder],
    *,
    options: EvaluateOptions | None = None,
    cards: CardOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Result]:
    """Results for a run file, by name: a comparison per site, and cards of each dictionary's features.

    Dictionaries whose site (`metadata["site"]`) the run holds no rows of, or of another width, are left
    out, and so are transcoders; empty where none is left. Feature indices are written beside the run.

    Args:
        model: The run's model.
        run: The run file.
        dictionaries: Trained autoencoders by name.
        options: How much to measure.
        cards: How much each card holds.
        progress: Called with units done, units in all, what is done.
    """
    by_site: dict[str, dict[str, SparseAutoencoder]] = defaultdict(dict)
    for name, sae in dictionaries.items():
        site = str(sae.metadata.get("site", ""))
        fits = site in run.sites and run.activations[site].row_shape == (sae.d_in,)
        if fits and not sae.is_transcoder:
            by_site[site][name] = sae
    found: dict[str, Result] = {}
    for site, held in by_site.items():
        suffix = "" if len(by_site) == 1 else f"_{site}"
        found[f"sae_comparison{suffix}"] = evaluate(
            run, site, held, model=model, options=options, progress=progress
        )
        for name, sae in held.items():
            index = open_index(run, site, sae, name=name, progress=progress)
            found[f"sae_features_{name}"] = feature_cards(
                run, index, sae, model=model, options=cards, progress=progress
            )
            if isinstance(sae, MpSae):
                found[f"sae_paths_{name}"] = pursuit_paths(run, site, sae, name=name)
    return found
