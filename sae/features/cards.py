"""Feature cards: what a page says of each feature, as one result that needs no model to be drawn.

For the features asked for, or chosen by a rule that is stored: top and ordinary contexts with the
feature's activation on every token, the histogram of its activations, what its direction does to
the logits, whose direction is nearest, and who fires with it. An index lists many more features by
number.

Windows hold twenty tokens before the one shown and ten after. Ordinary contexts come from fifths of
the rows a feature fires on (equal numbers of rows), drawn evenly within each.

References:
    Bricken et al. 2023 (the page's parts); SAEDashboard (quantile groups).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int

from ...probes.errors import OptionError
from ...probes.model import Model
from ...probes.results import Result, described
from ...probes.runfile import Run
from ..metrics import Dictionary, atoms_of
from .directions import N_NEIGHBOURS, LogitEffects, nearest_directions
from .index import FeatureIndex

Progress = Callable[[int, int, str], None]

RULE = "density between 1e-4 and 0.1, largest kurtosis of logit effects first"
LOW, HIGH = 1e-4, 0.1
N_BINS = 24
N_POSITIONS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class CardOptions:
    """How much each card holds."""

    n_features: int = 8
    """Cards, where no features are asked for."""
    n_listed: int = 200
    """Features in the index."""
    n_top: int = 8
    """Strongest contexts."""
    n_per_group: int = 2
    """Ordinary contexts from each fifth."""
    before: int = 20
    """Tokens before."""
    after: int = 10
    """Tokens after."""
    seed: int = 0
    """Fixes which ordinary contexts are drawn."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if min(self.n_features, self.n_listed, self.n_top) < 1 or self.n_per_group < 0:
            raise OptionError("n_features, n_listed and n_top must be at least 1.")


@dataclass(frozen=True, kw_only=True)
class FeatureCards(Result):
    """Cards of some features, and an index of more."""

    kind: ClassVar[str] = "sae_features"
    site: str = described("site the dictionary reads")
    label: str = described("which dictionary")
    architecture: str = described("its architecture")
    rule: str = described("how features were chosen")
    n_rows: int = described("rows scored, without special and first tokens")
    d_sae: int = described("latents")
    listed: np.ndarray = described("features of the index", axes=("listed",))
    listed_density: np.ndarray = described("share of rows they fire on", axes=("listed",))
    listed_max: np.ndarray = described("largest activation", axes=("listed",))
    listed_mean: np.ndarray = described("mean activation where it fires", axes=("listed",))
    listed_top_ids: np.ndarray = described("token of the strongest row", axes=("listed",))
    listed_logit_ids: np.ndarray = described("token whose logit rises most", axes=("listed",))
    listed_logit: np.ndarray = described("its rise", axes=("listed",))
    listed_neighbour: np.ndarray = described("nearest decoder direction", axes=("listed",))
    listed_cosine: np.ndarray = described("its cosine", axes=("listed",))
    features: np.ndarray = described("features with a card", axes=("features",))
    density: np.ndarray = described("share of rows they fire on", axes=("features",))
    maximum: np.ndarray = described("largest activation", axes=("features",))
    mean_active: np.ndarray = described("mean activation where it fires", axes=("features",))
    decoder_norm: np.ndarray = described("length of the decoder direction", axes=("features",))
    share_of_l0: np.ndarray = described("share of all firings", axes=("features",))
    histogram: np.ndarray = described("rows per bin of activation", axes=("features", "bins"))
    edges: np.ndarray = described("edges of the bins", axes=("features", "edges"))
    position_density: np.ndarray = described(
        "share of rows it fires on by eighth of the document", axes=("features", "eighths")
    )
    context_ids: np.ndarray = described(
        "tokens; -1 beyond the document", axes=("features", "contexts", "positions")
    )
    context_values: np.ndarray = described(
        "the feature's activation", axes=("features", "contexts", "positions")
    )
    context_group: np.ndarray = described(
        "-1 strongest, 0 to 4 the fifth, -2 none", axes=("features", "contexts")
    )
    context_rows: np.ndarray = described("row of the run", axes=("features", "contexts"))
    before: int = described("tokens of a context before the one shown")
    up_ids: np.ndarray = described("tokens whose logits rise most", axes=("features", "ranks"))
    up_values: np.ndarray = described("their rise per unit", axes=("features", "ranks"))
    down_ids: np.ndarray = described("tokens whose logits fall most", axes=("features", "ranks"))
    down_values: np.ndarray = described("their fall per unit", axes=("features", "ranks"))
    neighbours: np.ndarray = described("nearest decoder directions", axes=("features", "ranks"))
    neighbour_cosines: np.ndarray = described("their cosines", axes=("features", "ranks"))
    companions: np.ndarray = described("latents that fire with it most", axes=("features", "ranks"))
    companion_shares: np.ndarray = described(
        "on what share of its strongest rows", axes=("features", "ranks")
    )


@torch.no_grad()
def feature_cards(
    run: Run,
    index: FeatureIndex,
    dictionary: Dictionary,
    *,
    model: Model | None = None,
    features: Sequence[int] | None = None,
    options: CardOptions | None = None,
    progress: Progress | None = None,
) -> FeatureCards:
    """Collect what the page shows.

    Args:
        run: The run the index is of.
        index: Its index.
        dictionary: The dictionary the index was made with.
        model: For logit effects; None leaves them out (all are 0).
        features: Which features get a card; None chooses by `RULE`.
        options: How much.
        progress: Called with cards done, cards in all.

    Raises:
        OptionError: A feature out of range, or no latent fires at all.
    """
    options = options or CardOptions()
    atoms = atoms_of(dictionary)
    effects = LogitEffects(model, atoms)
    listed = _listed(index, effects, options.n_listed)
    chosen = list(features) if features is not None else listed[: options.n_features].tolist()
    outside = [f for f in chosen if not 0 <= f < index.d_sae]
    if outside:
        raise OptionError(f"Features are numbered 0 to {index.d_sae - 1}, got {outside[0]}.")
    neighbours = nearest_directions(atoms, np.array([*listed, *chosen]))
    density, maxima, mean = index.density(), index.maxima(), index.mean_active()
    cards = []
    for number, feature in enumerate(chosen):
        cards.append(_card(run, index, feature, options))
        if progress is not None:
            progress(number + 1, len(chosen), f"feature {feature}")
    columns = {key: np.stack([card[key] for card in cards]) for key in cards[0]}
    up, down = effects.extremes(chosen)
    first, _ = effects.extremes(listed.tolist())
    n_listed = len(listed)
    return FeatureCards(
        site=index.meta["site"],
        label=index.meta["name"],
        architecture=str(getattr(dictionary, "architecture", type(dictionary).__name__)),
        rule=RULE if features is None else "asked for",
        n_rows=index.meta["n_kept"],
        d_sae=index.d_sae,
        listed=listed,
        listed_density=density[listed],
        listed_max=maxima[listed],
        listed_mean=mean[listed],
        listed_top_ids=_top_tokens(run, index, listed),
        listed_logit_ids=first[0][:, 0],
        listed_logit=first[1][:, 0],
        listed_neighbour=neighbours[0][:n_listed, 0],
        listed_cosine=neighbours[1][:n_listed, 0],
        features=np.array(chosen, dtype=np.int64),
        density=density[chosen],
        maximum=maxima[chosen],
        mean_active=mean[chosen],
        decoder_norm=atoms[chosen].norm(dim=1).numpy(),
        share_of_l0=index.counts()[chosen] / max(index.counts().sum(), 1),
        before=options.before,
        up_ids=up[0],
        up_values=up[1],
        down_ids=down[0],
        down_values=down[1],
        neighbours=neighbours[0][n_listed:],
        neighbour_cosines=neighbours[1][n_listed:],
        **columns,
    )


def _listed(index: FeatureIndex, effects: LogitEffects, n: int) -> Int[np.ndarray, " listed"]:
    """Features of the index, by the rule; others that fire where too few pass it.

    Raises:
        OptionError: No latent fires.
    """
    density = index.density()
    passing = np.flatnonzero((density >= LOW) & (density <= HIGH))
    order = passing[np.argsort(-effects.kurtosis(passing), kind="stable")][:n]
    if len(order) < n:
        others = np.setdiff1d(np.flatnonzero(density > 0), passing)
        order = np.concatenate([order, others[np.argsort(-density[others], kind="stable")]])[:n]
    if not len(order):
        raise OptionError(
            f"No latent of {index.meta['name']} fires on any row of {index.meta['site']}; is it the "
            "site it was trained on?"
        )
    return order.astype(np.int64)


def _top_tokens(run: Run, index: FeatureIndex, features: np.ndarray) -> Int[np.ndarray, " listed"]:
    rows = [index.top_rows(int(feature), 1)[0] for feature in features]
    return np.array([int(run.tokens.ids[row[0]]) if len(row) else -1 for row in rows])


def _card(
    run: Run, index: FeatureIndex, feature: int, options: CardOptions
) -> dict[str, np.ndarray]:
    window = {"before": options.before, "after": options.after}
    top = index.top_contexts(run, feature, options.n_top, **window)
    some, group = index.quantile_contexts(
        run, feature, per_group=options.n_per_group, seed=options.seed, **window
    )
    room = options.n_top + 5 * options.n_per_group
    width = options.before + 1 + options.after
    ids, values = np.full((room, width), -1), np.zeros((room, width), np.float32)
    groups, rows = np.full(room, -2), np.full(room, -1)
    n_top, n_some = len(top.rows), len(some.rows)
    spans = ((slice(0, n_top), top), (slice(options.n_top, options.n_top + n_some), some))
    for where, held in spans:
        ids[where], values[where], rows[where] = held.ids, held.values, held.rows
    groups[:n_top] = -1
    groups[options.n_top : options.n_top + n_some] = group
    sizes = np.abs(index.values_of(feature))
    high = float(sizes.max(initial=0.0)) or 1.0
    counts, edges = np.histogram(sizes, bins=N_BINS, range=(0.0, high))
    companions, shares = _companions(index, feature)
    return {
        "context_ids": ids,
        "context_values": values,
        "context_group": groups,
        "context_rows": rows,
        "histogram": counts,
        "edges": edges,
        "position_density": _by_position(run, index.rows_of(feature)),
        "companions": companions,
        "companion_shares": shares,
    }


def _by_position(run: Run, rows: np.ndarray) -> Float[np.ndarray, " eighths"]:
    """Share of the rows of each eighth of the documents on which a feature fires."""
    offsets = run.tokens.offsets
    lengths = np.diff(offsets)

    def eighth(where: np.ndarray) -> np.ndarray:
        document = np.searchsorted(offsets, where, side="right") - 1
        part = (where - offsets[document]) * N_POSITIONS // lengths[document]
        return np.bincount(part, minlength=N_POSITIONS)

    everyone = eighth(np.arange(offsets[-1]))
    return eighth(rows) / np.maximum(everyone, 1)


def _companions(index: FeatureIndex, feature: int) -> tuple[np.ndarray, np.ndarray]:
    """Latents that fire on most of a feature's strongest rows."""
    rows, _ = index.top_rows(feature, 256)
    counts = np.zeros(index.d_sae)
    for row in rows:
        counts[index.on_rows(int(row), int(row) + 1).latents] += 1
    counts[feature] = -1
    order = np.argsort(-counts, kind="stable")[:N_NEIGHBOURS]
    return order, np.maximum(counts[order], 0) / max(len(rows), 1)
