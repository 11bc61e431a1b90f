"""Everything a report says of trained dictionaries, as results for their run file."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

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
Keep = Callable[[str, Result], None]
"""Called as keep(name, result)."""


def dictionary_readings(
    model: Model | None,
    run: Run,
    dictionaries: Mapping[str, SparseAutoencoder],
    *,
    options: EvaluateOptions | None = None,
    cards: CardOptions | None = None,
    cards_of: Collection[str] | None = None,
    keep: Keep | None = None,
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
        cards_of: Names of the dictionaries whose features get cards; None: all.
        keep: Called with every result as soon as there is one, so that a later failure costs none.
        progress: Called with units done, units in all, what is done.
    """
    by_site: dict[str, dict[str, SparseAutoencoder]] = defaultdict(dict)
    for name, sae in dictionaries.items():
        site = str(sae.metadata.get("site", ""))
        fits = site in run.sites and run.activations[site].row_shape == (sae.d_in,)
        if fits and not sae.is_transcoder:
            by_site[site][name] = sae
    found: dict[str, Result] = {}

    def add(name: str, result: Result) -> None:
        found[name] = result
        if keep is not None:
            keep(name, result)

    for site, held in by_site.items():
        suffix = "" if len(by_site) == 1 else f"_{site}"
        compared = evaluate(run, site, held, model=model, options=options, progress=progress)
        add(f"sae_comparison{suffix}", compared)
        for name, sae in held.items():
            if cards_of is not None and name not in cards_of:
                continue
            index = open_index(run, site, sae, name=name, progress=progress)
            made = feature_cards(run, index, sae, model=model, options=cards, progress=progress)
            add(f"sae_features_{name}", made)
            if isinstance(sae, MpSae):
                add(f"sae_paths_{name}", pursuit_paths(run, site, sae, name=name))
    return found
